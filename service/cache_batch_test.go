package service

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
)

func TestBatchGet(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	hit := a.set(t, &cachev1.SetRequest{Key: "hit", Value: []byte("v"), Expiry: setTTL(time.Minute), StaleTtl: secs(600), ContentType: "text/plain"})
	stale := a.set(t, &cachev1.SetRequest{Key: "stale", Value: []byte("old"), Expiry: setTTL(time.Nanosecond), StaleTtl: secs(60)})
	negative := a.set(t, &cachev1.SetRequest{Key: "negative", Negative: true, Expiry: &cachev1.SetRequest_Never{Never: true}})
	a.do(t, "LPUSH", "ld:c:{default:list}", "x")
	a.do(t, "SETEX", "ld:c:{default:plain}", "60", "7")
	eventually(t, "stale", func() bool { return a.primary(t, "", "stale").Outcome == cachev1.GetOutcome_GET_OUTCOME_STALE })

	r := &cachev1.BatchGetRequest{Keys: []string{"hit", "miss", "list", "stale", "hit", "negative", "plain"}}
	for _, source := range []cachev1.Source{cachev1.Source_SOURCE_REDIS, cachev1.Source_SOURCE_NEAR_CACHE, cachev1.Source_SOURCE_REDIS} {
		if source == cachev1.Source_SOURCE_NEAR_CACHE {
			r.Consistency = cachev1.Consistency_CONSISTENCY_NEAR
			must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), r))
		} else {
			r.Consistency = cachev1.Consistency_CONSISTENCY_PRIMARY
		}
		got := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), r))
		if len(got.Results) != len(r.Keys) {
			t.Fatalf("BatchGet returned %d results, want %d", len(got.Results), len(r.Keys))
		}
		for _, i := range []int{0, 4} {
			remains(t, "ttl", &got.Results[i].Ttl, time.Minute)
			remains(t, "stale_ttl", &got.Results[i].StaleTtl, 10*time.Minute)
			elapsed(t, "age", &got.Results[i].Age)
		}
		remains(t, "stale_ttl", &got.Results[3].StaleTtl, time.Minute)
		elapsed(t, "age", &got.Results[3].Age)
		elapsed(t, "age", &got.Results[5].Age)
		remains(t, "ttl", &got.Results[6].Ttl, time.Minute)
		plain := got.Results[6].Etag
		if !isETag(plain) {
			t.Errorf("etag of a plain value = %q, want 16 hexadecimal digits", plain)
		}
		of := func(key string, outcome cachev1.BatchGetOutcome, value, etag, contentType string) *cachev1.BatchGetResult {
			return &cachev1.BatchGetResult{Key: key, Outcome: outcome, Value: []byte(value), Etag: etag, Source: source, ContentType: contentType}
		}
		same(t, &cachev1.BatchGetResponse{Results: []*cachev1.BatchGetResult{
			of("hit", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT, "v", hit, "text/plain"),
			{Key: "miss", Outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_MISS},
			{Key: "list", Outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_FAILED, Reason: "WRONG_TYPE"},
			of("stale", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_STALE, "old", stale, ""),
			of("hit", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT, "v", hit, "text/plain"),
			of("negative", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_NEGATIVE, "", negative, ""),
			of("plain", cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT, "7", plain, ""),
		}}, got)
	}
}

