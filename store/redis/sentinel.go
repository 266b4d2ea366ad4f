package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const (
	// promisedFor is how long a node that has become the primary is used before the sentinels name it. They take about 2 s.
	promisedFor = 15 * time.Second
	// followFor bounds the wait for a node to become the primary, and followEvery is how often it is asked.
	followFor   = 5 * time.Second
	followEvery = 20 * time.Millisecond
)

// sentinelTimeout bounds the wait for the sentinels' answers, some of which may never come: 500 ms, or half of CommandTimeout if
// that is longer.
func (o *Options) sentinelTimeout() time.Duration {
	return max(500*time.Millisecond, o.CommandTimeout/2)
}

// sentinels know where the primary is. rueidis has a client for sentinels of its own, which is not used: while they name a node
// that is a replica it dials without a pause and starts goroutines that do not end, and in a failover it uses the old primary
// until the sentinels have brought it to its end, some seconds after there is a new one.
type sentinels struct {
	client  *Client
	network *network // apart from that of the primary, whose connections may be closed together
	begin   sync.Once

	mu    sync.Mutex
	known map[string]*sentinel // by address
	// promised is a node that has become the primary and is used until promisedUntil, whatever the sentinels say.
	promised      string
	promisedUntil time.Time
	following     map[string]bool // nodes that are asked whether they have become the primary
}

// sentinel is one of them.
type sentinel struct {
	addr string
	ctx  context.Context //nolint:containedctx // until it is no longer wanted
	stop context.CancelFunc
	once sync.Once
	// client is set by once, or err says why there is none. It connects again by itself.
	client rueidis.Client
	err    error
}

func newSentinels(c *Client) *sentinels {
	return &sentinels{
		client: c, network: newNetwork(&c.options, c.files), known: make(map[string]*sentinel), following: make(map[string]bool),
	}
}

// add takes note of sentinels and listens to those that are new.
func (s *sentinels) add(addrs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, addr := range addrs {
		if s.known[addr] == nil && s.client.lifetime.Err() == nil {
			one := &sentinel{addr: addr}
			one.ctx, one.stop = context.WithCancel(s.client.lifetime)
			s.known[addr] = one
			go s.listen(one)
		}
	}
}

// keep forgets the sentinels that are neither configured nor among the given ones.
func (s *sentinels) keep(addrs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, one := range s.known {
		if !slices.Contains(addrs, addr) && !slices.Contains(s.client.options.Addrs, addr) {
			one.stop()
			delete(s.known, addr)
		}
	}
}

func (s *sentinels) all() []*sentinel {
	s.begin.Do(func() { s.add(s.client.options.Addrs) })
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.known))
}

// connect returns the client of a sentinel. The first call makes it, which takes up to two seconds.
func (s *sentinels) connect(one *sentinel) (rueidis.Client, error) {
	one.once.Do(func() {
		o := s.client.clientOption()
		options := &s.client.options
		o.SelectDB = 0
		o.AuthCredentialsFn = s.client.credentials(options.SentinelUsername, options.SentinelPassword, options.SentinelPasswordFile)
		o.InitAddress, o.ForceSingleClient, o.DisableCache = []string{one.addr}, true, true
		o.DialCtxFn = (&dialer{network: s.network, anyRole: true}).dial
		// With ForceSingleClient there is a client also where there is an error, which connects later.
		if one.client, one.err = rueidis.NewClient(o); one.client != nil {
			context.AfterFunc(one.ctx, one.client.Close)
		}
	})
	if one.client == nil {
		return nil, one.err
	}
	return one.client, nil
}

// Of a failover the sentinels publish which replica is to become the primary, that it has, and that it is over.
const (
	selectedReplica = "+selected-slave"
	promotedReplica = "+promoted-slave"
	switchedPrimary = "+switch-master"
)

// listen subscribes to the events of a sentinel until it is no longer wanted.
func (s *sentinels) listen(one *sentinel) {
	for failures := 1; ; failures++ {
		begin := time.Now()
		if c, err := s.connect(one); err == nil {
			_ = c.Receive(one.ctx, c.B().Subscribe().Channel(selectedReplica, promotedReplica, switchedPrimary).Build(), s.event)
		}
		if time.Since(begin) > backoffMax {
			failures = 1
		}
		select {
		case <-one.ctx.Done():
			return
		case <-time.After(backoff(failures)):
		}
	}
}

// event takes what a sentinel has published. rueidis calls it, so that it must not block.
func (s *sentinels) event(m rueidis.PubSubMessage) {
	words := strings.Fields(m.Message)
	switch master := s.client.options.SentinelMaster; {
	case m.Channel == switchedPrimary && len(words) == 5 && words[0] == master: // name, old host and port, new ones
		s.follow(net.JoinHostPort(words[3], words[4]))
	case m.Channel != switchedPrimary && len(words) == 8 && words[5] == master: // slave, name, host, port, @, and the primary's
		s.follow(net.JoinHostPort(words[2], words[3]))
	}
}

// follow uses a node as soon as it has become the primary, if it does within followFor.
func (s *sentinels) follow(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.following[addr] {
		return
	}
	s.following[addr] = true
	go func() {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.following, addr)
		}()
		ctx, cancel := context.WithTimeout(s.client.lifetime, followFor)
		defer cancel()
		if s.client.awaitPrimary(ctx, addr) {
			s.use(addr)
		}
	}()
}

