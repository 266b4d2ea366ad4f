package main

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

// benchBatch is how many keys a BatchGet asks for.
const benchBatch = 100

// A benchCall makes one call and returns how many items it read or wrote.
type benchCall func(ctx context.Context, w *benchWorker) (items int, err error)

// A benchData is what a server must hold before a workload.
type benchData struct{ entries, sessions bool }

// A benchWorkload is one thing to measure.
type benchWorkload struct {
	name, about string
	// goal is the least ratio to the floor that Larder is meant to reach with the default settings; 0 for none.
	goal  float64
	needs benchData
	call  benchCall
	// warm reads what the near cache is to hold from the start; nil for nothing.
	warm benchCall
	// bare is what the floor does instead; nil for the same.
	bare benchCall
	// beside is another call of Larder's to compare items per second with, and besideGoal the least ratio; nil for none.
	beside     benchCall
	besideGoal float64
	// waves has the callers begin together, each time on another key.
	waves bool
}

var benchWorkloads = []benchWorkload{
	{name: "near-get", about: "Get, from the near cache where it can", goal: 0.95, needs: benchData{entries: true}, call: getNear, warm: getNear},
	{name: "redis-get", about: "Get from the Redis primary", goal: 0.65, needs: benchData{entries: true}, call: getPrimary},
	{name: "set", about: "Set, unconditional", needs: benchData{entries: true}, call: set},
	{name: "mixed", about: "nine Gets, near-cached, to one Set", needs: benchData{entries: true}, call: mixed, warm: getNear},
	{name: "batchget", about: "BatchGet of 100 keys, near-cached", needs: benchData{entries: true}, call: batchGet, warm: getNear, beside: getNear, besideGoal: 10},
	{name: "stampede", about: "GetOrLease by all callers at once of a key that takes 50ms to load; the floor has no leases", call: stampede, bare: stampedeWithoutLeases, waves: true},
	{name: "validate", about: "ValidateSession, near-cached", goal: 0.90, needs: benchData{sessions: true}, call: validate, warm: validate},
}

// legs is how many servers, or calls of one, take turns.
func (w *benchWorkload) legs() int {
	if w.beside != nil {
		return 3
	}
	return 2
}

func getNear(ctx context.Context, w *benchWorker) (int, error) {
	return w.get(ctx, cachev1.Consistency_CONSISTENCY_NEAR)
}

func getPrimary(ctx context.Context, w *benchWorker) (int, error) {
	return w.get(ctx, cachev1.Consistency_CONSISTENCY_PRIMARY)
}

func (w *benchWorker) get(ctx context.Context, c cachev1.Consistency) (int, error) {
	r, err := w.cache.Get(ctx, &cachev1.GetRequest{Namespace: w.namespace, Key: w.keys[w.choose()], Consistency: c})
	if err != nil {
		return 0, err
	}
	if r.GetOutcome() != cachev1.GetOutcome_GET_OUTCOME_HIT || len(r.GetValue()) != len(w.value) {
		return 0, fmt.Errorf("Get found no value: %v", r.GetOutcome())
	}
	return 1, nil
}

func set(ctx context.Context, w *benchWorker) (int, error) { return 1, w.set(ctx, w.keys[w.choose()]) }

func (w *benchWorker) set(ctx context.Context, key string) error {
	_, err := w.cache.Set(ctx, &cachev1.SetRequest{Namespace: w.namespace, Key: key, Value: w.value})
	return err
}

func mixed(ctx context.Context, w *benchWorker) (int, error) {
	if w.random.IntN(10) == 0 {
		return set(ctx, w)
	}
	return getNear(ctx, w)
}

func batchGet(ctx context.Context, w *benchWorker) (int, error) {
	keys := make([]string, benchBatch)
	for i := range keys {
		keys[i] = w.keys[w.choose()]
	}
	r, err := w.cache.BatchGet(ctx, &cachev1.BatchGetRequest{Namespace: w.namespace, Keys: keys})
	if err != nil {
		return 0, err
	}
	found := 0
	for _, item := range r.GetResults() {
		switch item.GetOutcome() {
		case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT:
			found++
		case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_UNPROCESSED: // more than fits one answer: not read, and no error
		default:
			return 0, fmt.Errorf("BatchGet found no value: %v", item.GetOutcome())
		}
	}
	return found, nil
}

func validate(ctx context.Context, w *benchWorker) (int, error) {
	r, err := w.session.ValidateSession(ctx, &sessionv1.ValidateSessionRequest{Namespace: w.namespace, SessionToken: w.tokens[w.choose()]})
	if err != nil {
		return 0, err
	}
	if r.GetOutcome() != sessionv1.ValidateSessionOutcome_VALIDATE_SESSION_OUTCOME_ACTIVE {
		return 0, fmt.Errorf("ValidateSession: %v", r.GetOutcome())
	}
	return 1, nil
}

// prepare writes what a workload needs to the servers that do not hold it yet.
func (l *benchLoad) prepare(ctx context.Context, needs benchData, sides ...*benchSide) error {
	for _, s := range sides {
		if needs.entries && !s.holds.entries {
			if err := l.each(ctx, s, len(l.keys), func(w *benchWorker, i int) error { return w.set(ctx, l.keys[i]) }); err != nil {
				return err
			}
			s.holds.entries = true
		}
		if needs.sessions && !s.holds.sessions {
			s.tokens = make([]string, len(l.keys))
			if err := l.each(ctx, s, len(l.keys), func(w *benchWorker, i int) error { return w.login(ctx, s, i) }); err != nil {
				return err
			}
			s.holds.sessions = true
		}
	}
	return nil
}

func (w *benchWorker) login(ctx context.Context, s *benchSide, i int) error {
	r, err := w.session.CreateSession(ctx, &sessionv1.CreateSessionRequest{
		Namespace: w.namespace, Subject: "user-" + strconv.Itoa(i), Attributes: map[string]string{"role": "admin", "plan": "team"},
		Device: &sessionv1.Device{Ip: "203.0.113.7", UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
	})
	if err != nil {
		return err
	}
	s.tokens[i] = r.GetSessionToken()
	return nil
}

// benchRemoval bounds how long the data of a run may take to be removed.
const benchRemoval = time.Minute

// remove deletes what the run has left, also after an interruption.
func (l *benchLoad) remove(ctx context.Context, s *benchSide) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), benchRemoval)
	defer cancel()
	err := l.each(ctx, s, len(s.tokens), func(w *benchWorker, i int) error {
		if s.tokens[i] == "" {
			return nil
		}
		_, err := w.session.RevokeSession(ctx, &sessionv1.RevokeSessionRequest{
			Namespace: l.namespace, Target: &sessionv1.RevokeSessionRequest_SessionToken{SessionToken: s.tokens[i]},
		})
		return err
	})
	stream, listErr := cachev1.NewCacheServiceClient(s.conns[0]).DeleteMatching(ctx, &cachev1.DeleteMatchingRequest{Namespace: l.namespace, Pattern: "*"})
	for listErr == nil {
		_, listErr = stream.Recv()
	}
	if !errors.Is(listErr, io.EOF) {
		err = errors.Join(err, listErr)
	}
	if err != nil {
		return fmt.Errorf("the entries of namespace %s could not be removed: %w", l.namespace, err)
	}
	return nil
}
