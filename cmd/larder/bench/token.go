package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// token issues a link for a new subject and consumes it, as a password reset does. What it leaves in Redis expires.
func token(ctx context.Context, c *caller) (int, error) {
	const purpose, payload = "bench", "ann@example.com"
	issued, err := c.token.IssueToken(ctx, &tokenv1.IssueTokenRequest{
		Namespace: c.namespace, Subject: rand.Text(), Purpose: purpose, Payload: payload,
		Kind: tokenv1.TokenKind_TOKEN_KIND_LINK, Ttl: durationpb.New(time.Minute),
	})
	if err != nil {
		return 0, err
	}
	consumed, err := c.token.ConsumeToken(ctx, &tokenv1.ConsumeTokenRequest{
		Namespace: c.namespace, Purpose: purpose, Target: &tokenv1.ConsumeTokenRequest_Token{Token: issued.GetToken()},
	})
	if err != nil {
		return 0, err
	}
	if consumed.GetOutcome() != tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ACCEPTED || consumed.GetPayload() != payload {
		return 0, fmt.Errorf("ConsumeToken returned %v and %q, want the token accepted and its payload", consumed.GetOutcome(), consumed.GetPayload())
	}
	return 1, nil
}

// A floorToken implements the rpcs of larder.token.v1.TokenService that the workloads call.
type floorToken struct {
	tokenv1.UnimplementedTokenServiceServer

	tokens sync.Map // token -> *tokenv1.ConsumeTokenResponse
}

// IssueToken stores a token under a random secret.
func (s *floorToken) IssueToken(_ context.Context, r *tokenv1.IssueTokenRequest) (*tokenv1.IssueTokenResponse, error) {
	var random [49]byte
	_, _ = rand.Read(random[:])
	token := "lt1_" + base64.RawURLEncoding.EncodeToString(random[:])
	id := token[4:27]
	s.tokens.Store(token, &tokenv1.ConsumeTokenResponse{
		Outcome: tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_ACCEPTED, Payload: r.GetPayload(), Subject: r.GetSubject(), TokenId: id,
	})
	return &tokenv1.IssueTokenResponse{
		Outcome: tokenv1.IssueTokenOutcome_ISSUE_TOKEN_OUTCOME_ISSUED, TokenId: id, Token: token, ExpireTime: timestamppb.New(time.Now().Add(r.GetTtl().AsDuration()).Truncate(time.Millisecond)),
		ExpiresIn: r.GetTtl(), RetryAfter: durationpb.New(time.Minute),
	}, nil
}

var floorIncorrect = &tokenv1.ConsumeTokenResponse{Outcome: tokenv1.ConsumeTokenOutcome_CONSUME_TOKEN_OUTCOME_INCORRECT}

// ConsumeToken returns what was stored and forgets it.
func (s *floorToken) ConsumeToken(_ context.Context, r *tokenv1.ConsumeTokenRequest) (*tokenv1.ConsumeTokenResponse, error) {
	if resp, ok := s.tokens.LoadAndDelete(r.GetToken()); ok {
		return resp.(*tokenv1.ConsumeTokenResponse), nil
	}
	return floorIncorrect, nil
}
