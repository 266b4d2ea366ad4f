package service

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

// A movingLoad is what callers of two replicas do while slots move.
type movingLoad struct {
	namespace string
	apis      [2]*api
	callers   []*movingCaller
	slots     *slotTable
	still     sync.Map // slots that stand still
	// Of calls, those that touch a slot that stands still are counted as inside.
	calls, failed, inside, insideFailed atomic.Int64
	// failures are the names of the calls outside that have failed.
	mu       sync.Mutex
	failures map[string]int
}

// behind is the bound of what another replica answers from memory, and what a busy machine adds.
const behind = 7 * time.Second

// A movingCaller has keys and a subject of its own, and knows what must be there.
type movingCaller struct {
	*movingLoad
	number      int
	subject     string
	subjectSlot int
	active      []*movingSession
	ended       []*movingSession
	keys        []*movingKey
	keySlots    []int // of the keys, the counter, and the tag
	counter     movingKey
	created     []string       // ids of all sessions
	told        map[string]int // how often an event told that a session was created; guarded by mu
}

type movingSession struct {
	id, token, class string
	version, count   int64
	endedAt          time.Time
	endedBy          *api
}

// A movingKey is an entry with one writer.
type movingKey struct {
	key, value, etag string // no value: no entry
	tagged           bool
	at               time.Time // of the last change
	by               *api      // through which that was made
	count            int64
}

func newMovingCaller(l *movingLoad, n int) *movingCaller {
	c := &movingCaller{movingLoad: l, number: n, subject: fmt.Sprint("subject-", n), told: map[string]int{}}
	c.subjectSlot = l.slots.partitions[sha256.Sum256([]byte(l.namespace + "\x00" + c.subject))[0]]
	for i := range 20 {
		c.keys = append(c.keys, &movingKey{key: fmt.Sprintf("key-%d-%d", n, i), tagged: i%4 == 0})
	}
	c.counter.key = fmt.Sprint("counter-", n)
	return c
}

func (c *movingCaller) tag() string { return fmt.Sprint("tag-", c.number) }

// redisKeys returns a Redis key of each slot that the entries of the caller need.
func (c *movingCaller) redisKeys() (keys []string) {
	in := func(kind, name string) string { return "ld:" + kind + ":{" + c.namespace + ":" + name + "}" }
	for _, k := range c.keys {
		keys = append(keys, in("c", k.key))
	}
	return append(keys, in("c", c.counter.key), in("t", c.tag()), "ld:n:{"+c.namespace+"}", "ld:tagmemory", "ld:sweep")
}

func (c *movingCaller) run(t *testing.T, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if rand.IntN(2) == 0 {
			c.useEntries(t)
		} else {
			c.useSessions(t)
		}
	}
}

// made notes a call that touches slots and reports whether it was answered. If not, it must have failed in the one allowed way.
func (c *movingCaller) made(t *testing.T, what string, err error, slots ...int) bool {
	t.Helper()
	c.count(what, err != nil, slots)
	if err == nil {
		return true
	}
	if got, want := answerOf(t, err), (answer{Code: codes.Unavailable, Reason: "REDIS_UNAVAILABLE", Retry: true}); got != want {
		t.Errorf("%s = %v (%+v), want no error or %+v", what, err, got, want)
	}
	return false
}

// madeOne is made for one item of a batch, with the reason of its failure if it has failed.
func (c *movingCaller) madeOne(t *testing.T, what, reason string, slots ...int) bool {
	t.Helper()
	c.count(what, reason != "", slots)
	if reason != "" && reason != "REDIS_UNAVAILABLE" {
		t.Errorf("%s failed with %s, want no failure or REDIS_UNAVAILABLE", what, reason)
	}
	return reason == ""
}

func (c *movingCaller) count(what string, failure bool, slots []int) {
	calls, failed := &c.calls, &c.failed
	for _, slot := range slots {
		if _, still := c.still.Load(slot); still {
			calls, failed = &c.inside, &c.insideFailed
		}
	}
	calls.Add(1)
	if !failure {
		return
	}
	failed.Add(1)
	if failed == &c.failed {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failures[what]++
	}
}

