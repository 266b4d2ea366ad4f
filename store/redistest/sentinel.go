package redistest

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"
)

const masterSet = "larder"

// probeTimeout bounds a question to a sentinel, which may be paused.
const probeTimeout = time.Second

// Sentinel is a primary with two replicas, watched by three sentinels with a
// quorum of two, which fail over about a second after the primary vanished.
type Sentinel struct {
	// Primary and Replicas have the roles they started with.
	Primary  *Server
	Replicas []*Server
	// Sentinels are the sentinel processes.
	Sentinels []*Server
	// MasterSet is the name the sentinels know the primary by.
	MasterSet string

	// front is a proxy at whose address all know the primary, if the set is
	// severable.
	front *Proxy
}

// StartSentinel runs the set until the test ends. It returns once the replicas
// are in sync and every sentinel knows the replicas and the other sentinels.
// With -short it skips the test.
func StartSentinel(tb testing.TB) *Sentinel {
	tb.Helper()
	return startSentinel(tb, false)
}

// StartSeverableSentinel is StartSentinel for tests that call CutOff.
// With -short it skips the test.
func StartSeverableSentinel(tb testing.TB) *Sentinel {
	tb.Helper()
	return startSentinel(tb, true)
}

func startSentinel(tb testing.TB, severable bool) *Sentinel {
	tb.Helper()
	StandaloneOnly(tb)
	s, stop, err := startSentinelMain(severable)
	if err != nil {
		tb.Fatal(err)
	}
	onCleanup(tb, stop, append(s.data(), s.Sentinels...)...)
	return s
}

// StartSentinelMain is StartSentinel for TestMain: the caller must call the
// returned function.
func StartSentinelMain() (*Sentinel, func(), error) { return startSentinelMain(false) }

func startSentinelMain(severable bool) (*Sentinel, func(), error) {
	s := &Sentinel{MasterSet: masterSet}
	stop := func() {
		if s.front != nil {
			s.front.stop()
		}
		closeAll(append(slices.Clone(s.Sentinels), s.data()...))
	}
	if err := s.start(severable); err != nil {
		stop()
		return nil, nil, fmt.Errorf("starting the sentinel set: %w", err)
	}
	return s, stop, nil
}

// start starts the primary, then the replicas, then the sentinels: these learn
// of replicas that are in sync at once, but of later ones only after 10 s.
func (s *Sentinel) start(severable bool) (err error) {
	args := []string{"repl-diskless-sync-delay", "0"}
	if s.Primary, err = start(Options{Args: args}); err != nil {
		return err
	}
	port := strconv.Itoa(s.Primary.port)
	if severable {
		if s.front, err = startProxy(s.Primary.Addr); err != nil {
			return err
		}
		port = s.front.port()
		if _, err := s.Primary.TryDo("CONFIG", "SET", "replica-announce-port", port); err != nil {
			return err
		}
	}
	replica := Options{Args: append(args, "replicaof", "127.0.0.1 "+port)}
	if s.Replicas, err = startAll([]Options{replica, replica}); err != nil {
		return err
	}
	for _, r := range s.Replicas {
		if err := poll(startTimeout, func() error { return inSync(r) }); err != nil {
			return err
		}
	}
	sentinel := Options{Args: []string{
		"sentinel", "monitor " + masterSet + " 127.0.0.1 " + port + " 2",
		"sentinel", "down-after-milliseconds " + masterSet + " 1000",
		"sentinel", "failover-timeout " + masterSet + " 5000",
	}}
	if s.Sentinels, err = startAll([]Options{sentinel, sentinel, sentinel}, "--sentinel"); err != nil {
		return err
	}
	return poll(startTimeout, s.ready)
}

