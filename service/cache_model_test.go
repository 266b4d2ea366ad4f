package service

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// TestCacheFollowsItsModel makes random calls of the whole CacheService, one after the other, through two replicas, and
// compares every answer with a small model. Entries live for hours, or for a millisecond that the test waits out.

// A modelEntry is one key's entry, there in Redis whether or not it was invalidated.
type modelEntry struct {
	value, etag, contentType string
	negative, counter        bool
	n                        int64 // of a counter
	tags                     []string
	// born says as of which step of the model the entry is.
	born int
	// soft is when it ceases to be fresh, zero for never; stale how much longer it is there.
	soft  span
	stale time.Duration
	// late says that soft has passed.
	late bool
}

// A span is when something happens, as near as the caller knows.
type span struct{ from, to time.Time }

func (s span) never() bool { return s.to.IsZero() }

// A modelLease is the lease of a key, as its holder knows it.
type modelLease struct {
	key, token string
	seen       string // the etag that was there
	born       int
	expired    bool
}

type modelMark struct{ deleted, stale int }

// cacheModelRun is a namespace in Redis beside its model.
type cacheModelRun struct {
	t        *testing.T
	mode     redis.Mode
	replicas []*replica
	ns       string

	now     int
	entries map[string]*modelEntry
	// slots holds the token of each key's lease; leaseHeldBack where leases are held back.
	slots  map[string]string
	leases []*modelLease
	marks  map[string]modelMark // by tag, that of the namespace under ""

	// deaf are the replicas that may not have heard of every write yet; whoever writes knows of it.
	deaf map[*replica]bool
	// invalidated by whom, until all clocks are surely past it.
	invalidatedBy *replica
}

const leaseHeldBack = "held back"

var (
	modelKeys     = []string{"k0", "k1", "k2", "k3"}
	modelTags     = []string{"x", "y"}
	modelPatterns = []string{"*", "k*", "k?", "k[0-1]", "k0", "none*"}
)

func drawOf[T any](t *rapid.T, label string, of ...T) T { return rapid.SampledFrom(of).Draw(t, label) }

func chance(t *rapid.T, label string, one int) bool {
	return rapid.IntRange(1, one).Draw(t, label) == 1
}

// reader returns a replica that has heard of every write: pushes come before the answer to a later question over the same
// connection, and nobody has these keys.
func (m *cacheModelRun) reader(t *rapid.T) *replica {
	r := rapid.SampledFrom(m.replicas).Draw(t, "replica")
	if !m.deaf[r] {
		return r
	}
	keys := make([]string, 1)
	if m.mode == redis.Cluster {
		keys = make([]string, 64) // some for each node
	}
	for i := range keys {
		keys[i] = rand.Text()
	}
	must[*cachev1.BatchGetResponse](m.t)(r.cache.BatchGet(m.t.Context(), &cachev1.BatchGetRequest{Namespace: m.ns, Keys: keys}))
	delete(m.deaf, r)
	return r
}

// writer returns a replica that will write. Only the one that made the last invalidation knows at once that what it
// writes comes after it.
func (m *cacheModelRun) writer(t *rapid.T) *replica {
	r := m.reader(t)
	if m.invalidatedBy != nil && m.invalidatedBy != r {
		m.settle()
	}
	m.wrote(r)
	return r
}

func (m *cacheModelRun) wrote(r *replica) {
	for _, other := range m.replicas {
		if other != r {
			m.deaf[other] = true
		}
	}
}

// settle waits until what anybody writes is surely as of a time after the last invalidation.
func (m *cacheModelRun) settle() {
	if len(m.replicas) == 1 {
		m.invalidatedBy = nil
	}
	for _, r := range m.replicas {
		if r == m.invalidatedBy || m.invalidatedBy == nil {
			continue
		}
		m.invalidatedBy = nil
		eventually(m.t, "past the invalidation", func() bool {
			req := &cachev1.SetRequest{Namespace: m.ns, Key: "probe", Tags: modelTags}
			must[*cachev1.SetResponse](m.t)(r.cache.Set(m.t.Context(), req))
			return m.get(r, "probe").Outcome == cachev1.GetOutcome_GET_OUTCOME_HIT
		})
		must[*cachev1.DeleteResponse](m.t)(r.cache.Delete(m.t.Context(), &cachev1.DeleteRequest{Namespace: m.ns, Key: "probe"}))
		m.wrote(r)
	}
}

