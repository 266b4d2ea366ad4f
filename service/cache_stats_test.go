package service

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// stats returns the figures of one namespace, or of all if it is empty.
func (a *api) stats(t testing.TB, ns string) *cachev1.GetStatsResponse {
	t.Helper()
	return must[*cachev1.GetStatsResponse](t)(a.cache.GetStats(t.Context(), &cachev1.GetStatsRequest{Namespace: ns}))
}

const (
	fromNear  = cachev1.Source_SOURCE_NEAR_CACHE
	fromRedis = cachev1.Source_SOURCE_REDIS
)

func TestReadsAreCounted(t *testing.T) {
	t.Parallel()
	began := time.Now()
	a := newAPI(t, policy.Limits{})
	get := func(r *cachev1.GetRequest, want cachev1.GetOutcome) {
		t.Helper()
		r.Namespace, r.Consistency = "shop", cachev1.Consistency_CONSISTENCY_PRIMARY
		if got := a.get(t, r); got.Outcome != want {
			t.Fatalf("Get = %v, want %v", got, want)
		}
	}
	etag := a.set(t, &cachev1.SetRequest{Namespace: "shop", Key: "hit", Value: []byte("v")})
	a.set(t, &cachev1.SetRequest{Namespace: "shop", Key: "negative", Negative: true})
	a.stale(t, "shop") // polls "k" and so adds reads of its own
	before := a.stats(t, "shop").Namespaces[0]

	get(&cachev1.GetRequest{Key: "hit"}, cachev1.GetOutcome_GET_OUTCOME_HIT)
	get(&cachev1.GetRequest{Key: "hit", IfNoneMatch: etag}, cachev1.GetOutcome_GET_OUTCOME_NOT_MODIFIED)
	get(&cachev1.GetRequest{Key: "k"}, cachev1.GetOutcome_GET_OUTCOME_STALE)
	get(&cachev1.GetRequest{Key: "k", AllowStale: proto.Bool(false)}, cachev1.GetOutcome_GET_OUTCOME_MISS)
	get(&cachev1.GetRequest{Key: "negative"}, cachev1.GetOutcome_GET_OUTCOME_NEGATIVE)
	get(&cachev1.GetRequest{Key: "none"}, cachev1.GetOutcome_GET_OUTCOME_MISS)
	a.do(t, "LPUSH", "ld:c:{shop:list}", "x")
	must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{
		Namespace: "shop", Keys: []string{"hit", "hit", "none", "list"}, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY,
	}))
	lease := &cachev1.GetOrLeaseRequest{Namespace: "shop", Key: "leased"}
	a.lease(t, lease, leaseMiss, true)
	a.lease(t, lease, leasePending, false)
	if _, err := a.cache.Get(t.Context(), &cachev1.GetRequest{Namespace: "shop"}); err == nil { // misuse is no read
		t.Error("Get without a key = nil, want an error")
	}

	want := map[cachev1.ReadOutcome]int64{
		cachev1.ReadOutcome_READ_OUTCOME_HIT: 3, cachev1.ReadOutcome_READ_OUTCOME_NOT_MODIFIED: 1,
		cachev1.ReadOutcome_READ_OUTCOME_STALE: 1, cachev1.ReadOutcome_READ_OUTCOME_NEGATIVE: 1,
		cachev1.ReadOutcome_READ_OUTCOME_MISS: 4, cachev1.ReadOutcome_READ_OUTCOME_PENDING: 1,
		cachev1.ReadOutcome_READ_OUTCOME_FAILED: 1,
	}
	for _, r := range before.Reads {
		want[r.Outcome] += r.Count
	}
	got := a.stats(t, "shop")
	if len(got.Namespaces) != 1 || got.Namespaces[0].Namespace != "shop" {
		t.Fatalf("GetStats = %v, want the namespace shop alone", got)
	}
	if started := got.StartedAt.AsTime(); started.Before(began) || started.After(time.Now()) {
		t.Errorf("started_at = %v, want between %v and now", started, began)
	}
	hits, reads := 0.0, 0.0
	counts := map[cachev1.ReadOutcome]int64{}
	for _, r := range got.Namespaces[0].Reads {
		counts[r.Outcome] += r.Count
		switch r.Outcome {
		case cachev1.ReadOutcome_READ_OUTCOME_MISS, cachev1.ReadOutcome_READ_OUTCOME_PENDING:
			reads += float64(r.Count)
		case cachev1.ReadOutcome_READ_OUTCOME_FAILED:
		default:
			hits, reads = hits+float64(r.Count), reads+float64(r.Count)
		}
		label := strings.ToLower(strings.TrimPrefix(r.Outcome.String(), "READ_OUTCOME_"))
		source := strings.ToLower(strings.TrimPrefix(r.Source.String(), "SOURCE_"))
		if n := metric(t, a.Server, "larder_cache_reads_total", "namespace", "shop", "outcome", label, "source", source); n != float64(r.Count) {
			t.Errorf("larder_cache_reads_total = %v, want that of %v", n, r)
		}
	}
	for outcome, n := range want {
		if counts[outcome] != n {
			t.Errorf("count of %v = %d, want %d", outcome, counts[outcome], n)
		}
	}
	if ratio := got.Namespaces[0].GetHitRatio(); ratio != hits/reads {
		t.Errorf("hit ratio = %v, want %v of %v", ratio, hits, reads)
	}
}