// ready returns what the sentinels have yet to discover.
func (s *Sentinel) ready() error {
	for _, sentinel := range s.Sentinels {
		v, err := sentinel.do(probeTimeout, "SENTINEL", "MASTER", masterSet)
		if err != nil {
			return err
		}
		state := map[any]any{}
		for pair := range slices.Chunk(v.([]any), 2) {
			state[pair[0]] = pair[1]
		}
		if state["flags"] != "master" || state["num-slaves"] != "2" || state["num-other-sentinels"] != "2" {
			return fmt.Errorf("sentinel %s: flags %v, %v replicas, %v other sentinels",
				sentinel.Addr, state["flags"], state["num-slaves"], state["num-other-sentinels"])
		}
	}
	return nil
}

// Addrs returns the addresses of the sentinels.
func (s *Sentinel) Addrs() []string { return addrs(s.Sentinels) }

// Current returns the primary according to the first sentinel that answers.
// Sentinels may disagree for a moment during a failover.
func (s *Sentinel) Current(tb testing.TB) *Server {
	tb.Helper()
	seen := s.primaries()
	if len(seen) == 0 {
		tb.Fatal("no sentinel answers")
	}
	return seen[0]
}

// Failover promotes a replica with SENTINEL FAILOVER and waits until every
// running sentinel names it as the primary. As always with sentinels, the
// former primary keeps its role for some 10 s until they demote it.
func (s *Sentinel) Failover(tb testing.TB) {
	tb.Helper()
	if err := s.failover(s.Current(tb)); err != nil {
		tb.Fatalf("failover: %v", err)
	}
}

func (s *Sentinel) failover(old *Server) error {
	// Refused while another failover is on or no replica looks healthy yet.
	var leader *Server
	err := poll(startTimeout, func() (err error) { leader, err = s.requestFailover(); return err })
	if err != nil {
		return err
	}
	asked := time.Now()
	return poll(startTimeout, func() error {
		seen := s.primaries()
		if len(seen) == 0 || seen[0] == old {
			// On a busy machine it may have given up, and refuses otherwise.
			if time.Since(asked) > stopTimeout/2 {
				asked = time.Now()
				_, _ = leader.do(probeTimeout, "SENTINEL", "FAILOVER", masterSet)
			}
			return errors.New("the primary did not change")
		}
		if len(slices.Compact(seen)) > 1 {
			return errors.New("the sentinels name different primaries")
		}
		return isPrimary(seen[0])
	})
}

// CutOff cuts the first primary of a severable set off from the sentinels and
// the replicas. Clients still reach it, at the address that the sentinels name.
func (s *Sentinel) CutOff() { s.front.BlackholeOnly("sentinel-", "REPLCONF", "PSYNC") }

// Rejoin ends CutOff.
func (s *Sentinel) Rejoin() {
	s.front.Blackhole(false)
	s.front.CutAll()
}

// requestFailover asks the sentinels in turn until one accepts, and returns it.
func (s *Sentinel) requestFailover() (leader *Server, err error) {
	for _, sentinel := range s.Sentinels {
		if _, err = sentinel.do(probeTimeout, "SENTINEL", "FAILOVER", masterSet); err == nil {
			return sentinel, nil
		}
	}
	return nil, err
}

// primaries returns the server each sentinel that answers takes for the
// primary.
func (s *Sentinel) primaries() []*Server {
	var seen []*Server
	for _, sentinel := range s.Sentinels {
		v, err := sentinel.do(probeTimeout, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterSet)
		if err != nil {
			continue
		}
		addr, _ := v.([]any)
		if len(addr) != 2 {
			continue
		}
		at := net.JoinHostPort(fmt.Sprint(addr[0]), fmt.Sprint(addr[1]))
		for _, d := range s.data() {
			if d.Addr == at || d == s.Primary && s.front != nil && s.front.Addr == at {
				seen = append(seen, d)
			}
		}
	}
	return seen
}

func isPrimary(s *Server) error {
	v, err := s.do(probeTimeout, "ROLE")
	if err != nil {
		return err
	}
	if role, _ := v.([]any); len(role) == 0 || role[0] != "master" {
		return fmt.Errorf("%s is not a primary yet", s.Addr)
	}
	return nil
}

// data returns the Redis servers, the initial primary first.
func (s *Sentinel) data() []*Server { return append([]*Server{s.Primary}, s.Replicas...) }
