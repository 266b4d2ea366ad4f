package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	lockv1 "github.com/berthcare/larder/gen/larder/lock/v1"
	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

// failurePause is how long a caller waits after a failed call, so that a server that fails at once does not make it spin.
const failurePause = 10 * time.Millisecond

// A load is what the callers of one run share.
type load struct {
	command   *Command
	namespace string // random, so that runs do not meet
	keys      []string
	value     []byte
}

// newLoad makes the keys and a random value, which compression does not make shorter.
func newLoad(c *Command) *load {
	l := &load{
		command: c, namespace: "bench-" + strconv.FormatUint(rand.Uint64(), 36),
		keys: make([]string, c.Keys), value: make([]byte, c.ValueSize),
	}
	for i := range l.keys {
		l.keys[i] = "user:" + strconv.Itoa(i) + ":profile"
	}
	for i := range l.value {
		l.value[i] = byte(rand.Uint32())
	}
	return l
}

// A caller makes one call at a time to one server.
type caller struct {
	*load

	cache   cachev1.CacheServiceClient
	session sessionv1.SessionServiceClient

	ratelimit ratelimitv1.RateLimitServiceClient
	envoy     envoy.RateLimitServiceClient
	token     tokenv1.TokenServiceClient
	locks     lockv1.LockServiceClient
	lock      string // the name of the caller's own lock

	random *rand.Rand
	choose func() int    // returns the index of a key, or of a token
	tokens []string      // of the sessions that the server holds
	wave   int           // number of the current wave of a stampede
	loads  *atomic.Int64 // counts the loads from the origin by all callers of a leg

	latencies *hdrhistogram.Histogram // in nanoseconds
	items     int64                   // entries or sessions that were read or written
	failures  map[string]int64        // failed calls by error message
}

// caller returns a caller of a server. Callers with one number choose the same keys in every run.
func (l *load) caller(s *server, number int) *caller {
	conn := s.conns[number%len(s.conns)]
	random := rand.New(rand.NewPCG(uint64(number), 1)) //nolint:gosec // the choice of keys is no secret
	return &caller{
		load: l, cache: cachev1.NewCacheServiceClient(conn), session: sessionv1.NewSessionServiceClient(conn),
		ratelimit: ratelimitv1.NewRateLimitServiceClient(conn), envoy: envoy.NewRateLimitServiceClient(conn),
		token: tokenv1.NewTokenServiceClient(conn),
		locks: lockv1.NewLockServiceClient(conn), lock: "worker:" + strconv.Itoa(number),
		random: random, choose: chooser(random, l.command.Distribution, len(l.keys)), tokens: s.tokens,
		latencies: newHistogram(), failures: make(map[string]int64),
	}
}

// newHistogram returns a histogram of latencies in nanoseconds, from 1 µs to 1 min, with three significant digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(time.Microsecond), int64(time.Minute), 3)
}

// chooser returns a function that draws numbers from 0 to n-1: each as often as the others, or by Zipf's law with exponent
// 1.1 if distribution is "zipf".
func chooser(random *rand.Rand, distribution string, n int) func() int {
	if distribution == "zipf" {
		zipf := rand.NewZipf(random, 1.1, 1, uint64(n-1)) //nolint:gosec // n is at least 1
		return func() int { return int(zipf.Uint64()) }   //nolint:gosec // the number is below n
	}
	return func() int { return random.IntN(n) }
}

// do makes one call and records its latency, its items and its error.
func (c *caller) do(ctx context.Context, call callFunc) {
	start := time.Now()
	items, err := call(ctx, c)
	_ = c.latencies.RecordValue(int64(min(time.Since(start), time.Minute)))
	c.items += int64(items)
	if err != nil {
		c.failures[err.Error()]++
		select {
		case <-ctx.Done():
		case <-time.After(failurePause):
		}
	}
}

// each calls do with every number below n, spread over all callers of a server. It stops at the first error and returns
// it.
func (l *load) each(ctx context.Context, s *server, n int, do func(c *caller, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var done sync.WaitGroup
	var next atomic.Int64
	for number := range min(l.command.InFlight, n) {
		done.Go(func() {
			c := l.caller(s, number)
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(c, i); err != nil && ctx.Err() == nil {
					cancel(fmt.Errorf("%s: %w", s.name, err))
				}
			}
		})
	}
	done.Wait()
	return context.Cause(ctx)
}
