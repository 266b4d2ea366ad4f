package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// A logbook keeps the lines of a logger.
type logbook struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func newLogbook() (*logbook, *slog.Logger) {
	l := &logbook{wrote: make(chan struct{}, 100)}
	return l, slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrote <- struct{}{}
	return l.text.Write(p)
}

// lines returns the lines so far, without the attributes that differ from run to run.
func (l *logbook) lines(t *testing.T) (lines []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line %q: error %v, want valid JSON", line, err)
		}
		if took, ok := m["took"].(float64); !ok || took <= 0 {
			t.Errorf("took = %v in the log, want a number above 0", m["took"])
		}
		delete(m, "took")
		delete(m, "time")
		lines = append(lines, m)
	}
	return lines
}

func TestOneLinePerCall(t *testing.T) {
	t.Parallel()
	const get, walk = "/larder.cache.v1.CacheService/Get", "/larder.cache.v1.CacheService/DeleteMatching"
	unavailable := map[string]any{"level": "WARN", "msg": "larder call", "code": "Unavailable", "reason": "REDIS_UNAVAILABLE", "error": "told to fail"}
	with := func(line map[string]any, method string) []map[string]any {
		line["method"] = method
		return []map[string]any{line}
	}
	progress := func(s grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
		_ = s.Send(&cachev1.DeleteMatchingResponse{DeletedCount: 1})
		return s.Send(&cachev1.DeleteMatchingResponse{DeletedCount: 2, Done: true})
	}
	ok := map[string]any{"level": "DEBUG", "msg": "larder call", "code": "OK"}

	t.Run("Success", func(t *testing.T) {
		book, logger := newLogbook()
		c := connect(t, client.Options{Target: serve(t, hit).addr, Logger: logger})
		_ = second(c.Cache.Get(t.Context(), "k"))
		if diff := cmp.Diff(with(ok, get), book.lines(t)); diff != "" {
			t.Errorf("log lines (-want +got):\n%s", diff)
		}
	})
	t.Run("FailureAfterRetries", func(t *testing.T) {
		book, logger := newLogbook()
		c := connect(t, client.Options{Target: serve(t, refuse("0")).addr, Logger: logger})
		_ = second(c.Cache.Get(t.Context(), "k"))
		if diff := cmp.Diff(with(unavailable, get), book.lines(t)); diff != "" {
			t.Errorf("log lines (-want +got):\n%s", diff)
		}
	})
	t.Run("StreamSuccess", func(t *testing.T) {
		book, logger := newLogbook()
		b := serve(t, nil)
		b.walk = progress
		c := connect(t, client.Options{Target: b.addr, Logger: logger})
		_ = end(c.Cache.DeleteMatching(t.Context(), "*", client.DeleteMatchingOptions{}))
		if diff := cmp.Diff(with(ok, walk), book.lines(t)); diff != "" {
			t.Errorf("log lines (-want +got):\n%s", diff)
		}
	})
	t.Run("StreamFailureAfterRetries", func(t *testing.T) {
		book, logger := newLogbook()
		c := connect(t, client.Options{Target: serve(t, refuse("0")).addr, Logger: logger})
		_ = end(c.Cache.DeleteMatching(t.Context(), "*", client.DeleteMatchingOptions{}))
		if diff := cmp.Diff(with(unavailable, walk), book.lines(t)); diff != "" {
			t.Errorf("log lines (-want +got):\n%s", diff)
		}
	})
	t.Run("StreamLeftByItsCaller", func(t *testing.T) {
		book, logger := newLogbook()
		b := serve(t, nil)
		ended := make(chan struct{})
		b.walk = func(s grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
			defer close(ended)
			_ = s.Send(&cachev1.DeleteMatchingResponse{DeletedCount: 1})
			<-s.Context().Done()
			return s.Context().Err()
		}
		c := connect(t, client.Options{Target: b.addr, Logger: logger})
		for range c.Cache.DeleteMatching(t.Context(), "*", client.DeleteMatchingOptions{}) {
			break
		}
		<-ended // the server has noticed
		<-book.wrote
		cancelled := map[string]any{"level": "DEBUG", "msg": "larder call", "code": "Canceled", "reason": "", "error": "context canceled"}
		if diff := cmp.Diff(with(cancelled, walk), book.lines(t)); diff != "" {
			t.Errorf("log lines (-want +got):\n%s", diff)
		}
	})
	t.Run("CancelledByItsCaller", func(t *testing.T) {
		book, logger := newLogbook()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		b := serve(t, func(ctx context.Context, _ any) (any, error) {
			cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		})
		c := connect(t, client.Options{Target: b.addr, Logger: logger})
		_ = second(c.Cache.Get(ctx, "k"))
		cancelled := map[string]any{"level": "DEBUG", "msg": "larder call", "code": "Canceled", "reason": "", "error": "context canceled"}
		if diff := cmp.Diff(with(cancelled, get), book.lines(t)); diff != "" {
			t.Errorf("log lines (-want +got):\n%s", diff)
		}
	})
}

func TestSecretsAreNeverLogged(t *testing.T) {
	t.Parallel()
	const secret = "do-not-log-me"
	book, logger := newLogbook()
	answers := []proto.Message{
		&cachev1.SetResponse{},
		&cachev1.GetResponse{Value: []byte(secret)},
		&sessionv1.CreateSessionResponse{SessionToken: secret},
	}
	b := serve(t, func(context.Context, any) (any, error) {
		if len(answers) == 0 {
			return nil, larderError(codes.InvalidArgument, "INVALID_FIELD")
		}
		answer := answers[0]
		answers = answers[1:]
		return answer, nil
	})
	c := connect(t, client.Options{Target: b.addr, Logger: logger})
	_ = second(c.Cache.Set(t.Context(), secret, []byte(secret), client.SetOptions{Tags: []string{secret}}))
	_ = second(c.Cache.Get(t.Context(), secret))
	_, _, _ = c.Sessions.Create(t.Context(), secret, client.CreateOptions{Attributes: map[string]string{"a": secret}})
	_ = second(c.Sessions.Validate(t.Context(), secret, client.ValidateOptions{}))
	_ = second(c.Sessions.Revoke(t.Context(), client.ByToken(secret)))
	logger.Info("target", "took", time.Second, "value", client.ByToken(secret))

	if n := len(book.lines(t)); n != 6 {
		t.Errorf("the log has %d lines, want 6", n)
	}
	if strings.Contains(book.text.String(), secret) {
		t.Errorf("the log contains %q, want it nowhere:\n%s", secret, book.text.String())
	}
}
