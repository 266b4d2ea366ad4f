package warm

import (
	"fmt"
	"strings"
	"testing"
)

func TestBadLinesAreReported(t *testing.T) {
	t.Parallel()
	s := serve(t, embedded)
	long := strings.Repeat("k", 1025)
	bad := []struct{ line, what string }{
		{`{"key": "secret`, "is not JSON"},
		{`[1]`, "must be a JSON object"},
		{`null`, "key: must not be empty"},
		{`{"value": "secret"}`, "key: must not be empty"},
		{`{"key": "secret"}`, "value: one of value, value_base64 and negative must be set"},
		{`{"key": "secret", "value": 5}`, "value: must not be a JSON number"},
		{`{"key": "secret", "value": "v", "value_base64": "dg=="}`, "value: must not be set together with value_base64"},
		{`{"key": "secret", "value_base64": "?"}`, "value_base64: illegal base64"},
		{`{"key": "secret", "value": "v", "tll": "1s"}`, `unknown field "tll"`},
		{`{"key": "secret", "value": "v", "ttl": "0s"}`, "ttl: must be a duration above zero"},
		{`{"key": "secret", "value": "v", "ttl": "soon"}`, "ttl: must be a duration above zero"},
		{`{"key": "secret", "value": "v", "ttl": "1s", "stale_ttl": "-1s"}`, "stale_ttl: must be a duration above zero"},
		{`{"key": "secret", "value": "v", "ttl": "1s", "never": true}`, "ttl: at most one of"},
		{`{"key": "secret", "value": "v", "expire_time": "tomorrow"}`, "expire_time: must be a time"},
		{`{"key": "secret", "value": "v"} {}`, "must hold one JSON object"},
		{`{"key": "secret", "value": "` + "\xff" + `"}`, "must be UTF-8"},
		{`{"key": "secret", "value": "\ud800"}`, "must not contain half of a surrogate pair"},
		// The server finds these.
		{`{"key": "` + long + `", "value": "v"}`, "key: must be 1 to 1024 bytes long"},
		{`{"key": "secret", "value": "v", "ttl": "1000000h"}`, "ttl: must be at least"},
		{`{"key": "secret", "value": "v", "negative": true}`, "value: must be empty"},
		{`{"namespace": "No", "key": "secret", "value": "v"}`, "namespace: must be"},
	}
	var lines, reports []string
	for i, b := range bad {
		lines = append(lines, fmt.Sprintf(`{"key": "k%d", "value": "v"}`, i), b.line)
		reports = append(reports, fmt.Sprintf("larder: line %d: %s", 2*i+2, b.what))
	}
	reports = append(reports, fmt.Sprintf("%d bad lines were skipped", len(bad)))
	r := s.warm(t.Context(), t, nil, s.file(t, "all", lines...), "--keep-going")
	r.check(t, 1, fmt.Sprintf("%d stored, 0 expired and %[1]d bad lines", len(bad)), reports...)
	if n := strings.Count(r.stderr, "\n"); n != len(bad)+1 {
		t.Errorf("standard error has %d lines, want %d:\n%s", n, len(bad)+1, r.stderr)
	}
	if strings.Contains(r.stderr, "secret") {
		t.Errorf("standard error repeats a key or a value:\n%s", r.stderr)
	}
	if got := len(s.entries(t, "default")); got != len(bad) {
		t.Errorf("the server has %d entries, want %d", got, len(bad))
	}
	for i, b := range bad {
		ns := fmt.Sprint("one", i)
		path := s.file(t, ns, `{"key": "before", "value": "v"}`, b.line, `{"key": "after", "value": "v"}`)
		s.warm(t.Context(), t, nil, path, "--batch=1", "--concurrency=1", "--namespace="+ns).
			check(t, 1, "1 stored, 0 expired and 1 bad line in", "larder: line 2: "+b.what, "stopped at a bad line; stopped after line 1")
		if got := s.entries(t, ns); len(got) != 1 || got["before"].Key == "" {
			t.Errorf("%s: the server has %v, want only the entry before the bad line", b.what, got)
		}
		// Once the line is corrected, the same command resumes at it.
		s.file(t, ns, `{"key": "before", "value": "v"}`, `{"key": "corrected", "value": "v"}`, `{"key": "after", "value": "v"}`)
		s.warm(t.Context(), t, nil, path, "--namespace="+ns).check(t, 0, "resuming after line 1\n3 stored")
	}
}
