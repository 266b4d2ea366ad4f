package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// removalTimeout bounds the removal of the data of a run.
const removalTimeout = time.Minute

// data tells what a server holds, or must hold before a workload: an entry for each key, and as many sessions.
type data struct{ entries, sessions bool }

// prepare writes what a workload needs to the servers that do not hold it yet.
func (l *load) prepare(ctx context.Context, needs data, servers ...*server) error {
	for _, s := range servers {
		if needs.entries && !s.holds.entries {
			if err := l.each(ctx, s, len(l.keys), func(c *caller, i int) error { return c.set(ctx, l.keys[i]) }); err != nil {
				return err
			}
			s.holds.entries = true
		}
		if needs.sessions && !s.holds.sessions {
			s.tokens = make([]string, len(l.keys))
			if err := l.each(ctx, s, len(l.keys), func(c *caller, i int) error { return c.createSession(ctx, s, i) }); err != nil {
				return err
			}
			s.holds.sessions = true
		}
	}
	return nil
}

// createSession creates a session with usual attributes and a usual device, and keeps its token in the server.
func (c *caller) createSession(ctx context.Context, s *server, i int) error {
	r, err := c.session.CreateSession(ctx, &sessionv1.CreateSessionRequest{
		Namespace: c.namespace, Subject: "user-" + strconv.Itoa(i), Attributes: map[string]string{"role": "admin", "plan": "team"},
		Device: &sessionv1.Device{Ip: "203.0.113.7", UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
	})
	if err != nil {
		return err
	}
	s.tokens[i] = r.GetSessionToken()
	return nil
}

// remove deletes the entries and revokes the sessions of the run, also if ctx has ended.
func (l *load) remove(ctx context.Context, s *server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removalTimeout)
	defer cancel()
	err := l.each(ctx, s, len(s.tokens), func(c *caller, i int) error {
		if s.tokens[i] == "" {
			return nil
		}
		_, err := c.session.RevokeSession(ctx, &sessionv1.RevokeSessionRequest{
			Namespace: l.namespace, Target: &sessionv1.RevokeSessionRequest_SessionToken{SessionToken: s.tokens[i]},
		})
		return err
	})
	stream, deleteErr := cachev1.NewCacheServiceClient(s.conns[0]).DeleteMatching(ctx, &cachev1.DeleteMatchingRequest{Namespace: l.namespace, Pattern: "*"})
	for deleteErr == nil {
		_, deleteErr = stream.Recv()
	}
	if !errors.Is(deleteErr, io.EOF) {
		err = errors.Join(err, deleteErr)
	}
	if err != nil {
		return fmt.Errorf("remove the entries and sessions of namespace %s: %w", l.namespace, err)
	}
	return nil
}
