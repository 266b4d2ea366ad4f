package client_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// asks makes one call to a backend that answers with resp, and compares the request and the result.
func asks[T any](t *testing.T, name string, resp proto.Message, do func(c *client.Client) (T, error), wantRequest proto.Message, want T) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		b := serve(t, always(resp))
		got, err := do(connect(t, client.Options{Target: b.addr, Namespace: "shop"}))
		if err != nil {
			t.Fatalf("the call failed with %v, want no error", err)
		}
		if diff := cmp.Diff(wantRequest, b.last(t), protocmp.Transform()); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(client.Error{})); diff != "" {
			t.Errorf("result (-want +got):\n%s", diff)
		}
	})
}

func TestGet(t *testing.T) {
	t.Parallel()
	resp := &cachev1.GetResponse{
		Outcome:     cachev1.GetOutcome_GET_OUTCOME_HIT,
		Value:       []byte("v"),
		Etag:        "e1",
		Ttl:         durationpb.New(time.Minute),
		StaleTtl:    durationpb.New(time.Hour),
		Age:         durationpb.New(time.Second),
		Source:      cachev1.Source_SOURCE_NEAR_CACHE,
		ContentType: "text/plain",
		Tags:        []string{"t"},
	}
	want := client.Entry{
		Key: "user:1", Outcome: client.Hit, Value: []byte("v"), ETag: "e1", TTL: time.Minute, StaleTTL: time.Hour,
		Age: time.Second, Source: client.NearCache, ContentType: "text/plain", Tags: []string{"t"},
	}
	asks(t, "Plain", resp, func(c *client.Client) (client.Entry, error) {
		return c.Cache.Get(t.Context(), "user:1")
	}, &cachev1.GetRequest{Namespace: "shop", Key: "user:1"}, want)
	asks(t, "With", resp, func(c *client.Client) (client.Entry, error) {
		return c.Cache.GetWith(t.Context(), "user:1", client.GetOptions{IfNoneMatch: "e0", Primary: true})
	}, &cachev1.GetRequest{
		Namespace: "shop", Key: "user:1", IfNoneMatch: "e0", Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY,
	}, want)
	asks(t, "InAnotherNamespace", resp, func(c *client.Client) (client.Entry, error) {
		return c.Cache.In("stock").Get(t.Context(), "user:1")
	}, &cachev1.GetRequest{Namespace: "stock", Key: "user:1"}, want)
	asks(t, "Miss", &cachev1.GetResponse{Outcome: cachev1.GetOutcome_GET_OUTCOME_MISS}, func(c *client.Client) (client.Entry, error) {
		return c.Cache.Get(t.Context(), "k")
	}, &cachev1.GetRequest{Namespace: "shop", Key: "k"}, client.Entry{Key: "k", Outcome: client.Miss})
	asks(t, "OutcomeOfALaterServer", &cachev1.GetResponse{Outcome: 99}, func(c *client.Client) (client.Entry, error) {
		return c.Cache.Get(t.Context(), "k")
	}, &cachev1.GetRequest{Namespace: "shop", Key: "k"}, client.Entry{Key: "k", Outcome: client.Unrecognized})
}

func TestFound(t *testing.T) {
	t.Parallel()
	for outcome, number := range cachev1.GetOutcome_value {
		b := serve(t, always(&cachev1.GetResponse{Outcome: cachev1.GetOutcome(number)}))
		e, err := connect(t, client.Options{Target: b.addr}).Cache.Get(t.Context(), "k")
		if err != nil {
			t.Fatalf("Get = error %v, want none", err)
		}
		want := outcome == "GET_OUTCOME_HIT" || outcome == "GET_OUTCOME_STALE"
		if e.Found() != want {
			t.Errorf("Found of an entry with the outcome %s = %v, want %v", outcome, e.Found(), want)
		}
	}
}

