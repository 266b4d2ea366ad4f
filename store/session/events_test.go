package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

// told is a watch under way and the events that it has delivered.
type told struct {
	mu     sync.Mutex
	events []session.Event
	token  string // the last one
	tokens int
	// covered says whether the last token covers the last event.
	covered bool
	cancel  context.CancelFunc
	done    chan error
}

func (w *told) seen() []session.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

func (w *told) last() (token string, tokens int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.token, w.tokens
}

// lines are the events in short: type, session or subject, and reason.
func (w *told) lines() (lines []string) {
	for _, e := range w.seen() {
		lines = append(lines, line(e.Type, e.SessionID, e.Subject, e.Reason))
	}
	return lines
}

func line(parts ...string) string { return strings.Join(parts, " ") }

// stop ends the watch and returns the token to go on with.
func (w *told) stop(tb testing.TB) (token string) {
	tb.Helper()
	w.cancel()
	if err := <-w.done; !errors.Is(err, context.Canceled) {
		tb.Errorf("the watch ended with %v: %s; want context.Canceled", err, redis.Cause(err))
	}
	token, _ = w.last()
	return token
}

// watchEvents begins a watch, which has begun when it returns. Hold, if any, is called with every event.
func watchEvents(tb testing.TB, s *store.Store, namespace string, f session.EventFilter, token string, hold func()) *told {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &told{cancel: cancel, done: make(chan error, 1)}
	go func() {
		w.done <- s.Sessions.Watch(ctx, namespace, f, token, time.Hour, func(e *session.Event, token string) error {
			w.mu.Lock()
			if e != nil {
				w.events = append(w.events, *e)
			}
			w.covered = token != ""
			if token != "" {
				w.token = token
				w.tokens++
			}
			w.mu.Unlock()
			if hold != nil && e != nil {
				hold()
			}
			return nil
		})
	}()
	tb.Cleanup(cancel)
	storetest.Eventually(tb, "the watch has begun", func() bool {
		_, tokens := w.last()
		return tokens > 0 || len(w.done) > 0
	})
	return w
}

var everybody = session.EventFilter{}

func ofSubject(subject string) session.EventFilter {
	return session.EventFilter{Subject: subject}
}

// TestSessionEventsTellEverything: what any replica does, in order, with what a consumer needs and no more.
func TestSessionEventsTellEverything(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for n, writer := range storetest.Replicas(t, s) {
			subject := fmt.Sprint("ann", n)
			all, anns := watchEvents(t, s, namespace, everybody, "", nil), watchEvents(t, s, namespace, ofSubject(subject), "", nil)
			revoked := watchEvents(t, s, namespace, session.EventFilter{Types: []string{"revoked"}}, "", nil)
			from := writer.Redis.Now().Add(-2 * time.Second)

			token, sess := createSession(t, writer, namespace, sessionOf(subject))
			kept, spared := createSession(t, writer, namespace, sessionOf(subject))
			updateSession(t, writer, namespace, byToken(token), session.Changes{Set: map[string]string{"secret": "value"}})
			validate(t, writer, namespace, kept, primary)
			revokeSession(t, writer, namespace, byID(sess))
			revokeSession(t, writer, namespace, byID(sess)) // again: nothing happens
			createSession(t, writer, storetest.NewNamespace(), sessionOf(subject))
			revokeSubject(t, writer, namespace, subject, spared.ID)
			want := []string{
				line("created", sess.ID, subject, ""), line("created", spared.ID, subject, ""),
				line("attributes_changed", sess.ID, subject, ""), line("revoked", sess.ID, subject, "revoked"),
				line("revoked", "", subject, "subject"),
			}
			storetest.Eventually(t, "the subject's events", func() bool { return len(anns.seen()) >= len(want) })
			if diff := cmp.Diff(want, anns.lines()); diff != "" {
				t.Errorf("told of the subject (-want +got):\n%s", diff)
			}
			storetest.Eventually(t, "all events", func() bool { return len(all.seen()) >= len(want) })
			if diff := cmp.Diff(anns.seen(), all.seen()); diff != "" {
				t.Errorf("the watch of all subjects differs from that of one, want the same events (-subject +all):\n%s", diff)
			}
			storetest.Eventually(t, "events of a type", func() bool { return len(revoked.seen()) >= 2 })
			if diff := cmp.Diff(want[3:], revoked.lines()); diff != "" {
				t.Errorf("told of revocations (-want +got):\n%s", diff)
			}
			if e := anns.seen()[4]; e.ExceptSessionID != spared.ID {
				t.Errorf("ExceptSessionID = %q, want %q", e.ExceptSessionID, spared.ID)
			}
			ids := map[string]bool{}
			for _, e := range anns.seen() {
				if ids[e.ID] || e.At.Before(from) || e.At.After(writer.Redis.Now().Add(2*time.Second)) || len(e.Details) > 0 {
					t.Errorf("event %+v, want a new id, a time within the test and no details", e)
				}
				ids[e.ID] = true
			}
			for _, w := range []*told{all, anns, revoked} {
				w.stop(t)
			}
		}
	})
}

