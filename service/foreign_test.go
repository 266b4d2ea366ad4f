package service

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
)

// Other clients of Redis may name their keys as they like. Keys that no caller of Larder can name are told to none, and spoil
// nothing for the others.
func TestForeignKeysThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{PlainNamespace: "plain"})
	stream, err := a.cache.Watch(t.Context(), &cachev1.WatchRequest{Namespace: "plain"})
	if err != nil {
		t.Fatalf("Watch = %v, want a stream", err)
	}
	if first, err := stream.Recv(); err != nil || first.GetEvent() != cachev1.WatchEvent_WATCH_EVENT_RESET {
		t.Fatalf("Recv = %v, %v, want RESET", first, err)
	}
	for _, key := range []string{"a", "user:\xff\xfe", "\x80", "ld:t:{plain:\xff}", "b"} {
		a.do(t, "SET", key, "v")
	}
	var told []string
	for len(told) == 0 || told[len(told)-1] != "b" {
		event, err := stream.Recv()
		if err != nil {
			t.Fatalf("Recv = %v after a key that is not UTF-8, want the keys that follow", err)
		}
		told = append(told, event.GetKeys()...)
	}
	if diff := cmp.Diff([]string{"a", "b"}, told); diff != "" {
		t.Errorf("keys of the watch (-want +got):\n%s", diff)
	}
	page, err := a.cache.ListKeys(t.Context(), &cachev1.ListKeysRequest{Namespace: "plain"})
	if err != nil || strings.Join(slices.Sorted(slices.Values(page.GetKeys())), " ") != "a b" {
		t.Errorf("ListKeys = %q, %v, want a and b", page.GetKeys(), err)
	}
	// An entry whose text is not UTF-8 was not written by Larder.
	header := "\xc1LD\x01\x04" + strings.Repeat("\x00", 36) // with a content type
	a.do(t, "SET", "ld:c:{default:odd}", header+"\x01\xffvalue")
	_, err = a.cache.Get(t.Context(), &cachev1.GetRequest{Key: "odd"})
	wantAnswer(t, err, answer{codes.DataLoss, "ENTRY_CORRUPT", false})
}
