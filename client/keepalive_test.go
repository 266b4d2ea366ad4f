package client_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"

	"github.com/berthcare/larder/client"
	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// A network carries connections in memory, so that time can be virtual.
type network struct {
	*bufconn.Listener

	mu    sync.Mutex
	wires []*wire
}

// A wire is a connection that can be cut without either end noticing.
type wire struct {
	net.Conn

	cut atomic.Bool
}

func (w *wire) Write(p []byte) (int, error) {
	if w.cut.Load() {
		return len(p), nil
	}
	return w.Conn.Write(p)
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	for err == nil && w.cut.Load() {
		n, err = w.Conn.Read(p)
	}
	return n, err
}

func (n *network) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := n.DialContext(ctx)
	w := &wire{Conn: conn}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wires = append(n.wires, w)
	return w, err
}

// cut cuts the connections made so far and returns how many there were.
func (n *network) cut() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, w := range n.wires {
		w.cut.Store(true)
	}
	return len(n.wires)
}

// overNetwork runs a test in virtual time with a server that limits pings as Larder does.
func overNetwork(t *testing.T, answer func(*network) any, test func(*testing.T, *network, *client.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &network{Listener: bufconn.Listen(1 << 16)}
		server := grpc.NewServer(
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
			grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
				return answer(n), nil
			}),
		)
		cachev1.RegisterCacheServiceServer(server, cachev1.UnimplementedCacheServiceServer{})
		go func() { _ = server.Serve(n) }()
		defer server.Stop()
		c, err := client.New(client.Options{Target: "passthrough:///larder", DialOptions: []grpc.DialOption{grpc.WithContextDialer(n.dial)}})
		if err != nil {
			t.Fatalf("New = error %v, want none", err)
		}
		defer func() { _ = c.Close() }()
		test(t, n, c)
	})
}

func hitOver(*network) any { return &cachev1.GetResponse{Outcome: cachev1.GetOutcome_GET_OUTCOME_HIT} }

func TestServerPutsUpWithTheClientsPings(t *testing.T) {
	t.Parallel()
	overNetwork(t, hitOver, func(t *testing.T, n *network, c *client.Client) {
		for range 2 {
			if err := second(c.Cache.Get(t.Context(), "k")); err != nil {
				t.Errorf("Get = error %v, want none", err)
			}
			time.Sleep(20 * time.Minute) //nolint:forbidigo // virtual time
		}
		if dials := n.cut(); dials != 1 {
			t.Errorf("the client made %d connections, want 1", dials)
		}
	})
}

func TestCallOverADeadConnectionEnds(t *testing.T) {
	t.Parallel()
	answer := func(n *network) any {
		n.cut()
		return &cachev1.IncrementResponse{}
	}
	overNetwork(t, answer, func(t *testing.T, _ *network, c *client.Client) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		err := second(c.Cache.Increment(ctx, "k", 1, client.IncrementOptions{}))
		if took := time.Since(start); !errors.Is(err, client.ErrUnavailable) || took > 30*time.Second {
			t.Errorf("Increment = error %v after %v, want ErrUnavailable within 30s", err, took)
		}
	})
}

func TestDeadIdleConnectionIsReplacedBeforeTheNextCall(t *testing.T) {
	t.Parallel()
	overNetwork(t, hitOver, func(t *testing.T, n *network, c *client.Client) {
		if err := second(c.Cache.Get(t.Context(), "k")); err != nil {
			t.Fatalf("Get = error %v, want none", err)
		}
		n.cut()
		time.Sleep(time.Minute) //nolint:forbidigo // virtual time
		start := time.Now()
		err := second(c.Cache.Get(t.Context(), "k"))
		if took := time.Since(start); err != nil || took != 0 {
			t.Errorf("Get over a new connection = error %v after %v, want none at once", err, took)
		}
	})
}
