package service

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// noGrace is a namespace in which a rotated token is dead at once.
const noGrace = "no-grace"

// A shelf is what the callers know of a subject: its latest sessions, the ended ones too, and their tokens.
type shelf struct {
	namespace, subject string

	mu       sync.Mutex
	sessions []*shelved
}

type shelved struct {
	id, class string
	tokens    []string
	version   int64
}

// pick returns one of the sessions, and one of its last tokens, mostly the latest.
func (s *shelf) pick() (found shelved, token string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) == 0 {
		return found, "", false
	}
	found = *s.sessions[rand.N(len(s.sessions))]
	found.tokens = slices.Clone(found.tokens)
	last := len(found.tokens) - 1
	return found, found.tokens[max(last-max(rand.N(6)-3, 0), 0)], true
}

// known returns the sessions.
func (s *shelf) known() (sessions []shelved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.sessions {
		one := *k
		one.tokens = slices.Clone(k.tokens)
		sessions = append(sessions, one)
	}
	return sessions
}

// learn keeps what an answer tells.
func (s *shelf) learn(in sessionCall, a sessionAnswer) {
	const kept = 4
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Op == opCreate && a.Token != "" {
		s.sessions = append(s.sessions, &shelved{id: a.ID, class: in.Class, tokens: []string{a.Token}, version: a.Version})
		s.sessions = s.sessions[max(len(s.sessions)-kept, 0):]
		return
	}
	for _, known := range s.sessions {
		if known.id != in.ID {
			continue
		}
		known.version = max(known.version, a.Version)
		if a.Token != "" && !slices.Contains(known.tokens, a.Token) {
			known.tokens = append(known.tokens, a.Token)
		}
	}
}

// next draws a call.
func (s *shelf) next(value string) sessionCall {
	classes := []string{"", "mobile", "web"}
	class := classes[rand.N(len(classes))]
	found, token, ok := s.pick()
	if n := rand.N(100); !ok || n < 6 {
		return sessionCall{Op: opCreate, Class: class}
	}
	in := sessionCall{ID: found.id, NoGrace: s.namespace == noGrace}
	switch n := rand.N(100); {
	case n < 30:
		in.Op, in.Token, in.Forced = opValidate, token, rand.N(2) == 0
	case n < 54:
		in.Op = opBatch
		for range 3 {
			if one, token, ok := s.pick(); ok {
				in.Each = append(in.Each, sessionCall{Op: opValidate, ID: one.id, Token: token, Near: rand.N(2) == 0, Forced: rand.N(4) == 0})
			}
		}
	case n < 58:
		in.Op = opGetByID
	case n < 62:
		in = sessionCall{Op: opList, Class: class}
	case n < 82:
		in.Op, in.Name, in.Value = opUpdate, rand.N(3), value
		in.Change = []string{changeSet, changeSet, changeSetIfAbsent, changeDelete, changeIncrement}[rand.N(5)]
		if in.Change == changeIncrement {
			in.Name, in.Delta = 3, 1+rand.Int64N(3)
		}
		if rand.N(3) == 0 {
			in.Token = token
		}
		if rand.N(3) == 0 {
			in.Version = found.version
		}
	case n < 88:
		in.Op, in.Token = opRotate, token
	case n < 91:
		in.Op, in.Token = opReauth, token
	case n < 96:
		in.Op = opRevoke
		if rand.N(3) == 0 {
			in.Token = token
		}
	default:
		in = sessionCall{Op: opRevokeSubject, Class: class}
		if rand.N(2) == 0 {
			in.Except = found.id
		}
	}
	return in
}

// A sessionHistory is what callers of several replicas record.
type sessionHistory struct {
	*history[sessionCall, sessionAnswer]
	t testing.TB
}

