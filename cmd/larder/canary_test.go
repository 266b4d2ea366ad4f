package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/cmd/larder/lardertest"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
	"github.com/berthcare/larder/store/redistest"
)

// Every secret and every piece of data in this test contains the canary. The canary must not appear in logs, errors, metrics,
// pages or the command line, whether calls succeed or fail.
func TestSecretsAndDataTurnUpNowhere(t *testing.T) {
	t.Parallel()
	const canary = "cAnArY"
	server := redistest.Start(t, redistest.Options{Password: canary + "-password"})
	passwordFile := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passwordFile, []byte(canary+"-password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// At these settings every call is logged, and every call and round trip as a slow one.
	p := lardertest.Start(t, []string{
		"REDIS_URL=" + server.URL(), "REDIS_PASSWORD_FILE=" + passwordFile, "LARDER_LOG_LEVEL=debug", "LARDER_SLOW_CALL=1ns",
	}, "serve")
	p.Stdout.Await(t, "connected to redis")
	listening := p.Stdout.Await(t, "listening")
	conn, err := grpc.NewClient(listening["grpc"].(string), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close()
	cache, sessions, tokens := cachev1.NewCacheServiceClient(conn), sessionv1.NewSessionServiceClient(conn), tokenv1.NewTokenServiceClient(conn)

	var seen []string // errors that callers have received
	failed := 0
	note := func(err error) {
		if err != nil {
			failed++
			seen = append(seen, err.Error(), prototext.Format(status.Convert(err).Proto()))
		}
	}
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", canary, "x-request-id", canary), time.Minute)
	defer cancel()
	token := "ls1_" + strings.Repeat("A", 66-len(canary)) + canary
	round := func() {
		key := canary + "-key"
		ttl := &cachev1.SetRequest_Ttl{Ttl: durationpb.New(time.Minute)}
		_, err := cache.Set(ctx, &cachev1.SetRequest{Key: key, Value: []byte(canary), Tags: []string{canary}, ContentType: canary, Expiry: ttl})
		note(err)
		_, err = cache.Set(ctx, &cachev1.SetRequest{Key: strings.Repeat(canary, 400), Value: []byte(canary), Expiry: ttl})
		note(err)
		_, err = cache.Set(ctx, &cachev1.SetRequest{Namespace: canary, Key: key, Tags: []string{strings.Repeat(canary, 50)}, Precondition: &cachev1.SetRequest_IfMatch{IfMatch: canary}})
		note(err)
		_, err = cache.Get(ctx, &cachev1.GetRequest{Key: key, IfNoneMatch: canary})
		note(err)
		_, err = cache.Get(ctx, &cachev1.GetRequest{Key: key})
		note(err)
		_, err = cache.Increment(ctx, &cachev1.IncrementRequest{Key: key})
		note(err)
		_, err = cache.BatchGet(ctx, &cachev1.BatchGetRequest{Keys: []string{key, canary + "\x00"}})
		note(err)
		_, err = cache.ListKeys(ctx, &cachev1.ListKeysRequest{Pattern: "[" + canary, PageToken: canary})
		note(err)
		_, err = cache.ListKeys(ctx, &cachev1.ListKeysRequest{Pattern: canary + "*", PageToken: canary})
		note(err)
		_, err = cache.Get(ctx, &cachev1.GetRequest{Key: canary + "-hash"}) // of another type
		note(err)
		created, err := sessions.CreateSession(ctx, &sessionv1.CreateSessionRequest{
			Subject: canary, Attributes: map[string]string{canary: canary}, Device: &sessionv1.Device{Ip: canary, UserAgent: canary, Label: canary},
		})
		note(err)
		_, err = sessions.CreateSession(ctx, &sessionv1.CreateSessionRequest{Subject: strings.Repeat(canary, 100), Attributes: map[string]string{"": canary}})
		note(err)
		for _, presented := range []string{token, canary, created.GetSessionToken()} {
			_, err = sessions.ValidateSession(ctx, &sessionv1.ValidateSessionRequest{SessionToken: presented})
			note(err)
			_, err = sessions.UpdateSession(ctx, &sessionv1.UpdateSessionRequest{
				Target:        &sessionv1.UpdateSessionRequest_SessionToken{SessionToken: presented},
				SetAttributes: map[string]string{canary: canary}, ExpectedVersion: 99,
			})
			note(err)
		}
		if created.GetSessionToken() != "" {
			// Larder makes the token, so that it does not contain the canary. It is looked for as well.
			seen = append(seen, "issued "+created.GetSessionToken())
		}
		for _, kind := range []tokenv1.TokenKind{tokenv1.TokenKind_TOKEN_KIND_LINK, tokenv1.TokenKind_TOKEN_KIND_CODE, tokenv1.TokenKind_TOKEN_KIND_RECOVERY, 9} {
			req := &tokenv1.IssueTokenRequest{Subject: canary + kind.String(), Purpose: strings.ToLower(canary), Kind: kind, Payload: canary, RequestId: canary}
			if kind == tokenv1.TokenKind_TOKEN_KIND_CODE { // long enough to be found nowhere by chance
				req.Alphabet, req.Length, req.Binding = tokenv1.CodeAlphabet_CODE_ALPHABET_CROCKFORD, 16, canary
			}
			token, err := tokens.IssueToken(ctx, req)
			note(err)
			for _, secret := range append(token.GetRecoveryCodes(), token.GetToken(), token.GetCode()) {
				if secret != "" {
					seen = append(seen, "issued "+secret)
				}
			}
			presented := &tokenv1.ConsumeTokenRequest{Purpose: strings.ToLower(canary), Binding: canary, Source: canary, RequestId: canary, Code: canary}
			for _, target := range []*tokenv1.ConsumeTokenRequest{
				{Target: &tokenv1.ConsumeTokenRequest_Token{Token: token.GetToken()}},
				{Target: &tokenv1.ConsumeTokenRequest_TokenId{TokenId: token.GetTokenId()}},
				{Target: &tokenv1.ConsumeTokenRequest_Subject{Subject: canary}},
			} {
				presented.Target = target.Target
				_, err := tokens.ConsumeToken(ctx, presented)
				note(err)
			}
			presented.Code = token.GetCode()
			presented.Target = &tokenv1.ConsumeTokenRequest_TokenId{TokenId: token.GetTokenId()}
			_, err = tokens.ConsumeToken(ctx, presented)
			note(err)
		}
		_, err = tokens.InspectToken(ctx, &tokenv1.InspectTokenRequest{Target: &tokenv1.InspectTokenRequest_Token{Token: canary}, Purpose: canary})
		note(err)
		_, err = tokens.InspectSubject(ctx, &tokenv1.InspectSubjectRequest{Subject: canary, Source: canary})
		note(err)
		_, err = tokens.ClaimOnce(ctx, &tokenv1.ClaimOnceRequest{Scope: canary, Id: canary, Ttl: durationpb.New(time.Minute), RequestId: canary})
		note(err)
		_, err = tokens.ClaimCounter(ctx, &tokenv1.ClaimCounterRequest{Scope: canary, Id: canary, Value: -1})
		note(err)
		_, err = sessions.GetSession(ctx, &sessionv1.GetSessionRequest{SessionId: canary})
		note(err)
		_, err = sessions.ListSubjectSessions(ctx, &sessionv1.ListSubjectSessionsRequest{Subject: canary, PageToken: canary})
		note(err)
		note(conn.Invoke(ctx, "/"+canary+"/"+canary, &cachev1.GetRequest{}, &cachev1.GetResponse{}))
	}
	server.Do(t, "HSET", "ld:c:{default:"+canary+"-hash}", canary, canary)
	round()
	server.Do(t, "CONFIG", "SET", "maxmemory", "1")
	round()
	server.Kill()
	round()
	p.Stdout.Await(t, "redis connection lost")
	if failed < 30 {
		t.Errorf("%d calls have failed, want at least 30: otherwise the test does not see enough errors", failed)
	}

	places := map[string]string{"standard output": p.Stdout.String(), "standard error": p.Stderr.String()}
	var issued []string
	for i, text := range seen {
		if token, ok := strings.CutPrefix(text, "issued "); ok {
			issued = append(issued, token)
			continue
		}
		places[fmt.Sprintf("error %d", i)] = text
	}
	for _, page := range []string{"/metrics", "/health"} {
		reply, err := http.Get("http://" + listening["admin"].(string) + page)
		if err != nil {
			t.Fatalf("get %s: %v", page, err)
		}
		text, err := io.ReadAll(reply.Body)
		reply.Body.Close()
		if err != nil {
			t.Fatalf("read %s: %v", page, err)
		}
		places[page] = string(text)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID()))
	if err == nil { // the file exists on Linux only
		places["command line"] = string(cmdline)
	}
	if metrics, log := len(places["/metrics"]), len(places["standard output"]); metrics < 1000 || log < 1000 || len(issued) == 0 {
		t.Errorf("there are %d bytes of metrics, %d bytes of logs and %d issued tokens, want at least 1000, 1000 and 1", metrics, log, len(issued))
	}
	for place, text := range places {
		for _, secret := range append(issued, canary) {
			for line := range strings.Lines(text) {
				if strings.Contains(strings.ToLower(line), strings.ToLower(secret)) {
					t.Errorf("%s contains %q, want it nowhere: %s", place, secret, line)
				}
			}
		}
	}
}
