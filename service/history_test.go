package service

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
)

// Recorded histories: concurrent callers of several replicas write down what they asked, what they were answered, and when
// each call began and ended, while connections to Redis are being cut. Afterwards a checker says whether the answers make
// sense together. A test of another service needs a model of one key (porcupine.Model) and a workload that calls record.

// A recorded call is one that was made of a replica. Its times are by the one clock of its history.
type recorded[I, O any] struct {
	Client, Replica int
	Key             string
	In              I
	Out             O
	Begin, End      time.Duration
	// Unknown means that the caller was not told what became of it: it may take effect at any time after Begin, or never.
	// Out means nothing.
	Unknown bool
	// Attempts is how often it may have been applied, besides what Out says: the server repeats calls that may be repeated
	// when an answer of Redis is lost.
	Attempts int
}

// A history collects the calls of one kind, which are asked with an I and answered with an O.
type history[I, O any] struct {
	start time.Time
	mu    sync.Mutex
	calls []recorded[I, O]
}

func newHistory[I, O any]() *history[I, O] { return &history[I, O]{start: time.Now()} }

// A caller is one client, of one replica, that makes one call after the other.
type caller struct {
	client  int
	replica *replica
}

// record makes a call and writes it down, unless it is sure that nothing has come of it: it was a read that failed, or
// Redis was away. Errors that do make calls known, such as a precondition, must be turned into an answer by do. It returns
// the answer and whether there is one.
func (h *history[I, O]) record(ctx context.Context, t testing.TB, c caller, key string, in I, reads bool, do func(context.Context) (O, error)) (out O, ok bool) {
	ctx, lost := c.replica.attempts.count(ctx)
	r := recorded[I, O]{Client: c.client, Replica: c.replica.number, Key: key, In: in, Begin: time.Since(h.start)}
	var err error
	r.Out, err = do(ctx)
	r.End = time.Since(h.start)
	r.Attempts = lost()
	if err != nil {
		r.Unknown = true
		a := answerOf(t, err)
		switch {
		case a.Reason == "WRITE_OUTCOME_UNKNOWN", a.Code == codes.DeadlineExceeded, a.Code == codes.Canceled:
			r.Attempts = max(r.Attempts, 1)
		case a.Code == codes.Unavailable, a.Code == codes.ResourceExhausted:
			if r.Attempts > 0 {
				t.Errorf("answer of a call that may have been applied = %v, want WRITE_OUTCOME_UNKNOWN", a)
			}
			return out, false
		default:
			t.Errorf("call %+v = %v, want an answer or an error of an outage", in, err)
			return out, false
		}
	}
	if reads && r.Unknown {
		return out, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, r)
	return r.Out, !r.Unknown
}

// byKey returns the calls of each key.
func (h *history[I, O]) byKey() map[string][]recorded[I, O] {
	keys := make(map[string][]recorded[I, O])
	for _, r := range h.calls {
		keys[r.Key] = append(keys[r.Key], r)
	}
	return keys
}

// An answered is the output of an operation for the checker: nothing where the outcome is unknown.
type answered[O any] struct {
	Out   O
	Known bool
}

// operations returns calls as the checker wants them. What may have been applied unknown to its caller is an operation of
// its own which never ends: the checker puts it where it fits, at the very end if it was never applied.
func operations[I, O any](calls []recorded[I, O], reads func(I) bool) (ops []porcupine.Operation) {
	last := time.Duration(0)
	for _, r := range calls {
		last = max(last, r.End)
	}
	for _, r := range calls {
		op := porcupine.Operation{ClientId: r.Client, Input: r.In, Call: int64(r.Begin), Return: int64(r.End)}
		if !r.Unknown {
			op.Output = answered[O]{r.Out, true}
			ops = append(ops, op)
		}
		if reads(r.In) {
			continue
		}
		for range r.Attempts {
			op.Output, op.Return = answered[O]{}, int64(last)+1
			ops = append(ops, op)
		}
	}
	return ops
}

// linearizable checks the calls of each key against the model of one key: there must be one order of all calls in which
// each takes effect between its begin and its end and the answers are the model's.
func linearizable[I, O any](t testing.TB, h *history[I, O], model porcupine.Model, reads func(I) bool) {
	t.Helper()
	keys := h.byKey()
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		switch porcupine.CheckOperationsTimeout(model, operations(keys[key], reads), 20*time.Second) {
		case porcupine.Ok:
		case porcupine.Illegal:
			t.Error("no order of these calls explains their answers, want one:")
			for _, r := range keys[key] {
				t.Logf("%v-%v client %d replica %d: %+v -> %+v unknown %t attempts %d", r.Begin, r.End, r.Client, r.Replica, r.In, r.Out, r.Unknown, r.Attempts)
			}
			return
		case porcupine.Unknown:
			t.Errorf("the %d calls of one key are too many to be checked in 20 s, want fewer", len(keys[key]))
			return
		}
	}
}