func TestSet(t *testing.T) {
	t.Parallel()
	stored := &cachev1.SetResponse{Outcome: cachev1.SetOutcome_SET_OUTCOME_STORED, Etag: "e2"}
	tests := []struct {
		name string
		o    client.SetOptions
		want *cachev1.SetRequest
	}{
		{"Zero", client.SetOptions{}, &cachev1.SetRequest{}},
		{
			"Full",
			client.SetOptions{TTL: time.Minute, StaleTTL: time.Hour, Negative: true, Tags: []string{"a", "b"}, ContentType: "text/plain"},
			&cachev1.SetRequest{
				Expiry:   &cachev1.SetRequest_Ttl{Ttl: durationpb.New(time.Minute)},
				StaleTtl: durationpb.New(time.Hour), Negative: true, Tags: []string{"a", "b"}, ContentType: "text/plain",
			},
		},
		{"ExpireTime", client.SetOptions{ExpireTime: noon}, &cachev1.SetRequest{Expiry: &cachev1.SetRequest_ExpireTime{ExpireTime: timestamppb.New(noon)}}},
		{"Never", client.SetOptions{Never: true}, &cachev1.SetRequest{Expiry: &cachev1.SetRequest_Never{Never: true}}},
		{"NegativeTTLIsForTheServerToRefuse", client.SetOptions{TTL: -1}, &cachev1.SetRequest{Expiry: &cachev1.SetRequest_Ttl{Ttl: durationpb.New(-1)}}},
		{"IfAbsent", client.SetOptions{IfAbsent: true}, &cachev1.SetRequest{Precondition: &cachev1.SetRequest_IfAbsent{IfAbsent: true}}},
		{"IfPresent", client.SetOptions{IfPresent: true}, &cachev1.SetRequest{Precondition: &cachev1.SetRequest_IfPresent{IfPresent: true}}},
		{"IfMatch", client.SetOptions{IfMatch: "e1"}, &cachev1.SetRequest{Precondition: &cachev1.SetRequest_IfMatch{IfMatch: "e1"}}},
		{"IfNoneMatch", client.SetOptions{IfNoneMatch: "e1"}, &cachev1.SetRequest{Precondition: &cachev1.SetRequest_IfNoneMatch{IfNoneMatch: "e1"}}},
	}
	for _, tt := range tests {
		tt.want.Namespace, tt.want.Key, tt.want.Value = "shop", "k", []byte("v")
		asks(t, tt.name, stored, func(c *client.Client) (client.WriteResult, error) {
			return c.Cache.Set(t.Context(), "k", []byte("v"), tt.o)
		}, tt.want, client.WriteResult{Key: "k", Outcome: client.Stored, ETag: "e2"})
	}
	asks(t, "NotStored", &cachev1.SetResponse{Outcome: cachev1.SetOutcome_SET_OUTCOME_NOT_STORED, Etag: "e1"}, func(c *client.Client) (client.WriteResult, error) {
		return c.Cache.Set(t.Context(), "k", nil, client.SetOptions{})
	}, &cachev1.SetRequest{Namespace: "shop", Key: "k"}, client.WriteResult{Key: "k", Outcome: client.NotStored, ETag: "e1"})
}

func TestDelete(t *testing.T) {
	t.Parallel()
	resp := &cachev1.DeleteResponse{Outcome: cachev1.DeleteOutcome_DELETE_OUTCOME_NOT_DELETED, Etag: "e2"}
	asks(t, "IfMatch", resp, func(c *client.Client) (client.WriteResult, error) {
		return c.Cache.Delete(t.Context(), "k", client.DeleteOptions{IfMatch: "e1"})
	}, &cachev1.DeleteRequest{Namespace: "shop", Key: "k", IfMatch: "e1"}, client.WriteResult{Key: "k", Outcome: client.NotDeleted, ETag: "e2"})
}

func TestTouch(t *testing.T) {
	t.Parallel()
	resp := &cachev1.TouchResponse{Outcome: cachev1.TouchOutcome_TOUCH_OUTCOME_UNCHANGED}
	asks(t, "ExtendOnly", resp, func(c *client.Client) (client.Outcome, error) {
		return c.Cache.Touch(t.Context(), "k", client.TouchOptions{TTL: time.Minute, Mode: client.ExtendOnly})
	}, &cachev1.TouchRequest{
		Namespace: "shop", Key: "k", Mode: cachev1.TouchMode_TOUCH_MODE_EXTEND_ONLY,
		Expiry: &cachev1.TouchRequest_Ttl{Ttl: durationpb.New(time.Minute)},
	}, client.Unchanged)
}

func TestIncrement(t *testing.T) {
	t.Parallel()
	resp := &cachev1.IncrementResponse{Outcome: cachev1.IncrementOutcome_INCREMENT_OUTCOME_SATURATED, Value: -5, Ttl: durationpb.New(time.Minute)}
	want := client.IncrementResult{Outcome: client.Saturated, Value: -5, TTL: time.Minute}
	asks(t, "Zero", resp, func(c *client.Client) (client.IncrementResult, error) {
		return c.Cache.Increment(t.Context(), "k", 0, client.IncrementOptions{})
	}, &cachev1.IncrementRequest{Namespace: "shop", Key: "k", Delta: new(int64(0))}, want)
	asks(t, "Full", resp, func(c *client.Client) (client.IncrementResult, error) {
		return c.Cache.Increment(t.Context(), "k", -7, client.IncrementOptions{
			Initial: 2, ExpireTime: noon, TTLPolicy: client.TTLAlways, Min: new(int64(-5)), Max: new(int64(0)), Saturate: true,
		})
	}, &cachev1.IncrementRequest{
		Namespace: "shop", Key: "k", Delta: new(int64(-7)), Initial: 2,
		Expiry:    &cachev1.IncrementRequest_ExpireTime{ExpireTime: timestamppb.New(noon)},
		TtlPolicy: cachev1.TtlPolicy_TTL_POLICY_ALWAYS, Min: new(int64(-5)), Max: new(int64(0)),
		OnBound: cachev1.BoundPolicy_BOUND_POLICY_SATURATE,
	}, want)
}

