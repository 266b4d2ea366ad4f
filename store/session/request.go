package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

type requestID struct{}

// WithRequest returns a context whose calls belong to one request, named by an id that nobody else uses and nobody can guess: a
// caller that did not get the answer to a revocation or a rotation repeats it under the same id and gets the first attempt's
// answer. Without an id a repeated revocation is another one: it finds nothing left to end, or ends what was created since. An
// empty id means a random one.
func WithRequest(ctx context.Context, id string) context.Context {
	if id == "" {
		id = rand.Text()
	}
	return context.WithValue(ctx, requestID{}, id)
}

// requestKey returns the key of the answer to a request in a partition; ok is false if the context names no request. The same
// id with another operation or target is another request.
func requestKey(ctx context.Context, p partition, namespace string, operation ...string) (key string, ok bool) {
	id, ok := ctx.Value(requestID{}).(string)
	if !ok {
		return "", false
	}
	sum := sha256.Sum256([]byte(strings.Join(append(operation, id), "\x00")))
	return "ld:r:" + p.tag() + ":" + namespace + ":" + hex.EncodeToString(sum[:16]), true
}

// saltOf returns the salt of a rotation: a random one, or that of the request, which is the same when it is repeated.
func saltOf(ctx context.Context, sessionID string) []byte {
	id, ok := ctx.Value(requestID{}).(string)
	if !ok {
		return newSalt()
	}
	sum := sha256.Sum256([]byte("salt\x00" + sessionID + "\x00" + id))
	return sum[:saltBytes]
}