// call makes a call and tells the shelf what came of it.
func (h *sessionHistory) call(c caller, s *shelf, in sessionCall) bool {
	a, ok := h.record(h.t.Context(), h.t, c, s.subject, in, sessionReads(in), func(ctx context.Context) (sessionAnswer, error) {
		timeout := time.Second
		if in.Near { // what is not near may hang
			timeout = 50 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return in.make(ctx, h.t, c.replica, s.namespace, s.subject)
	})
	if ok {
		s.learn(in, a)
	}
	return ok
}

// login asks for the epoch of the subject, and creates a session a little later.
func (h *sessionHistory) login(c caller, s *shelf, in sessionCall) {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Second)
	defer cancel()
	in.AskedBegin = time.Since(h.start)
	got, err := c.replica.session.GetSubject(ctx, &sessionv1.GetSubjectRequest{Namespace: s.namespace, Subject: s.subject})
	in.AskedEnd = time.Since(h.start)
	if err == nil {
		epoch := got.GetSubjectEpoch()
		in.Epoch = &epoch
		<-time.After(rand.N(10 * time.Millisecond))
	}
	h.call(c, s, in)
}

// check says what is wrong with the history.
func (h *sessionHistory) check(bound time.Duration) (sessions, behind int) {
	subjects := h.byKey()
	for subject, calls := range subjects {
		if wrong := fences(calls); len(wrong) > 0 {
			h.t.Errorf("%s: %d logins are wrong, want none; the first: %s", subject, len(wrong), wrong[0])
		}
		apart := bySession(calls)
		for _, id := range sortedIDs(apart) {
			sessions++
			wrong, late := returned(apart[id], bound)
			behind += late
			if len(wrong) > 0 {
				h.t.Errorf("%s: %d answers are wrong, want none; the first: %s", subject, len(wrong), wrong[0])
			}
			one := newHistory[sessionCall, sessionAnswer]()
			one.calls = atOnce(apart[id])
			for i := range one.calls {
				one.calls[i].Key = id
			}
			linearizable(h.t, one, sessionModel(), sessionReads)
			if h.t.Failed() {
				return sessions, behind
			}
		}
	}
	return sessions, behind
}

// quieten makes sessions that nothing else changes, and has every replica hold them in memory.
func (h *sessionHistory) quieten(replicas []*replica, s *shelf) {
	for range 3 {
		h.call(caller{50, replicas[0]}, s, sessionCall{Op: opCreate})
	}
	for _, known := range s.known() {
		for _, r := range append(replicas, replicas...) {
			h.call(caller{50, r}, s, sessionCall{Op: opValidate, ID: known.id, Token: known.tokens[0], Near: true})
		}
	}
}

// stir ends one of the quiet sessions, one token of another, and changes a third; or ends all. What it was told of, its own
// replica knows at once.
func (h *sessionHistory) stir(r *replica, s *shelf) {
	c := caller{50, r}
	known := s.known()
	if len(known) > 0 && rand.N(3) == 0 {
		h.call(c, s, sessionCall{Op: opRevokeSubject, Except: known[0].id})
	}
	for i, k := range known {
		in := []sessionCall{{Op: opRevoke}, {Op: opRotate, Token: k.tokens[0]}, {Op: opUpdate, Change: changeSet, Value: "stirred"}}[(i+rand.N(2))%3]
		in.ID, in.NoGrace = k.id, true
		h.call(c, s, in)
		h.call(c, s, sessionCall{Op: opValidate, ID: k.id, Token: k.tokens[0], Near: true})
	}
}

// disturb makes faults until the context ends: connections are cut, nothing passes over them, or no push does while the
// quiet sessions are changed.
func (h *sessionHistory) disturb(ctx context.Context, replicas []*replica, quiet *shelf, bound time.Duration) {
	hole := func(proxies []*redistest.Proxy, text string, meanwhile func()) {
		for _, p := range proxies {
			p.BlackholeOnly(text)
		}
		over := time.After(bound + rand.N(bound/2))
		meanwhile()
		<-over
		for _, p := range proxies {
			p.Blackhole(false)
		}
	}
	for n := 0; ctx.Err() == nil; n++ {
		<-time.After(bound / 10)
		if n%2 == 0 {
			replicas[rand.N(len(replicas))].cut()
			continue
		}
		h.quieten(replicas, quiet)
		stirrer := rand.N(len(replicas))
		if n%4 == 1 {
			var proxies []*redistest.Proxy
			for _, r := range replicas {
				proxies = append(proxies, r.proxies...)
			}
			hole(proxies, "TRACKING", func() { h.stir(replicas[stirrer], quiet) })
			continue
		}
		other := replicas[(stirrer+1)%len(replicas)].proxies
		one := rand.N(len(other))
		hole(other[one:one+1], "", func() { h.stir(replicas[stirrer], quiet) })
	}
}