// attempts counts how often the handler of a call was run and may have written although it failed. The server's retries
// are invisible to the caller, and each of them may have been applied.
type attempts struct {
	mu   sync.Mutex
	next int
	lost map[string]int
}

const attemptHeader = "x-test-call"

// count returns a context to make one call with, and what returns the count after it.
func (a *attempts) count(ctx context.Context) (context.Context, func() int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next++
	id := strconv.Itoa(a.next)
	a.lost[id] = 0
	return metadata.AppendToOutgoingContext(ctx, attemptHeader, id), func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		defer delete(a.lost, id)
		return a.lost[id]
	}
}

// unary is the innermost interceptor.
func (a *attempts) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if errors.Is(err, redis.ErrOutcomeUnknown) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, id := range metadata.ValueFromIncomingContext(ctx, attemptHeader) {
			if _, counted := a.lost[id]; counted {
				a.lost[id]++
			}
		}
	}
	return resp, err
}

// A replica is one of the servers over the same Redis.
type replica struct {
	*running
	session  sessionv1.SessionServiceClient
	number   int
	attempts *attempts
	store    *store.Store
	// proxies are all that is between it and Redis. In a cluster they are the same for all replicas.
	proxies []*redistest.Proxy
}

// startReplicas serves a Redis of the mode from several replicas.
func startReplicas(t testing.TB, so store.Options, n int) []*replica {
	t.Helper()
	replicas := make([]*replica, n)
	var shared []*redistest.Proxy
	var server *redistest.Server
	if so.Redis.Mode == redis.Cluster {
		shared = clusterProxies(t)
	} else {
		server = redistest.Start(t, redistest.Options{})
	}
	for i := range replicas {
		proxies := shared
		if server != nil {
			proxies = []*redistest.Proxy{redistest.StartProxy(t, server.Addr)}
		}
		so.Redis.Addrs = nil
		for _, p := range proxies {
			so.Redis.Addrs = append(so.Redis.Addrs, p.Addr)
		}
		replicas[i] = startReplica(t, so, i)
		replicas[i].proxies = proxies
	}
	return replicas
}

// startReplica serves a store with its retries, which it counts.
func startReplica(t testing.TB, so store.Options, number int) *replica {
	t.Helper()
	m := NewMetrics()
	so.Redis.NearCacheBytes, so.Redis.Observer = 16<<20, m
	st, err := store.New(so)
	if err != nil {
		t.Fatalf("store.New = %v, want nil", err)
	}
	t.Cleanup(st.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := st.Redis.Connect(ctx); err != nil {
		t.Fatalf("Connect = %v, want nil", err)
	}
	o := Options{Logger: slog.New(slog.DiscardHandler)}
	s := newServer(st.Redis.Check, st.Redis.Patience, m, o)
	a := &attempts{lost: make(map[string]int)}
	s.grpc.Stop() // in its place comes one that counts
	s.grpc = grpc.NewServer(append(s.grpcOptions(), grpc.ChainUnaryInterceptor(a.unary))...)
	s.register(st)
	r := &replica{running: serve(t, s), number: number, attempts: a, store: st}
	r.session = sessionv1.NewSessionServiceClient(r.conn)
	eventually(t, "ready", s.health.Ready)
	return r
}

// clusterProxies starts a cluster whose nodes are known by the addresses of proxies.
func clusterProxies(t testing.TB) (proxies []*redistest.Proxy) {
	t.Helper()
	cluster := redistest.StartCluster(t, redistest.ClusterOptions{})
	known := make(map[string]bool)
	for _, node := range cluster.Nodes {
		p := redistest.StartProxy(t, node.Addr)
		_, own, _ := net.SplitHostPort(node.Addr)
		_, port, _ := net.SplitHostPort(p.Addr)
		n, _ := strconv.Atoi(own)
		node.Do(t, "CONFIG", "SET", "cluster-announce-port", port, "cluster-announce-bus-port", strconv.Itoa(n+10000))
		proxies, known[port] = append(proxies, p), true
	}
	eventually(t, "known by the addresses of the proxies", func() bool {
		for _, node := range cluster.Nodes {
			for _, slots := range node.Do(t, "CLUSTER", "SLOTS").([]any) {
				if port := slots.([]any)[2].([]any)[1].(int64); !known[strconv.FormatInt(port, 10)] {
					return false
				}
			}
		}
		return true
	})
	return proxies
}

// cut makes a fault of a random kind, of which calls that are under way may lose the answer, and mends it.
func (r *replica) cut() {
	p := r.proxies[rand.N(len(r.proxies))]
	switch rand.N(3) {
	case 0: // connections are lost
		p.CutAll()
	case 1: // and with them what was answered last
		p.DropReplies(true)
		<-time.After(rand.N(3 * time.Millisecond))
		p.Refuse(true) // what connects meanwhile would lose its replies and be out of step
		p.CutAll()
		p.DropReplies(false)
		p.Refuse(false)
	case 2: // and cannot be made anew at once
		p.Refuse(true)
		p.CutAll()
		<-time.After(rand.N(3 * time.Millisecond))
		p.Refuse(false)
	}
}