// TestSessionEventsResume: a consumer that is gone for a while is told what happened meanwhile, and nothing twice that it
// had confirmed with the token.
func TestSessionEventsResume(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, f := range []session.EventFilter{everybody, ofSubject("ann")} {
			w := watchEvents(t, s, namespace, f, "", nil)
			for round := range 2 {
				token := w.stop(t)
				var want []string
				for range 150 { // more than are read at a time
					_, sess := createSession(t, s, namespace, sessionOf("ann"))
					want = append(want, line("created", sess.ID, "ann", ""))
				}
				w = watchEvents(t, s, namespace, f, token, nil)
				storetest.Eventually(t, "the events", func() bool { return len(w.seen()) >= len(want) })
				if diff := cmp.Diff(want, w.lines()); diff != "" {
					t.Fatalf("round %d (-want +got):\n%s", round, diff)
				}
				if f.Subject == "" {
					storetest.Eventually(t, "a token that covers the last of them", func() bool {
						w.mu.Lock()
						defer w.mu.Unlock()
						return w.covered
					})
				}
			}
			w.stop(t)
		}
	})
}

// A token is for what it was given out for.
func TestSessionEventsRefuseForeignTokens(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		ann := watchEvents(t, s, namespace, ofSubject("ann"), "", nil).stop(t)
		all := watchEvents(t, s, namespace, everybody, "", nil).stop(t)
		for _, c := range []struct {
			namespace, subject, token string
		}{
			{namespace, "bob", ann},
			{namespace, "", ann},
			{namespace + "0", "ann", ann},
			{namespace, "ann", all},
			{namespace + "0", "", all},
			{namespace, "ann", ann[:len(ann)-1]},
			{namespace, "ann", ann + "A"},
			{namespace, "ann", ann[:8] + "\n" + ann[8:]},
			{namespace, "ann", "B" + ann[1:]},
			{namespace, "ann", "token"},
			{namespace, "", strings.Repeat("A", session.MaxResumeToken+1)},
		} {
			err := s.Sessions.Watch(t.Context(), c.namespace, ofSubject(c.subject), c.token, time.Hour, func(*session.Event, string) error {
				return errors.New("told something")
			})
			if !errors.Is(err, redis.ErrPageToken) {
				t.Errorf("Watch with %+v: error %v, want ErrPageToken", c, err)
			}
		}
	})
}

// FuzzResumeToken: whatever is presented, it is refused or it is one that was given out.
func FuzzResumeToken(f *testing.F) {
	token := ""
	s, err := store.New(store.Options{Redis: redis.Options{Mode: redis.Embedded}})
	if err != nil {
		f.Fatalf("store.New: error %v, want none", err)
	}
	f.Cleanup(s.Close)
	if err := s.Redis.Connect(f.Context()); err != nil {
		f.Fatalf("Connect: error %v, want none", err)
	}
	for _, subject := range []string{"", "ann"} {
		end := errors.New("end")
		err := s.Sessions.Watch(f.Context(), "n", ofSubject(subject), "", time.Hour, func(_ *session.Event, t string) error {
			token = t
			return end
		})
		if !errors.Is(err, end) {
			f.Fatalf("Watch: error %v, want %v", err, end)
		}
		f.Add(token, subject)
	}
	f.Add("AQ", "")
	f.Add("", "ann")
	f.Fuzz(func(t *testing.T, token, subject string) {
		valid := session.ValidResumeToken("n", subject, token)
		if valid && token != "" && (session.ValidResumeToken("m", subject, token) || session.ValidResumeToken("n", subject+"0", token)) {
			t.Errorf("token %q is valid for another namespace or subject, want it refused", token)
		}
		if len(token) > 0 && valid && (session.ValidResumeToken("n", subject, token[1:]) || session.ValidResumeToken("n", subject, token+"A")) {
			t.Errorf("a part or an extension of token %q is valid, want it refused", token)
		}
	})
}

// gone waits for a watch to end for want of events.
func (w *told) gone(tb testing.TB) {
	tb.Helper()
	select {
	case err := <-w.done:
		if !errors.Is(err, session.ErrEventsTrimmed) {
			tb.Errorf("the watch ended with %v, want ErrEventsTrimmed", err)
		}
	case <-time.After(20 * time.Second):
		tb.Error("the watch still runs after 20 s, want ErrEventsTrimmed")
	}
}