// An answer that would be too large for a caller with gRPC's own limit of 4 MiB is cut, and what is left out can be asked for.
func TestBatchGetAnswersWhatFits(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	for _, tt := range []struct {
		name          string
		count         int
		key, value    int // bytes
		smallest, few int // calls it must take, and may take
	}{
		{"LargeValues", 9, 10, 1 << 20, 3, 3},
		{"ManySmall", 1000, 10, 100, 1, 1},
		{"ManyOfOnePage", 1000, 10, 4000, 2, 2},
		{"ManyOfLongKeys", 1000, 1024, 3400, 2, 4},
		{"EverythingLong", 1000, 1024, 5000, 3, 3},
		{"MissesOfLongKeys", 1000, 1024, -1, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var all []string
			for i := range tt.count {
				key := fmt.Sprintf("%04d", i)
				all = append(all, key+strings.Repeat("k", tt.key-len(key)))
			}
			for chunk := range slices.Chunk(all, 100) {
				var items []*cachev1.BatchSetItem
				for _, key := range chunk {
					items = append(items, &cachev1.BatchSetItem{
						Key: key, Value: bytes.Repeat([]byte("v"), max(tt.value, 0)), ContentType: strings.Repeat("c", 255),
					})
				}
				for items := range slices.Chunk(items, max(1, 3<<20/max(tt.value+tt.key, 1))) {
					if tt.value >= 0 {
						must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Namespace: strings.ToLower(tt.name), Items: items}))
					}
				}
			}
			calls, read := 0, map[string]bool{}
			for keys := all; len(keys) > 0; calls++ {
				resp := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{Namespace: strings.ToLower(tt.name), Keys: keys}))
				if size := proto.Size(resp); size > 7<<19 {
					t.Errorf("size of an answer = %d bytes, want at most %d", size, 7<<19)
				}
				var left []string
				for i, result := range resp.Results {
					if result.Key != keys[i] {
						t.Fatalf("key of result %d = %q, want %q", i, result.Key, keys[i])
					}
					switch result.Outcome {
					case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_UNPROCESSED:
						same(t, &cachev1.BatchGetResult{Key: keys[i], Outcome: result.Outcome}, result)
						left = append(left, result.Key)
					case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT:
						if len(result.Value) != tt.value || read[result.Key] {
							t.Fatalf("result %d has %d bytes (read before: %t), want %d bytes once", i, len(result.Value), read[result.Key], tt.value)
						}
						read[result.Key] = true
					case cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_MISS:
						read[result.Key] = tt.value < 0
					default:
						t.Fatalf("result %d = %v, want UNPROCESSED, HIT or MISS", i, result)
					}
				}
				if diff := cmp.Diff(left, resp.Unprocessed); diff != "" || len(left) == len(keys) {
					t.Fatalf("%d of %d keys are unprocessed, want fewer than all, and those of the results (-want +got):\n%s", len(left), len(keys), diff)
				}
				keys = resp.Unprocessed
			}
			if len(read) != tt.count || calls < tt.smallest || calls > tt.few {
				t.Errorf("read %d entries in %d calls, want %d in %d to %d", len(read), calls, tt.count, tt.smallest, tt.few)
			}
		})
	}
}

// A limit below a single value must not keep a caller asking for ever.
func TestBatchGetAlwaysGetsOn(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{MaxBatchBytes: 10})
	for i, key := range []string{"a", "b", "c"} {
		a.set(t, &cachev1.SetRequest{Key: key, Value: make([]byte, 100*i+50)})
	}
	keys := []string{"a", "b", "none", "c"}
	for calls := 0; len(keys) > 0; calls++ {
		resp := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{Keys: keys}))
		if diff := cmp.Diff([][]string{{"b", "c"}, {"c"}, nil}[calls], resp.Unprocessed); diff != "" {
			t.Fatalf("unprocessed after call %d (-want +got):\n%s", calls, diff)
		}
		keys = resp.Unprocessed
	}
}

// What does not fit the answer is not read, but for the rest of its portion: 1000 values of the largest size would take a
// gibibyte.
func TestBatchGetReadsLittleMoreThanItAnswers(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{MaxBatchBytes: 256 << 10})
	var keys []string
	for i := range 1000 {
		keys = append(keys, fmt.Sprintf("%04d", i))
		a.do(t, "SET", "ld:c:{default:"+keys[i]+"}", strings.Repeat("v", 1000))
	}
	read := map[string]bool{}
	for left := keys; len(left) > 0; {
		a.redis.ResetCommandCalls(t)
		resp := must[*cachev1.BatchGetResponse](t)(a.cache.BatchGet(t.Context(), &cachev1.BatchGetRequest{
			Keys: left, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY,
		}))
		answered := 0
		for _, result := range resp.Results {
			if result.Outcome == cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_HIT {
				answered++
				read[result.Key] = true
			}
		}
		if gets := a.redis.CommandCalls(t)["get"]; answered == 0 || gets > int64(answered)+128 {
			t.Fatalf("Redis served %d reads for %d answers, want at most 128 more, and at least one answer", gets, answered)
		}
		left = resp.Unprocessed
	}
	if len(read) != len(keys) {
		t.Errorf("read %d keys, want %d", len(read), len(keys))
	}
}

