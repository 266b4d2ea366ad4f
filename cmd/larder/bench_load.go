package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berthcare/larder/cmd/larder/setting"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
)

const (
	benchMaxMessage = 64 << 20
	// benchPatience is how long a call may last beyond its turn.
	benchPatience = 10 * time.Second
	// benchPause keeps the callers of a server that fails at once from spinning.
	benchPause = 10 * time.Millisecond
)

// A benchSide is a server under load.
type benchSide struct {
	name     string
	conns    []*grpc.ClientConn
	children []*benchChild // the processes that were started for it, the first one first
	pid      int           // of the server; 0 if it is not ours
	metrics  string        // URL of its metrics; empty for none
	redis    string        // what it says of its Redis
	// redisAddr is where Redis tells what it has executed; empty for nowhere.
	redisAddr string
	holds     benchData
	tokens    []string // of the sessions that it holds
	// throwaway says that what it holds goes with it.
	throwaway bool
}

// dial makes the connections, which the first calls open. The address is dialled as it stands.
func (s *benchSide) dial(addr string, connections int) error {
	for range connections {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(benchMaxMessage), grpc.MaxCallSendMsgSize(benchMaxMessage)))
		if err != nil {
			return err
		}
		s.conns = append(s.conns, conn)
	}
	return nil
}

func (s *benchSide) close() {
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	for _, child := range slices.Backward(s.children) {
		child.stop()
	}
}

// setMetrics says where the admin pages are; empty for nowhere.
func (s *benchSide) setMetrics(admin string) {
	if addr, err := setting.DialAddr(admin); err == nil {
		s.metrics = "http://" + addr + "/metrics"
	}
}

// A benchLoad is what the calls of one run have in common.
type benchLoad struct {
	command   *benchCommand
	namespace string // of this run alone
	keys      []string
	value     []byte
}

func newBenchLoad(b *benchCommand) *benchLoad {
	l := &benchLoad{
		command: b, namespace: "bench-" + strconv.FormatUint(rand.Uint64(), 36),
		keys: make([]string, b.Keys), value: make([]byte, b.ValueSize),
	}
	for i := range l.keys {
		l.keys[i] = "user:" + strconv.Itoa(i) + ":profile"
	}
	for i := range l.value {
		l.value[i] = byte(rand.Uint32())
	}
	return l
}

// A benchWorker is one caller. It has one call in flight.
type benchWorker struct {
	*benchLoad
	cache   cachev1.CacheServiceClient
	session sessionv1.SessionServiceClient
	random  *rand.Rand
	choose  func() int // the number of a key
	tokens  []string
	wave    int // the number of the stampede
	loads   *atomic.Int64

	latencies *hdrhistogram.Histogram // in nanoseconds
	items     int64
	failures  map[string]int64
}

func (l *benchLoad) worker(s *benchSide, number int) *benchWorker {
	conn := s.conns[number%len(s.conns)]
	random := rand.New(rand.NewPCG(uint64(number), 1)) //nolint:gosec // the same keys in each run
	return &benchWorker{
		benchLoad: l, cache: cachev1.NewCacheServiceClient(conn), session: sessionv1.NewSessionServiceClient(conn),
		random: random, choose: chooser(random, l.command.Distribution, len(l.keys)), tokens: s.tokens,
		latencies: hdrhistogram.New(int64(time.Microsecond), int64(time.Minute), 3), failures: make(map[string]int64),
	}
}

// chooser returns a function that draws numbers below n from a distribution.
func chooser(random *rand.Rand, distribution string, n int) func() int {
	if distribution == "zipf" {
		zipf := rand.NewZipf(random, 1.1, 1, uint64(n-1)) //nolint:gosec // n is above zero
		return func() int { return int(zipf.Uint64()) }   //nolint:gosec // and what is drawn below it
	}
	return func() int { return random.IntN(n) }
}

// do makes one call.
func (w *benchWorker) do(ctx context.Context, call benchCall) {
	start := time.Now()
	items, err := call(ctx, w)
	_ = w.latencies.RecordValue(int64(min(time.Since(start), time.Minute)))
	w.items += int64(items)
	if err != nil {
		w.failures[err.Error()]++
		select {
		case <-ctx.Done():
		case <-time.After(benchPause):
		}
	}
}

// A benchLeg is one server's part in a workload.
type benchLeg struct {
	side    *benchSide
	call    benchCall
	waves   bool
	workers []*benchWorker
	loads   atomic.Int64
	wave    int
	turns   []benchTurn
}

