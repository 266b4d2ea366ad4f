package lardertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience bounds every wait of a test; the machine runs other tests at the same time.
const Patience = 30 * time.Second

// An Output collects what a program writes, and waits for lines of it. It is safe for concurrent use.
type Output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{} // closed and replaced by every write
}

// Write appends to the output.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.written != nil {
		close(o.written)
	}
	o.written = make(chan struct{})
	return o.text.Write(p)
}

// read returns the output so far, and a channel that the next write closes.
func (o *Output) read() (text string, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.written == nil {
		o.written = make(chan struct{})
	}
	return o.text.String(), o.written
}

// String returns the output so far.
func (o *Output) String() string {
	text, _ := o.read()
	return text
}

// AwaitLine waits for a line that contains part, at most [Patience], and returns it.
func (o *Output) AwaitLine(tb testing.TB, part string) string {
	tb.Helper()
	return o.AwaitLines(tb, part, 1)
}

// AwaitLines waits for the n-th line that contains part, at most [Patience], and returns it.
func (o *Output) AwaitLines(tb testing.TB, part string, n int) string {
	tb.Helper()
	timeout := time.After(Patience)
	for {
		text, more := o.read()
		found := 0
		for line := range strings.Lines(text) {
			if strings.Contains(line, part) {
				if found++; found == n {
					return line
				}
			}
		}
		select {
		case <-more:
		case <-timeout:
			tb.Fatalf("%d lines contain %q after %v, want %d; output:\n%s", found, part, Patience, n, text)
		}
	}
}

// Await waits for a JSON log record with the message, at most [Patience], and returns it.
func (o *Output) Await(tb testing.TB, message string) (record map[string]any) {
	tb.Helper()
	line := o.AwaitLine(tb, fmt.Sprintf(`"msg":%q`, message))
	if err := json.Unmarshal([]byte(line), &record); err != nil {
		tb.Fatalf("the log record is not JSON: %v\n%s", err, line)
	}
	return record
}