func (c *movingCaller) either() *api { return c.apis[rand.IntN(len(c.apis))] }

// useEntries makes one call about entries.
func (c *movingCaller) useEntries(t *testing.T) {
	ctx, ns, a := t.Context(), c.namespace, c.either()
	n := rand.IntN(len(c.keys))
	k := c.keys[n]
	slots := []int{c.keySlots[n]}
	if k.tagged {
		slots = append(slots, c.keySlots[len(c.keys)+1])
	}
	value := strconv.FormatInt(rand.Int64(), 10)
	var tags []string
	if k.tagged {
		tags = []string{c.tag()}
	}
	hour := durationpb.New(time.Hour)
	changed := func(value, etag string) { k.value, k.etag, k.at, k.by = value, etag, time.Now(), a }
	switch op := rand.IntN(100); {
	case op < 20:
		resp, err := a.cache.Get(ctx, &cachev1.GetRequest{Namespace: ns, Key: k.key, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY})
		if c.made(t, "Get PRIMARY", err, slots...) && string(resp.Value) != k.value {
			t.Errorf("Get PRIMARY of %s = %q, want %q", k.key, resp.Value, k.value)
		}
	case op < 45:
		resp, err := a.cache.Get(ctx, &cachev1.GetRequest{Namespace: ns, Key: k.key})
		if c.made(t, "Get", err, slots...) && string(resp.Value) != k.value && (a == k.by || time.Since(k.at) > behind) {
			t.Errorf("Get of %s through replica %t = %q, want %q, written %v ago", k.key, a == k.by, resp.Value, k.value, time.Since(k.at))
		}
	case op < 60:
		resp, err := a.cache.Set(ctx, &cachev1.SetRequest{Namespace: ns, Key: k.key, Value: []byte(value), Expiry: &cachev1.SetRequest_Ttl{Ttl: hour}, Tags: tags})
		if c.made(t, "Set", err, slots...) {
			changed(value, resp.Etag)
		}
	case op < 66:
		req := &cachev1.SetRequest{Namespace: ns, Key: k.key, Value: []byte(value), Expiry: &cachev1.SetRequest_Ttl{Ttl: hour}, Tags: tags}
		req.Precondition = &cachev1.SetRequest_IfAbsent{IfAbsent: true}
		if k.value != "" {
			req.Precondition = &cachev1.SetRequest_IfMatch{IfMatch: k.etag}
		}
		resp, err := a.cache.Set(ctx, req)
		if !c.made(t, "Set under a condition", err, slots...) {
			return
		}
		if resp.Outcome != cachev1.SetOutcome_SET_OUTCOME_STORED {
			t.Errorf("Set of %s under a condition that holds = %v, want stored", k.key, resp.Outcome)
		}
		changed(value, resp.Etag)
	case op < 70:
		resp, err := a.cache.Touch(ctx, &cachev1.TouchRequest{Namespace: ns, Key: k.key, Expiry: &cachev1.TouchRequest_Ttl{Ttl: durationpb.New(2 * time.Hour)}})
		if c.made(t, "Touch", err, slots...) && (resp.Outcome == cachev1.TouchOutcome_TOUCH_OUTCOME_TOUCHED) != (k.value != "") {
			t.Errorf("Touch of %s = %v, want it touched: %t", k.key, resp.Outcome, k.value != "")
		}
	case op < 75:
		resp, err := a.cache.Delete(ctx, &cachev1.DeleteRequest{Namespace: ns, Key: k.key})
		if !c.made(t, "Delete", err, slots...) {
			return
		}
		if (resp.Outcome == cachev1.DeleteOutcome_DELETE_OUTCOME_DELETED) != (k.value != "") {
			t.Errorf("Delete of %s = %v, want it deleted: %t", k.key, resp.Outcome, k.value != "")
		}
		changed("", "")
	case op < 82:
		c.load(t, a, k, value, tags, slots)
	case op < 85:
		_, err := a.cache.InvalidateTags(ctx, &cachev1.InvalidateTagsRequest{Namespace: ns, Tags: []string{c.tag()}})
		if c.made(t, "InvalidateTags", err, c.keySlots[len(c.keys)+1]) {
			for _, k := range c.keys {
				if k.tagged {
					k.value, k.etag, k.at, k.by = "", "", time.Now(), a
				}
			}
		}
	case op < 93:
		resp, err := a.cache.Increment(ctx, &cachev1.IncrementRequest{Namespace: ns, Key: c.counter.key})
		if !c.made(t, "Increment", err, c.keySlots[len(c.keys)]) {
			return
		}
		if c.counter.count++; resp.Value != c.counter.count {
			t.Errorf("Increment = %d, want %d", resp.Value, c.counter.count)
			c.counter.count = resp.Value
		}
	default:
		c.batchGet(t, a)
	}
}