func TestBatch(t *testing.T) {
	t.Parallel()
	down := &client.Error{Code: codes.Unknown, Reason: "REDIS_UNAVAILABLE"}
	asks(t, "Get", &cachev1.BatchGetResponse{Results: []*cachev1.BatchGetResult{
		{Key: "a", Outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_STALE, Value: []byte("v"), Etag: "e", Source: cachev1.Source_SOURCE_REDIS},
		{Key: "b", Outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_FAILED, Reason: "REDIS_UNAVAILABLE"},
		{Key: "c", Outcome: cachev1.BatchGetOutcome_BATCH_GET_OUTCOME_UNPROCESSED},
	}}, func(c *client.Client) ([]client.Entry, error) {
		return c.Cache.BatchGet(t.Context(), []string{"a", "b", "c"}, client.BatchGetOptions{Primary: true})
	}, &cachev1.BatchGetRequest{
		Namespace: "shop", Keys: []string{"a", "b", "c"}, Consistency: cachev1.Consistency_CONSISTENCY_PRIMARY,
	}, []client.Entry{
		{Key: "a", Outcome: client.Stale, Value: []byte("v"), ETag: "e", Source: client.Redis},
		{Key: "b", Outcome: client.Failed, Err: down},
		{Key: "c", Outcome: client.Unprocessed},
	})
	asks(t, "Set", &cachev1.BatchSetResponse{Results: []*cachev1.BatchSetResult{
		{Key: "a", Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_STORED, Etag: "e"},
		{Key: "b", Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_FAILED, Reason: "REDIS_UNAVAILABLE"},
	}}, func(c *client.Client) ([]client.WriteResult, error) {
		return c.Cache.BatchSet(t.Context(), []client.SetItem{
			{Key: "a", Value: []byte("1"), Options: client.SetOptions{
				TTL: time.Minute, StaleTTL: time.Hour, Negative: true, Tags: []string{"t"}, ContentType: "text/plain",
			}},
			{Key: "b", Value: []byte("2")},
		})
	}, &cachev1.BatchSetRequest{Namespace: "shop", Items: []*cachev1.BatchSetItem{
		{
			Key: "a", Value: []byte("1"), Expiry: &cachev1.BatchSetItem_Ttl{Ttl: durationpb.New(time.Minute)},
			StaleTtl: durationpb.New(time.Hour), Negative: true, Tags: []string{"t"}, ContentType: "text/plain",
		},
		{Key: "b", Value: []byte("2")},
	}}, []client.WriteResult{{Key: "a", Outcome: client.Stored, ETag: "e"}, {Key: "b", Outcome: client.Failed, Err: down}})
	asks(t, "Delete", &cachev1.BatchDeleteResponse{Results: []*cachev1.BatchDeleteResult{
		{Key: "a", Outcome: cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_DELETED},
		{Key: "b", Outcome: cachev1.BatchDeleteOutcome_BATCH_DELETE_OUTCOME_FAILED, Reason: "REDIS_UNAVAILABLE"},
	}}, func(c *client.Client) ([]client.WriteResult, error) {
		return c.Cache.BatchDelete(t.Context(), []string{"a", "b"})
	}, &cachev1.BatchDeleteRequest{Namespace: "shop", Keys: []string{"a", "b"}},
		[]client.WriteResult{{Key: "a", Outcome: client.Deleted}, {Key: "b", Outcome: client.Failed, Err: down}})
}

func TestErrorOfABatchItemIsOfItsKind(t *testing.T) {
	t.Parallel()
	b := serve(t, always(&cachev1.BatchSetResponse{Results: []*cachev1.BatchSetResult{
		{Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_FAILED, Reason: "REDIS_UNAVAILABLE"},
		{Outcome: cachev1.BatchSetOutcome_BATCH_SET_OUTCOME_STORED},
	}}))
	written, err := connect(t, client.Options{Target: b.addr}).Cache.BatchSet(t.Context(), nil)
	if err != nil || len(written) != 2 {
		t.Fatalf("BatchSet = %v, %v; want 2 results and no error", written, err)
	}
	if !errors.Is(written[0].Err, client.ErrUnavailable) || written[1].Err != nil {
		t.Errorf("the items have the errors %v and %v, want ErrUnavailable and none", written[0].Err, written[1].Err)
	}
}

