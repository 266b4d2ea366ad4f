package warm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/cmd/larder/lardertest"
	"github.com/berthcare/larder/store/redistest"
)

// drawItem draws an entry.
func drawItem(r *rapid.T, i int) client.SetItem {
	ttl := rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Minute, time.Hour})
	item := client.SetItem{
		Key:   fmt.Sprint(i, rapid.StringMatching(`[^\x00]{0,20}`).Draw(r, "key")),
		Value: rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 100), rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) })).Draw(r, "value"),
		Options: client.SetOptions{
			TTL: ttl.Draw(r, "ttl"), ContentType: rapid.SampledFrom([]string{"", "text/plain", "\u2028<&>"}).Draw(r, "content type"),
			Tags: rapid.SliceOfNDistinct(rapid.StringMatching(`[^\x00]{1,10}`), 0, 4, rapid.ID).Draw(r, "tags"),
		},
	}
	o := &item.Options
	switch rapid.IntRange(0, 3).Draw(r, "kind") {
	case 0:
		o.Negative, item.Value = true, nil
	case 1:
		o.StaleTTL = time.Hour
	case 2:
		if len(o.Tags) == 0 {
			o.TTL, o.Never = 0, true
		}
	}
	if o.TTL == time.Millisecond && o.StaleTTL == 0 {
		o.TTL = time.Minute
	}
	return item
}

// Entries that are exported from one namespace and sent to another are the same in both.
func TestExportIntoWarm(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t, redistest.Options{})
	s := serve(t, []string{"REDIS_URL=" + redis.URL()})
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		round++
		from, to := fmt.Sprint("from", round), fmt.Sprint("to", round)
		var items []client.SetItem
		for i := range rapid.IntRange(0, 12).Draw(r, "entries") {
			items = append(items, drawItem(r, i))
		}
		if len(items) > 0 {
			if _, err := s.Cache.In(from).BatchSet(t.Context(), items); err != nil {
				r.Fatalf("write the entries: %v", err)
			}
		}
		<-time.After(2 * time.Millisecond) // an entry with a ttl of 1 ms is stale from then on
		lines := s.export(t, "--namespace="+from)
		got := s.warm(t.Context(), t, strings.NewReader(lines), "-", "--namespace="+to, "--batch=5")
		if want := fmt.Sprintf("%d stored, 0 expired and 0 bad", len(items)); got.code != 0 || !strings.HasPrefix(got.stdout, want) {
			r.Fatalf("warm: exit code %d, standard output %q, standard error %q; want 0 and %q; lines:\n%s", got.code, got.stdout, got.stderr, want, lines)
		}
		<-time.After(2 * time.Millisecond)
		before, after := s.entries(t, from), s.entries(t, to)
		same := cmp.Comparer(func(a, b client.Entry) bool {
			near := func(a, b time.Duration) bool { return (a == 0) == (b == 0) && (a-b).Abs() < 20*time.Second }
			return a.Outcome == b.Outcome && bytes.Equal(a.Value, b.Value) && near(a.TTL, b.TTL) && near(a.StaleTTL, b.StaleTTL) &&
				a.ContentType == b.ContentType && slices.Equal(a.Tags, b.Tags)
		})
		if diff := cmp.Diff(before, after, same); diff != "" || len(before) != len(items) {
			r.Fatalf("%d entries were written and %d exported (-exported +warmed):\n%s\nlines:\n%s", len(items), len(before), diff, lines)
		}
	})
}

func TestExportToAFile(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	s.warm(t.Context(), t, nil, s.file(t, "in", numbered(1200)...)).check(t, 0, "1200 stored")
	path := filepath.Join(s.dir, "out")
	if out := s.export(t, "--output="+path, "--pattern=k1*"); out != "" {
		t.Errorf("standard output of an export to a file = %q, want nothing", out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil || !strings.HasPrefix(e.Key, "k1") || e.Value == nil || "k"+*e.Value != e.Key {
			t.Errorf("line %q: %v; want a key that begins with k1 and the value that belongs to it", line, err)
		}
		keys[e.Key] = true
	}
	if want := 311; len(keys) != want { // 1, 10 to 19, 100 to 199, 1000 to 1199
		t.Errorf("the file has %d keys, want %d", len(keys), want)
	}
	// An export that fails leaves the file as it was, and no temporary file.
	if code, _, stderr := lardertest.Run(t, nil, "export", "--addr="+lardertest.ClosedAddr(t), "--attempts=1", "--output="+path); code != 1 {
		t.Errorf("export from a server that is not there: exit code %d, want 1; standard error: %s", code, stderr)
	}
	again, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, text) {
		t.Errorf("the failed export has changed the file from %d to %d bytes", len(text), len(again))
	}
	if files, err := os.ReadDir(s.dir); err != nil || len(files) != 2 {
		t.Errorf("the folder has %v, %v; want the input and the output", files, err)
	}
	if out := s.export(t, "--output="+os.DevNull); out != "" {
		t.Errorf("standard output of an export to %s = %q, want nothing", os.DevNull, out)
	}
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode().IsRegular() {
		t.Fatalf("%s is a regular file after the export: %v, %v", os.DevNull, info, err)
	}
}