func (m *cacheModelRun) get(r *replica, key string) *cachev1.GetResponse {
	return must[*cachev1.GetResponse](m.t)(r.cache.Get(m.t.Context(), &cachev1.GetRequest{
		Namespace: m.ns, Key: key, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY,
	}))
}

func (m *cacheModelRun) key(t *rapid.T) string { return rapid.SampledFrom(modelKeys).Draw(t, "key") }

// live returns a key's entry unless it was invalidated, and whether it was made stale.
func (m *cacheModelRun) live(key string) (e *modelEntry, stale bool) {
	e = m.entries[key]
	if e == nil || e.counter {
		return e, false
	}
	deleted, staled := m.marked(e.born, e.tags)
	if deleted {
		return nil, false
	}
	return e, staled
}

// marked says what invalidations have to do with what is as of a step.
func (m *cacheModelRun) marked(born int, tags []string) (deleted, stale bool) {
	for _, tag := range append([]string{""}, tags...) {
		deleted = deleted || m.marks[tag].deleted >= born
		stale = stale || m.marks[tag].stale >= born
	}
	return deleted, stale
}

func (m *cacheModelRun) liveETag(key string) string {
	if e, _ := m.live(key); e != nil {
		return e.etag
	}
	return ""
}

func (m *cacheModelRun) storedETag(key string) string {
	if e := m.entries[key]; e != nil {
		return e.etag
	}
	return ""
}

// An entryAnswer is what all reads answer alike.
type entryAnswer interface {
	GetValue() []byte
	GetEtag() string
	GetContentType() string
	GetTtl() *durationpb.Duration
	GetStaleTtl() *durationpb.Duration
}

const (
	readMiss = iota
	readHit
	readStale
	readNegative
)

// read returns what a read finds.
func (m *cacheModelRun) read(key string, tooOld bool) (int, *modelEntry) {
	e, stale := m.live(key)
	if e == nil {
		return readMiss, nil
	}
	stale = stale || e.late || tooOld && !e.counter
	switch {
	case stale && e.negative:
		return readMiss, nil
	case stale:
		return readStale, e
	case e.negative:
		return readNegative, e
	}
	return readHit, e
}

// shows compares an answer with an entry, which may be none.
func (m *cacheModelRun) shows(t *rapid.T, what string, got entryAnswer, e *modelEntry, stale bool) {
	t.Helper()
	want := modelEntry{}
	if e != nil {
		want = *e
	}
	if string(got.GetValue()) != want.value || got.GetEtag() != want.etag || got.GetContentType() != want.contentType {
		t.Fatalf("%s = %v, want %+v", what, got, want)
	}
	ttl, keep := want.soft, span{}
	if want.stale > 0 {
		keep = span{time.Now(), time.Now()}.plus(want.stale)
	}
	if stale {
		ttl, keep = span{}, want.soft.plus(want.stale)
	}
	m.runsOut(t, what+": ttl", got.GetTtl(), ttl)
	m.runsOut(t, what+": stale_ttl", got.GetStaleTtl(), keep)
}

func (s span) plus(d time.Duration) span {
	if s.never() {
		return s
	}
	return span{s.from.Add(d), s.to.Add(d)}
}

// runsOut compares how long something lasts yet with when it ends. The server's idea of the time may be off a little.
func (m *cacheModelRun) runsOut(t *rapid.T, what string, got *durationpb.Duration, want span) {
	t.Helper()
	const slack = 5 * time.Second
	left := got.AsDuration()
	if (got == nil) != want.never() || got != nil && (left < time.Until(want.from)-slack || left > time.Until(want.to)+slack) {
		t.Fatalf("%s = %v, want %v", what, got, time.Until(want.to))
	}
}

func (m *cacheModelRun) maxAge(t *rapid.T) (d *durationpb.Duration, tooOld bool) {
	if m.invalidatedBy != nil { // what is written now is of a time to come
		return nil, false
	}
	switch rapid.IntRange(0, 5).Draw(t, "max age") {
	case 0:
		return durationpb.New(1), true
	case 1:
		return durationpb.New(100 * time.Hour), false
	}
	return nil, false
}