func TestDeleteMatching(t *testing.T) {
	t.Parallel()
	b := serve(t, nil)
	b.walk = func(s grpc.ServerStreamingServer[cachev1.DeleteMatchingResponse]) error {
		_ = s.Send(&cachev1.DeleteMatchingResponse{DeletedCount: 10, ResumeToken: "next"})
		return s.Send(&cachev1.DeleteMatchingResponse{DeletedCount: 12, Done: true})
	}
	c := connect(t, client.Options{Target: b.addr, Namespace: "shop"})
	var got []client.Progress
	for p, err := range c.Cache.DeleteMatching(t.Context(), "user:*", client.DeleteMatchingOptions{ResumeToken: "here"}) {
		if err != nil {
			t.Fatalf("DeleteMatching = error %v, want none", err)
		}
		got = append(got, p)
	}
	want := []client.Progress{{Deleted: 10, ResumeToken: "next"}, {Deleted: 12, Done: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	wantRequest := &cachev1.DeleteMatchingRequest{Namespace: "shop", Pattern: "user:*", ResumeToken: "here"}
	if diff := cmp.Diff(wantRequest, b.last(t), protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestListKeys(t *testing.T) {
	t.Parallel()
	b := serve(t, func(_ context.Context, req any) (any, error) {
		switch req.(*cachev1.ListKeysRequest).GetPageToken() {
		case "":
			return &cachev1.ListKeysResponse{Keys: []string{"a", "b"}, NextPageToken: "2"}, nil
		case "2":
			return &cachev1.ListKeysResponse{NextPageToken: "3"}, nil
		case "3":
			return &cachev1.ListKeysResponse{Keys: []string{"c"}, NextPageToken: "4"}, nil
		default:
			return nil, larderError(codes.InvalidArgument, "PAGE_TOKEN_INVALID")
		}
	})
	c := connect(t, client.Options{Target: b.addr, Namespace: "shop"})
	var got []string
	var last error
	for key, err := range c.Cache.ListKeys(t.Context(), "*", client.ListKeysOptions{PageSize: 2}) {
		if err != nil {
			last = err
			continue
		}
		got = append(got, key)
	}
	if want := []string{"a", "b", "c"}; !slices.Equal(got, want) || !errors.Is(last, client.ErrPageToken) {
		t.Errorf("ListKeys yielded the keys %v and then the error %v, want %v and ErrPageToken", got, last, want)
	}
	wantRequest := &cachev1.ListKeysRequest{Namespace: "shop", Pattern: "*", PageSize: 2, PageToken: "4"}
	if diff := cmp.Diff(wantRequest, b.last(t), protocmp.Transform()); diff != "" {
		t.Errorf("last request (-want +got):\n%s", diff)
	}

	before := b.calls()
	for range c.Cache.ListKeys(t.Context(), "", client.ListKeysOptions{}) {
		break
	}
	if n := b.calls() - before; n != 1 {
		t.Errorf("%d pages were read for the first key, want 1", n)
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	resp := &cachev1.GetStatsResponse{
		StartedAt: timestamppb.New(noon),
		Namespaces: []*cachev1.NamespaceStats{{Namespace: "shop", HitRatio: new(0.75), Reads: []*cachev1.ReadCount{
			{Outcome: cachev1.ReadOutcome_READ_OUTCOME_HIT, Source: cachev1.Source_SOURCE_NEAR_CACHE, Count: 3},
			{Outcome: cachev1.ReadOutcome_READ_OUTCOME_PENDING, Source: cachev1.Source_SOURCE_REDIS, Count: 1},
		}}},
		NearCache: &cachev1.NearCacheStats{Entries: 1, Bytes: 2, Evictions: 3, Invalidations: 4, Flushes: 5},
	}
	want := client.Stats{
		StartedAt: noon,
		Namespaces: []client.NamespaceStats{{Namespace: "shop", HitRatio: 0.75, Reads: []client.ReadCount{
			{Outcome: client.Hit, Source: client.NearCache, Count: 3}, {Outcome: client.Pending, Source: client.Redis, Count: 1},
		}}},
		NearCache: client.NearCacheStats{Entries: 1, Bytes: 2, Evictions: 3, Invalidations: 4, Flushes: 5},
	}
	asks(t, "OneNamespace", resp, func(c *client.Client) (client.Stats, error) {
		return c.Cache.Stats(t.Context(), client.StatsOptions{})
	}, &cachev1.GetStatsRequest{Namespace: "shop"}, want)
	asks(t, "DefaultNamespace", resp, func(c *client.Client) (client.Stats, error) {
		return c.Cache.In("").Stats(t.Context(), client.StatsOptions{})
	}, &cachev1.GetStatsRequest{Namespace: "default"}, want)
	asks(t, "AllNamespaces", resp, func(c *client.Client) (client.Stats, error) {
		return c.Cache.Stats(t.Context(), client.StatsOptions{AllNamespaces: true})
	}, &cachev1.GetStatsRequest{}, want)
}