// use makes a node the primary from now on: connections to any other are closed, and new ones lead to it.
func (s *sentinels) use(addr string) {
	s.mu.Lock()
	s.promised, s.promisedUntil = addr, time.Now().Add(promisedFor)
	s.mu.Unlock()
	network := s.client.network
	network.answered(primaryName) // the failures of others say nothing about it
	network.drop("another node is the primary now", leadElsewhere(addr))
}

// disappointed says that a connection to the primary could not be opened: the sentinels are to be asked again.
func (s *sentinels) disappointed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promised = ""
}

// ahead returns the node that has become the primary and that the sentinels may not name yet, empty if there is none.
func (s *sentinels) ahead() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().After(s.promisedUntil) {
		return ""
	}
	return s.promised
}

// resolve returns the address of the primary.
func (s *sentinels) resolve(ctx context.Context) (string, error) {
	if promised := s.ahead(); promised != "" {
		return promised, nil
	}
	v, err := s.ask(ctx, s.client.options.sentinelTimeout())
	if len(v.named) == 0 {
		return "", fmt.Errorf("no sentinel names the primary: %w", err)
	}
	return v.most(), nil
}

// votes is what the sentinels have answered.
type votes struct {
	named map[string]string // by id of a sentinel, the address that it names
	ids   map[string]bool   // of all sentinels
}

// most returns the address that most sentinels name.
func (v votes) most() (addr string) {
	counts := make(map[string]int)
	for _, a := range v.named {
		if counts[a]++; counts[a] > counts[addr] || counts[a] == counts[addr] && a < addr {
			addr = a
		}
	}
	return addr
}

// majority returns the address that more than half of all sentinels name, empty if there is none. Only a majority can begin
// a failover, so that who hears from one knows of the last.
func (v votes) majority() string {
	addr, count := v.most(), 0
	for _, a := range v.named {
		if a == addr {
			count++
		}
	}
	if count > len(v.ids)/2 {
		return addr
	}
	return ""
}

// reply is what one sentinel has answered.
type reply struct {
	from, id string
	primary  string
	others   map[string]string // ids of the other sentinels by their addresses
}

// ask asks the sentinels which node is the primary, and returns when a majority agrees, or all have answered, or after a
// time. The error is one of a sentinel that did not answer.
func (s *sentinels) ask(ctx context.Context, within time.Duration) (v votes, failed error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	all := s.all()
	type answer struct {
		reply
		err error
	}
	answers := make(chan answer, len(all))
	for _, one := range all {
		go func() {
			r, err := s.askOne(ctx, one)
			answers <- answer{r, err}
		}()
	}
	var replies []reply
	for range all {
		select {
		case a := <-answers:
			if a.err != nil {
				failed = a.err
				continue
			}
			replies = append(replies, a.reply)
		case <-ctx.Done(): // a sentinel that cannot be reached holds up nobody
			if failed == nil {
				failed = ctx.Err()
			}
		}
		if v = count(replies); v.majority() != "" {
			break
		}
	}
	if len(replies) > 0 {
		var listed []string
		for _, r := range replies {
			listed = append(listed, r.from)
			listed = slices.AppendSeq(listed, maps.Keys(r.others))
		}
		s.add(listed)
		s.keep(listed)
	}
	return v, failed
}

// count counts the votes. A sentinel that was asked under two addresses, such as its name and its number, has one vote.
func count(replies []reply) votes {
	v := votes{named: make(map[string]string), ids: make(map[string]bool)}
	ids := make(map[string]string) // by address
	for _, r := range replies {
		maps.Copy(ids, r.others)
	}
	for _, r := range replies {
		id := cmp.Or(r.id, ids[r.from], r.from)
		v.named[id], v.ids[id] = r.primary, true
		for _, other := range r.others {
			v.ids[other] = true
		}
	}
	return v
}

func (s *sentinels) askOne(ctx context.Context, one *sentinel) (r reply, err error) {
	c, err := s.connect(one)
	if err != nil {
		return r, err
	}
	name := s.client.options.SentinelMaster
	answers := c.DoMulti(ctx,
		c.B().SentinelGetMasterAddrByName().Master(name).Build(),
		c.B().SentinelSentinels().Master(name).Build(),
		c.B().Arbitrary("SENTINEL", "MYID").Build())
	addr, err := answers[0].AsStrSlice()
	switch {
	case rueidis.IsRedisNil(err) || err == nil && len(addr) != 2:
		return r, errors.New("a sentinel does not know the primary")
	case err != nil:
		return r, err
	}
	list, err := answers[1].ToArray()
	if err != nil {
		return r, err
	}
	r = reply{from: one.addr, primary: net.JoinHostPort(addr[0], addr[1]), others: make(map[string]string)}
	for _, other := range list {
		if fields, err := other.AsStrMap(); err == nil && fields["ip"] != "" {
			at := net.JoinHostPort(fields["ip"], fields["port"])
			r.others[at] = cmp.Or(fields["runid"], at)
		}
	}
	r.id, _ = answers[2].ToString() // not essential, and not all users may ask
	return r, nil
}