// TestSessionEventsGap: a consumer that has not seen some of the trimmed events gets an error, and no other does.
// It runs alone, as other tests watch the same streams.
func TestSessionEventsGap(t *testing.T) {
	alone(t, []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel, redis.Embedded}, func(t *testing.T, s *store.Store, namespace string) {
		p, _ := subjectPartition(namespace, "ann")
		stream := fmt.Sprintf("ld:e:{p%d}", p)
		trim := func(left int) { storetest.Command(t, s, "XTRIM", stream, "MAXLEN", fmt.Sprint(left)) }
		for _, f := range []session.EventFilter{ofSubject("ann"), everybody} {
			createMany(t, s, namespace, sessionOf("ann"), 10)
			token := watchEvents(t, s, namespace, f, "", nil).stop(t)
			_, missed := createMany(t, s, namespace, sessionOf("ann"), 10)

			trim(10)                              // all that was seen, and nothing else
			if s.Redis.Mode() != redis.Embedded { // which does not know that nothing else was
				w := watchEvents(t, s, namespace, f, token, nil)
				storetest.Eventually(t, "the rest", func() bool { return len(w.seen()) >= len(missed) })
				w.stop(t)
			}
			trim(9)
			watchEvents(t, s, namespace, f, token, nil).gone(t)

			// From now on a new watch is whole.
			w := watchEvents(t, s, namespace, f, "", nil)
			createMany(t, s, namespace, sessionOf("ann"), 1)
			storetest.Eventually(t, "the new event", func() bool { return len(w.seen()) == 1 })
			w.stop(t)
		}
	})
}

// alone runs a test in topologies, one after the other, while no other test runs.
func alone(t *testing.T, modes []redis.Mode, test func(t *testing.T, s *store.Store, namespace string)) {
	t.Helper()
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			test(t, storetest.Open(t, storetest.Options(t, mode)), storetest.NewNamespace())
		})
	}
}

// TestSessionEventsOfALostStream: the end of the stream is gone, as after a failover to a replica that was behind, or all of
// it, and has grown again since. It runs alone, as other tests watch the same streams.
func TestSessionEventsOfALostStream(t *testing.T) {
	alone(t, []redis.Mode{redis.Standalone, redis.Cluster, redis.Sentinel}, func(t *testing.T, s *store.Store, namespace string) {
		p, _ := subjectPartition(namespace, "ann")
		stream := fmt.Sprintf("ld:e:{p%d}", p)
		for _, grown := range []int{0, 1, 30, 200} {
			createMany(t, s, namespace, sessionOf("ann"), 30)
			live := watchEvents(t, s, namespace, ofSubject("ann"), "", nil)
			token, _ := live.last()
			storetest.Command(t, s, "DEL", stream)
			createMany(t, s, namespace, sessionOf("ann"), grown)
			live.gone(t)
			watchEvents(t, s, namespace, ofSubject("ann"), token, nil).gone(t)
		}
	})
}

// TestSessionEventsOfASlowWatcher stay in Redis: what waits for it takes no memory here.
func TestSessionEventsOfASlowWatcher(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s, writer := beside(t, server), beside(t, server)
	hold := make(chan struct{})
	let := sync.OnceFunc(func() { close(hold) })
	defer let()
	w := watchEvents(t, s, "n", everybody, "", func() { <-hold })
	createSession(t, writer, "n", sessionOf("ann"))
	storetest.Eventually(t, "the first event", func() bool { return len(w.seen()) == 1 })
	server.ResetCommandCalls(t)
	const count = 3000
	createMany(t, writer, "n", sessionOf("ann"), count)
	if n := server.CommandCalls(t)["eval_ro"]; n != 0 {
		t.Errorf("%d reads while the caller took nothing, want 0", n)
	}
	let()
	storetest.Eventually(t, "all events", func() bool { return len(w.seen()) == count+1 })
	// Events are read in batches, neither one by one nor all at once.
	if n := server.CommandCalls(t)["eval_ro"]; n < count/64 || n > count/4 {
		t.Errorf("%d events were read in %d reads, want between %d and %d", count, n, count/64, count/4)
	}
	w.stop(t)
}

// TestSessionEventsCost: waiting costs nothing, and an event one read for each watch whose partition it is in.
func TestSessionEventsCost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s, writer := beside(t, server), beside(t, server)
	var subjects []string
	used := map[byte]bool{}
	for i := 0; len(subjects) < 100; i++ {
		subject := fmt.Sprint("s", i)
		if p, _ := subjectPartition("n", subject); !used[p] {
			used[p] = true
			subjects = append(subjects, subject)
		}
	}
	createSession(t, writer, "n", sessionOf("warm"))
	var watches []*told
	for _, subject := range subjects {
		watches = append(watches, watchEvents(t, s, "n", ofSubject(subject), "", nil))
	}
	server.ResetCommandCalls(t)
	createSession(t, writer, "n", sessionOf(subjects[0]))
	storetest.Eventually(t, "the event", func() bool { return len(watches[0].seen()) == 1 })
	s.Close()
	calls := server.CommandCalls(t)
	if calls["eval_ro"] != 1 || calls["evalsha"] != 1 {
		t.Errorf("commands = %v, want 1 eval_ro and 1 evalsha", calls)
	}
	for _, w := range watches[1:] {
		if n := len(w.seen()); n != 0 {
			t.Errorf("%d events of other subjects were delivered, want 0", n)
		}
	}
}