// TestSessionHistories: however validations, rotations, updates, revocations and logins through two replicas meet, and
// whatever happens to their connections to Redis, the answers about a session are those of one order of the calls. After
// its end has been told nothing finds it active, except the memory of another replica for as long as the bound.
func TestSessionHistories(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			const bound, lasts, callers = 500 * time.Millisecond, 6 * time.Second, 8
			replicas := startReplicas(t, store.Options{Redis: redis.Options{Mode: mode, NearCacheTTL: bound, CommandTimeout: 200 * time.Millisecond}}, 2)
			none := time.Duration(0)
			for _, r := range replicas {
				if err := r.SetPolicy(&policy.Policy{Sessions: policy.Section[policy.Session]{Namespaces: map[string]policy.Session{noGrace: {RotationGrace: &none}}}}); err != nil {
					t.Fatalf("SetPolicy = %v, want nil", err)
				}
			}
			shelves := []*shelf{{subject: "ann"}, {subject: "bob", namespace: noGrace}, {subject: "eve", namespace: noGrace}}
			quiet := &shelf{subject: "zoe", namespace: noGrace}
			h := &sessionHistory{newHistory[sessionCall, sessionAnswer](), t}
			ctx, stop := context.WithTimeout(t.Context(), lasts)
			defer stop()
			var all sync.WaitGroup
			for client := range callers {
				all.Go(func() {
					c := caller{client, replicas[client%len(replicas)]}
					for n := 0; ctx.Err() == nil; n++ {
						s := shelves[rand.N(len(shelves))]
						in := s.next(strconv.Itoa(client) + "-" + strconv.Itoa(n))
						if in.Op == opCreate && rand.N(2) == 0 {
							h.login(c, s, in)
						} else {
							h.call(c, s, in)
						}
						<-time.After(rand.N(10 * time.Millisecond))
					}
				})
			}
			for i, r := range replicas {
				all.Go(func() {
					for ctx.Err() == nil {
						s := append(shelves, quiet, quiet, quiet)[rand.N(len(shelves)+3)]
						if known, token, ok := s.pick(); ok {
							h.call(caller{callers + i, r}, s, sessionCall{Op: opValidate, ID: known.id, Token: token, Near: true})
						}
						<-time.After(rand.N(2 * time.Millisecond))
					}
				})
			}
			all.Go(func() { h.disturb(ctx, replicas, quiet, bound) })
			all.Wait()
			h.lastWord(replicas, append(shelves, quiet))
			near, unknown := int64(0), 0
			for _, r := range replicas {
				near += r.store.Stats().Near.Hits
			}
			for _, r := range h.calls {
				if r.Unknown || r.Attempts > 0 {
					unknown++
				}
			}
			sessions, behind := h.check(bound)
			t.Logf("%d calls about %d sessions, %d of unknown outcome or repeated, %d look-ups answered near, %d answers behind", len(h.calls), sessions, unknown, near, behind)
			if near == 0 || unknown == 0 {
				t.Errorf("answered near = %d, of unknown outcome or repeated = %d, want some of both", near, unknown)
			}
		})
	}
}

// lastWord asks every replica for what is left in the end, when nothing is in the way any more.
func (h *sessionHistory) lastWord(replicas []*replica, shelves []*shelf) {
	for i, r := range replicas {
		for _, s := range shelves {
			eventually(h.t, "listed", func() bool { return h.call(caller{100 + i, r}, s, sessionCall{Op: opList}) })
			for _, known := range s.known() {
				eventually(h.t, "read", func() bool { return h.call(caller{100 + i, r}, s, sessionCall{Op: opGetByID, ID: known.id}) })
			}
		}
	}
}