func TestReadsTellTheirSource(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	for key, outcome := range map[string]cachev1.ReadOutcome{"there": cachev1.ReadOutcome_READ_OUTCOME_HIT, "none": cachev1.ReadOutcome_READ_OUTCOME_MISS} {
		if key == "there" {
			a.set(t, &cachev1.SetRequest{Namespace: "n" + key, Key: key, Value: []byte("v")})
		}
		counted := func(source cachev1.Source) (n int64) {
			for _, ns := range a.stats(t, "n"+key).Namespaces {
				for _, r := range ns.Reads {
					if r.Outcome == outcome && r.Source == source {
						n += r.Count
					}
				}
			}
			return n
		}
		a.get(t, &cachev1.GetRequest{Namespace: "n" + key, Key: key})
		if counted(fromRedis) != 1 || counted(fromNear) != 0 {
			t.Errorf("%s: reads from Redis = %d, from the near cache = %d, want 1 and 0", key, counted(fromRedis), counted(fromNear))
		}
		eventually(t, "answered from memory", func() bool {
			a.get(t, &cachev1.GetRequest{Namespace: "n" + key, Key: key})
			return counted(fromNear) == 1
		})
	}
	if near := a.stats(t, "").NearCache; near.Entries == 0 || near.Bytes == 0 {
		t.Errorf("near cache = %v, want entries and bytes", near)
	}
	if got := a.stats(t, "never-read"); len(got.Namespaces) != 0 {
		t.Errorf("GetStats of a namespace that nobody has read = %v, want no counts", got)
	}
}

// Whoever can make calls can invent namespaces.
func TestNamespacesOfReadsAreBounded(t *testing.T) {
	t.Parallel()
	r := newReads()
	m := NewMetrics()
	m.watchReads(r)
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			for i := range 10 * maxReadNamespaces {
				r.of(fmt.Sprint("n", i)).add(cachev1.ReadOutcome_READ_OUTCOME_MISS, false)
			}
		})
	}
	calls.Wait()
	all := r.all()
	total := int64(0)
	for _, counts := range all {
		counts.each(func(_ cachev1.ReadOutcome, _ cachev1.Source, n int64) { total += n })
	}
	if len(all) != maxReadNamespaces+1 || all[otherNamespaces] == nil || total != 40*maxReadNamespaces {
		t.Errorf("counts = %d namespaces with %d reads, want %d, one of them %s, with %d", len(all), total, maxReadNamespaces+1, otherNamespaces, 40*maxReadNamespaces)
	}
	s := &Server{metrics: m}
	w := httptest.NewRecorder()
	s.AdminHandler(false).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	page, err := io.ReadAll(w.Result().Body)
	if n := strings.Count(string(page), "\nlarder_cache_reads_total{"); err != nil || n != maxReadNamespaces+1 {
		t.Errorf("time series of reads = %d, %v, want %d", n, err, maxReadNamespaces+1)
	}
}

func TestCountingReadsAllocatesNothing(t *testing.T) {
	r := newReads()
	r.of("shop")
	for _, ns := range []string{"shop", "unknown"} {
		for i := range maxReadNamespaces { // the second finds no room
			if ns == "unknown" {
				r.of(fmt.Sprint("n", i))
			}
		}
		if n := testing.AllocsPerRun(100, func() { r.of(ns).add(cachev1.ReadOutcome_READ_OUTCOME_HIT, true) }); n != 0 {
			t.Errorf("counting a read of %s allocates %v times, want 0", ns, n)
		}
	}
}

func TestGetStatsNeedsNoRedis(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.redis.Kill()
	eventually(t, "known to be down", func() bool { return !a.health.Redis() })
	a.stats(t, "")
}

func TestReadsTellTags(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.set(t, &cachev1.SetRequest{Key: "k", Value: []byte("v"), Tags: []string{"b", "a", "b"}})
	want := fmt.Sprint([]string{"b", "a"})
	if got := a.get(t, &cachev1.GetRequest{Key: "k"}); fmt.Sprint(got.Tags) != want {
		t.Errorf("tags of Get = %v, want %s", got, want)
	}
	batch := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{Keys: []string{"k"}}))
	if fmt.Sprint(batch.Results[0].Tags) != want {
		t.Errorf("tags of BatchGet = %v, want %s", batch, want)
	}
	if got := a.lease(t, &cachev1.GetOrLeaseRequest{Key: "k", Beta: proto.Float64(0)}, leaseHit, false); fmt.Sprint(got.Tags) != want {
		t.Errorf("tags of GetOrLease = %v, want %s", got, want)
	}
}

// What counting adds to a Get that the near cache answers.
func BenchmarkGet(b *testing.B) {
	a := newAPI(b, policy.Limits{})
	a.set(b, &cachev1.SetRequest{Key: "k", Value: []byte("v")})
	a.get(b, &cachev1.GetRequest{Key: "k"})
	c := NewCache(a.store(b), policy.New(policy.Limits{}), NewMetrics())
	ctx, r := context.Background(), &cachev1.GetRequest{Key: "k"}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Get(ctx, r); err != nil {
				b.Errorf("Get = %v, want nil", err)
			}
		}
	})
}

func BenchmarkCountRead(b *testing.B) {
	r := newReads()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.of("shop").add(cachev1.ReadOutcome_READ_OUTCOME_HIT, true)
		}
	})
}

// store returns another store over the same Redis, for handlers that are called without a server.
func (a *api) store(t testing.TB) *store.Store {
	t.Helper()
	st, err := store.New(store.Options{Redis: redis.Options{Addrs: []string{a.addr}, NearCacheBytes: 1 << 20, NearCacheTTL: time.Hour}})
	if err != nil {
		t.Fatalf("store.New = %v, want nil", err)
	}
	t.Cleanup(st.Close)
	if err := st.Redis.Connect(t.Context()); err != nil {
		t.Fatalf("Connect = %v, want nil", err)
	}
	return st
}