func (m *cacheModelRun) getOne(t *rapid.T) {
	req := &cachev1.GetRequest{Namespace: m.ns, Key: m.key(t)}
	var r *replica
	if rapid.Bool().Draw(t, "primary") {
		r = rapid.SampledFrom(m.replicas).Draw(t, "replica")
		req.Consistency = cachev1.Consistency_CONSISTENCY_PRIMARY
	} else {
		r = m.reader(t)
	}
	var tooOld bool
	req.MaxAge, tooOld = m.maxAge(t)
	if chance(t, "if_none_match", 4) {
		req.IfNoneMatch = m.anyETag(t, req.Key)
	}
	if chance(t, "allow_stale", 4) {
		req.AllowStale = proto.Bool(rapid.Bool().Draw(t, "stale allowed"))
	}
	found, e := m.read(req.Key, tooOld)
	if found == readStale && req.AllowStale != nil && !*req.AllowStale {
		found, e = readMiss, nil
	}
	want := map[int]cachev1.GetOutcome{
		readMiss: cachev1.GetOutcome_GET_OUTCOME_MISS, readHit: cachev1.GetOutcome_GET_OUTCOME_HIT,
		readStale: cachev1.GetOutcome_GET_OUTCOME_STALE, readNegative: cachev1.GetOutcome_GET_OUTCOME_NEGATIVE,
	}[found]
	if found == readHit && req.IfNoneMatch == e.etag {
		same := *e
		same.value = ""
		want, e = cachev1.GetOutcome_GET_OUTCOME_NOT_MODIFIED, &same
	}
	got := must[*cachev1.GetResponse](m.t)(r.cache.Get(m.t.Context(), req))
	if got.Outcome != want {
		t.Fatalf("get %v = %v, want %v", req, got, want)
	}
	m.shows(t, "get", got, e, found == readStale)
}

func (m *cacheModelRun) batchGet(t *rapid.T) {
	keys := rapid.SliceOfN(rapid.SampledFrom(modelKeys), 1, 6).Draw(t, "keys")
	req := &cachev1.BatchGetRequest{Namespace: m.ns, Keys: keys, Consistency: cachev1.Consistency(rapid.IntRange(0, 2).Draw(t, "consistency"))}
	got := must[*cachev1.BatchGetResponse](m.t)(m.reader(t).cache.BatchGet(m.t.Context(), req))
	for i, key := range keys {
		found, e := m.read(key, false)
		want := map[int]cachev1.BatchGetOutcome{
			readMiss: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_MISS, readHit: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT,
			readStale: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_STALE, readNegative: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_NEGATIVE,
		}[found]
		if got.Results[i].Outcome != want || got.Results[i].Key != key {
			t.Fatalf("batch get of %s = %v, want %v", key, got.Results[i], want)
		}
		m.shows(t, "batch get of "+key, got.Results[i], e, found == readStale)
	}
}

// anyETag returns the etag of what is there, or one of something else.
// write draws what a Set, an item or a Fill writes.
// written puts an entry into the model that has been written by now.
// setShort writes an entry that lasts for a millisecond and waits for its end.
// removeInvalidated is what a refused increment does on its way to an invalidated entry.
// matching returns the keys of what is there, whether or not it was invalidated.
func TestCacheFollowsItsModel(t *testing.T) {
	t.Parallel()
	for _, mode := range []redis.Mode{redis.Standalone, redis.Cluster, redis.Embedded} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			o := store.Options{Redis: redis.Options{Mode: mode, CommandTimeout: 10 * time.Second}}
			replicas := 2
			switch mode {
			case redis.Standalone:
				o.Redis.Addrs = []string{redistest.Start(t, redistest.Options{}).Addr}
			case redis.Cluster:
				o.Redis.Addrs = redistest.StartCluster(t, redistest.ClusterOptions{}).Addrs()
			default:
				replicas = 1 // each process has its own
			}
			m := cacheModelRun{t: t, mode: mode}
			for i := range replicas {
				m.replicas = append(m.replicas, startReplica(t, o, i))
			}
			runs := 0
			rapid.Check(t, func(rt *rapid.T) {
				runs++
				m := m // each run begins with nothing
				m.ns, m.entries, m.slots = fmt.Sprintf("n%d", runs), make(map[string]*modelEntry), make(map[string]string)
				m.marks, m.deaf = make(map[string]modelMark), make(map[*replica]bool)
				rt.Repeat(map[string]func(*rapid.T){
					"set": m.set, "set again": m.set, "set short": m.setShort, "batch set": m.batchSet, "delete": m.deleteOne,
					"batch delete": m.batchDelete, "touch": m.touch, "increment": m.increment, "increment again": m.increment,
					"lease": m.lease, "lease again": m.lease, "fill": m.fill, "fill again": m.fill, "release": m.release,
					"invalidate": m.invalidate, "delete matching": m.deleteMatching, "list": m.list, "batch get": m.batchGet,
					"": m.getOne,
				})
			})
		})
	}
}