func TestBatchSet(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{DefaultTTL: 5 * time.Minute})
	resp := must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Items: []*cachev1.BatchSetItem{
		{Key: "default", Value: []byte("v")},
		{Key: "all", Value: []byte("v"), Expiry: &cachev1.BatchSetItem_Ttl{Ttl: secs(60)}, StaleTtl: secs(60), Tags: []string{"red", "red"}, ContentType: "text/plain"},
		{Key: "until", Expiry: &cachev1.BatchSetItem_ExpireTime{ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}},
		{Key: "twice", Value: []byte("first"), Expiry: &cachev1.BatchSetItem_Ttl{Ttl: secs(60)}},
		{Key: "never", Negative: true, Expiry: &cachev1.BatchSetItem_Never{Never: true}},
		{Key: "twice", Value: []byte("last")},
	}}))
	etags := map[string]string{}
	for i, key := range []string{"default", "all", "until", "twice", "never", "twice"} {
		r := resp.Results[i]
		if !isETag(r.Etag) || etags[key] == r.Etag {
			t.Errorf("etag of %s = %q, want a new one of 16 hexadecimal digits", key, r.Etag)
		}
		etags[key] = r.Etag
		same(t, &cachev1.BatchSetResult{Key: key, Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_STORED, Etag: r.Etag}, r)
	}
	if len(resp.Results) != 6 {
		t.Errorf("BatchSet returned %d results, want 6", len(resp.Results))
	}
	for key, want := range map[string]struct {
		ttl, stale time.Duration
		value      string
		outcome    cachev1.GetOutcome
		media      string
	}{
		"default": {5 * time.Minute, 0, "v", cachev1.GetOutcome_GET_OUTCOME_HIT, ""},
		"all":     {time.Minute, time.Minute, "v", cachev1.GetOutcome_GET_OUTCOME_HIT, "text/plain"},
		"until":   {time.Hour, 0, "", cachev1.GetOutcome_GET_OUTCOME_HIT, ""},
		"twice":   {5 * time.Minute, 0, "last", cachev1.GetOutcome_GET_OUTCOME_HIT, ""},
		"never":   {0, 0, "", cachev1.GetOutcome_GET_OUTCOME_NEGATIVE, ""},
	} {
		got := a.primary(t, "", key)
		if want.ttl > 0 {
			remains(t, key+": ttl", &got.Ttl, want.ttl)
		}
		if want.stale > 0 {
			remains(t, key+": stale_ttl", &got.StaleTtl, want.stale)
		}
		elapsed(t, key+": age", &got.Age)
		var tags []string
		if key == "all" {
			tags = []string{"red"}
		}
		same(t, &cachev1.GetResponse{
			Outcome: want.outcome, Value: []byte(want.value), Etag: etags[key], Source: cachev1.Source_SOURCE_REDIS, ContentType: want.media,
			Tags: tags,
		}, got)
	}
}

func TestBatchDelete(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	a.set(t, &cachev1.SetRequest{Key: "a"})
	a.set(t, &cachev1.SetRequest{Key: "b"})
	a.set(t, &cachev1.SetRequest{Key: "kept"})
	a.do(t, "LPUSH", "ld:c:{default:list}", "x")
	const (
		deleted = cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_DELETED
		miss    = cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_MISS
	)
	same(t, &cachev1.BatchDeleteResponse{Results: []*cachev1.BatchDeleteResult{
		{Key: "a", Outcome: deleted}, {Key: "none", Outcome: miss}, {Key: "b", Outcome: deleted}, {Key: "a", Outcome: miss}, {Key: "list", Outcome: deleted},
	}}, must[*cachev1.BatchDeleteResponse](t)(a.cache.BatchDelete(t.Context(), &cachev1.BatchDeleteRequest{Keys: []string{"a", "none", "b", "a", "list"}})))
	for key, want := range map[string]cachev1.GetOutcome{"a": cachev1.GetOutcome_GET_OUTCOME_MISS, "kept": cachev1.GetOutcome_GET_OUTCOME_HIT} {
		if got := a.get(t, &cachev1.GetRequest{Key: key}); got.Outcome != want {
			t.Errorf("Get(%s) = %v, want %v", key, got, want)
		}
	}
}

// Redis refuses some keys, or all of them.
func TestBatchesThatFailInPart(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	item := func(key string) *cachev1.BatchSetItem { return &cachev1.BatchSetItem{Key: key} }
	a.set(t, &cachev1.SetRequest{Key: "mine"})
	a.do(t, "ACL", "SETUSER", "default", "resetkeys", "~ld:c:{default:mine*}", "~ld:l:{default:mine*}", "~ld:n:*")

	set := must[*cachev1.BatchSetResponse](t)(a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Items: []*cachev1.BatchSetItem{item("theirs"), item("mine")}}))
	if len(set.Results) != 2 || !isETag(set.Results[1].Etag) {
		t.Fatalf("BatchSet = %v, want two results, the second with an etag", set)
	}
	set.Results[1].Etag = ""
	same(t, []*cachev1.BatchSetResult{
		{Key: "theirs", Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_FAILED, Reason: "REDIS_REFUSED"},
		{Key: "mine", Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_STORED},
	}, set.Results)
	same(t, []*cachev1.BatchDeleteResult{
		{Key: "mine", Outcome: cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_DELETED},
		{Key: "theirs", Outcome: cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_FAILED, Reason: "REDIS_REFUSED"},
	}, must[*cachev1.BatchDeleteResponse](t)(a.cache.BatchDelete(t.Context(), &cachev1.BatchDeleteRequest{Keys: []string{"mine", "theirs"}})).Results)

	refused := answer{Code: codes.Internal, Reason: "REDIS_REFUSED"}
	_, err := a.cache.BatchSet(t.Context(), &cachev1.BatchSetRequest{Items: []*cachev1.BatchSetItem{item("theirs"), item("theirs2")}})
	wantAnswer(t, err, refused)
	_, err = a.cache.BatchDelete(t.Context(), &cachev1.BatchDeleteRequest{Keys: []string{"theirs", "theirs2"}})
	wantAnswer(t, err, refused)
}
