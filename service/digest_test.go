package service

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// In an overload the log says once a second what happened to how many calls, and loses none of them.
func TestManyFailedCallsAreOneLineASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		d := newDigest(slog.New(slog.NewJSONHandler(log, nil)), time.Second)
		overload := lineKind{level: slog.LevelWarn, message: "calls failed", method: "/a/Get", code: "ResourceExhausted", reason: "SERVER_OVERLOADED"}
		other := lineKind{level: slog.LevelWarn, message: "calls failed", method: "/a/Set", code: "ResourceExhausted", reason: "SERVER_OVERLOADED"}
		written := 0
		for i := range 10_000 { // in 2.5 s
			if d.first(overload, time.Duration(i)*time.Microsecond, "cause") {
				written++
			}
			<-time.After(250 * time.Microsecond)
		}
		if !d.first(other, 0, "") {
			t.Error("first of another kind = false, want true")
		}
		<-time.After(3 * time.Second)
		lines := log.lines(t, "calls failed")
		if written != 1 || len(lines) != 3 {
			t.Fatalf("%d single lines and %d of many for 2.5 s, want 1 and 3:\n%s", written, len(lines), log)
		}
		sum := 0
		for _, line := range lines {
			sum += int(line["count"].(float64))
		}
		last := lines[2]
		if sum != 9999 || last["method"] != "/a/Get" || last["reason"] != "SERVER_OVERLOADED" || last["cause"] != "cause" || last["longest"] != float64(9999*time.Microsecond) {
			t.Errorf("lines tell of %d calls, the last one is %v; want 9999 and what they have in common", sum, last)
		}
		// After a quiet second the next one is told at once.
		if !d.first(overload, 0, "") {
			t.Error("first after a quiet second = false, want true")
		}
		d.first(overload, 0, "")
		d.close()
		if lines := log.lines(t, "calls failed"); len(lines) != 4 || lines[3]["count"] != 1.0 {
			t.Errorf("lines = %v, want one more of the call before close", lines)
		}
		if !d.first(overload, 0, "") {
			t.Error("first after close = false, want every line to be written")
		}
	})
}

func TestEveryCallIsLoggedAtDebugLevel(t *testing.T) {
	t.Parallel()
	for level, most := range map[slog.Level]int{slog.LevelDebug: 20, slog.LevelInfo: 3} {
		log := new(logBuffer)
		s := run(t, failing(errOverloaded), Options{Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: level}))})
		for range 20 {
			_, _ = s.cache.Get(t.Context(), &cachev1.GetRequest{})
		}
		s.Shutdown(context.Background())
		single, together := len(log.lines(t, "call failed")), 0
		for _, line := range log.lines(t, "calls failed") {
			together += int(line["count"].(float64))
		}
		if single+together != 20 || single > most || level == slog.LevelDebug && single != 20 {
			t.Errorf("20 failed calls at level %v = %d single lines and %d calls in lines of many, want 20 in all, at most %d single ones", level, single, together, most)
		}
	}
}