// A benchTurn is what one turn of a leg came to.
type benchTurn struct {
	calls, items int64
	waves        int
	took         time.Duration
	spent        benchUsage
}

func (l *benchLoad) leg(s *benchSide, call benchCall, waves bool) *benchLeg {
	g := &benchLeg{side: s, call: call, waves: waves}
	for i := range l.command.InFlight {
		w := l.worker(s, i)
		w.loads = &g.loads
		g.workers = append(g.workers, w)
	}
	return g
}

// turn has all callers at work for a time, or until ctx ends. Calls that are then in flight are finished, and count.
func (g *benchLeg) turn(ctx context.Context, d time.Duration) (t benchTurn) {
	calls, cancel := context.WithTimeout(context.WithoutCancel(ctx), d+benchPatience)
	defer cancel()
	spent := g.side.meter(calls)
	items := g.items()
	start := time.Now()
	more := func() bool { return ctx.Err() == nil && time.Since(start) < d }
	if g.waves {
		for ; more(); t.waves++ {
			g.wave++
			t.calls += g.all(func(w *benchWorker) int64 {
				w.wave = g.wave
				w.do(calls, g.call)
				return 1
			})
		}
	} else {
		t.calls = g.all(func(w *benchWorker) (n int64) {
			for ; more(); n++ {
				w.do(calls, g.call)
			}
			return n
		})
	}
	t.took = time.Since(start)
	t.spent = spent()
	t.items = g.items() - items
	return t
}

// all runs every caller and adds up what they return.
func (g *benchLeg) all(run func(*benchWorker) int64) int64 {
	var done sync.WaitGroup
	var sum atomic.Int64
	for _, w := range g.workers {
		done.Go(func() { sum.Add(run(w)) })
	}
	done.Wait()
	return sum.Load()
}

func (g *benchLeg) items() (n int64) {
	for _, w := range g.workers {
		n += w.items
	}
	return n
}

// warmUp runs a turn that does not count.
func (g *benchLeg) warmUp(ctx context.Context, d time.Duration) {
	g.turn(ctx, d)
	g.loads.Store(0)
	for _, w := range g.workers {
		w.latencies.Reset()
		clear(w.failures)
	}
}

// measure has the servers take turns. The rounds that it returns are whole: one that was cut short does not count.
func (l *benchLoad) measure(ctx context.Context, w benchWorkload, larder, floor *benchSide, progress *benchProgress) benchResult {
	bare := w.bare
	if bare == nil {
		bare = w.call
	}
	legs := []*benchLeg{l.leg(larder, w.call, w.waves), l.leg(floor, bare, w.waves)}
	if w.beside != nil {
		legs = append(legs, l.leg(larder, w.beside, false))
	}
	length := l.command.Duration / time.Duration(l.command.Rounds*len(legs))
	if w.warm != nil {
		n := len(l.keys)
		_ = l.each(ctx, larder, 2*n, func(c *benchWorker, i int) error { // twice, for what a first read only prepares
			c.choose = func() int { return i % n }
			_, err := w.warm(ctx, c)
			return err // will show again
		})
	}
	for _, g := range legs {
		progress.step(w.name)
		g.warmUp(ctx, length)
	}
	for round := range l.command.Rounds {
		order := slices.Clone(legs)
		if round%2 == 1 {
			slices.Reverse(order) // so that neither always has what the other left behind
		}
		turns := make(map[*benchLeg]benchTurn, len(legs))
		for _, g := range order {
			progress.step(w.name)
			turns[g] = g.turn(ctx, length)
		}
		if ctx.Err() != nil {
			break
		}
		for g, t := range turns {
			g.turns = append(g.turns, t)
		}
	}
	return w.result(legs)
}

// each calls do for every number below n, by all callers, and returns an error if one of them failed.
func (l *benchLoad) each(ctx context.Context, s *benchSide, n int, do func(w *benchWorker, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var done sync.WaitGroup
	var next atomic.Int64
	for number := range min(l.command.InFlight, n) {
		done.Go(func() {
			w := l.worker(s, number)
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := do(w, i); err != nil && ctx.Err() == nil {
					cancel(fmt.Errorf("%s: %w", s.name, err))
				}
			}
		})
	}
	done.Wait()
	return context.Cause(ctx)
}