// load gets a lease on an entry that is not there and fills it.
func (c *movingCaller) load(t *testing.T, a *api, k *movingKey, value string, tags []string, slots []int) {
	t.Helper()
	got, err := a.cache.GetOrLease(t.Context(), &cachev1.GetOrLeaseRequest{Namespace: c.namespace, Key: k.key})
	if !c.made(t, "GetOrLease", err, slots...) {
		return
	}
	if got.LeaseToken == "" {
		if string(got.Value) != k.value && (a == k.by || time.Since(k.at) > behind) {
			t.Errorf("GetOrLease of %s = %v %q, want %q", k.key, got.Outcome, got.Value, k.value)
		}
		return
	}
	resp, err := a.cache.Fill(t.Context(), &cachev1.FillRequest{
		Namespace: c.namespace, Key: k.key, LeaseToken: got.LeaseToken, Value: []byte(value), Tags: tags,
		Expiry: &cachev1.FillRequest_Ttl{Ttl: durationpb.New(time.Hour)},
	})
	if !c.made(t, "Fill", err, slots...) {
		_, err := a.cache.ReleaseLease(t.Context(), &cachev1.ReleaseLeaseRequest{Namespace: c.namespace, Key: k.key, LeaseToken: got.LeaseToken})
		c.made(t, "ReleaseLease", err, slots...)
		return
	}
	if resp.Outcome != cachev1.FillOutcome_FILL_OUTCOME_STORED {
		t.Errorf("Fill of %s = %v, want stored", k.key, resp.Outcome)
		return
	}
	k.value, k.etag, k.at, k.by = value, resp.Etag, time.Now(), a
}

// batchGet reads all keys at once. Each counts as a call.
func (c *movingCaller) batchGet(t *testing.T, a *api) {
	t.Helper()
	var keys []string
	for _, k := range c.keys {
		keys = append(keys, k.key)
	}
	resp, err := a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{Namespace: c.namespace, Keys: keys, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY})
	if !c.made(t, "BatchGet", err, c.keySlots...) {
		return
	}
	for i, r := range resp.Results {
		slots := []int{c.keySlots[i], c.keySlots[len(c.keys)+1]}
		if c.madeOne(t, "BatchGet of one key", r.Reason, slots...) && string(r.Value) != c.keys[i].value {
			t.Errorf("BatchGet of %s = %q, want %q", r.Key, r.Value, c.keys[i].value)
		}
	}
}

// reads reports whether the entries and the sessions of the caller can be read.
func (c *movingCaller) reads(t *testing.T) bool {
	for _, a := range c.apis {
		for _, k := range c.keys {
			if _, err := a.cache.Get(t.Context(), &cachev1.GetRequest{Namespace: c.namespace, Key: k.key, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY}); err != nil {
				return false
			}
		}
		if _, err := a.session.GetSubject(t.Context(), &sessionv1.GetSubjectRequest{Namespace: c.namespace, Subject: c.subject}); err != nil {
			return false
		}
	}
	return true
}

// tokenPartition returns the partition of a session token or id.
func tokenPartition(t *testing.T, token string) byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "ls1_"))
	if err != nil {
		t.Errorf("token %q cannot be decoded: %v, want a token", token, err)
		return 0
	}
	return raw[0]
}
