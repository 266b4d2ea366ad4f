package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// clusterSlots is the number of slots of every cluster.
const clusterSlots = 1 << 14

// A view is what one node of a cluster says of the whole (CLUSTER NODES).
type view struct {
	self   string // its id
	nodes  map[string]viewedNode
	moving bool // whether a slot is migrating from it or being imported
}

// viewedNode is a node of a cluster as another one sees it.
type viewedNode struct {
	addr    string
	primary bool
	// suspected means that it does not answer whoever sees it so, failed that a majority of the primaries agree.
	suspected, failed bool
	epoch             int64
	slots             [][2]int
}

var errView = errors.New("the answer to CLUSTER NODES cannot be read")

// parseView reads the answer to CLUSTER NODES. A line is an id, an address, flags, the id of the primary, two times, the
// configuration epoch, the state of the link, and the slots as 0-99, 100 or [101->-id].
func parseView(text string) (v view, err error) {
	v.nodes = make(map[string]viewedNode)
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 8 {
			return v, errView
		}
		n := viewedNode{}
		n.addr, _, _ = strings.Cut(words[1], "@")
		for flag := range strings.SplitSeq(words[2], ",") {
			switch flag {
			case "myself":
				v.self = words[0]
			case "master":
				n.primary = true
			case "fail?":
				n.suspected = true
			case "fail":
				n.failed = true
			}
		}
		if n.epoch, err = strconv.ParseInt(words[6], 10, 64); err != nil {
			return v, errView
		}
		for _, slots := range words[8:] {
			if slots[0] == '[' {
				v.moving = true
				continue
			}
			from, to, isRange := strings.Cut(slots, "-")
			if !isRange {
				to = from
			}
			a, err1 := strconv.Atoi(from)
			b, err2 := strconv.Atoi(to)
			if err1 != nil || err2 != nil || a < 0 || b >= clusterSlots {
				return v, errView
			}
			n.slots = append(n.slots, [2]int{a, b})
		}
		v.nodes[words[0]] = n
	}
	if v.self == "" {
		return v, errView
	}
	return v, nil
}

// whole reports whether a node sees a majority of the primaries that have slots. Without one it is cut off: the others may
// have replaced it.
func (v view) whole() bool {
	all, seen := 0, 0
	for _, n := range v.nodes {
		if n.primary && len(n.slots) > 0 {
			all++
			if !n.suspected && !n.failed {
				seen++
			}
		}
	}
	return seen > all/2
}

// claim is what a view says of the slots of one node.
type claim struct {
	id    string
	epoch int64
	slots string
}

// survey is what views say together.
type survey struct {
	// slots are those of each node that has any, by id.
	slots map[string][][2]int
	// sum identifies the owners of all slots and their epochs.
	sum string
}

// combine combines views. Where they differ, the claim with the highest configuration epoch is the one that all nodes will
// agree on.
func combine(views []view) survey {
	claims := make(map[claim][][2]int)
	for _, v := range views {
		for id, n := range v.nodes {
			if len(n.slots) > 0 {
				claims[claim{id, n.epoch, fmt.Sprint(n.slots)}] = n.slots
			}
		}
	}
	// In ascending order of epochs, so that the highest one is written last.
	order := slices.SortedFunc(maps.Keys(claims), func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.id, b.id), cmp.Compare(a.slots, b.slots))
	})
	owners := make([]*claim, clusterSlots+1)
	for i := range order {
		for _, r := range claims[order[i]] {
			for slot := r[0]; slot <= r[1]; slot++ {
				owners[slot] = &order[i]
			}
		}
	}
	s := survey{slots: make(map[string][][2]int)}
	sum := fnv.New128a()
	for from := 0; from < clusterSlots; {
		to := from + 1
		for to < clusterSlots && same(owners[from], owners[to]) {
			to++
		}
		if c := owners[from]; c != nil {
			s.slots[c.id] = append(s.slots[c.id], [2]int{from, to - 1})
			fmt.Fprintf(sum, "%d-%d %s %d\n", from, to, c.id, c.epoch)
		}
		from = to
	}
	s.sum = string(sum.Sum(nil))
	return s
}

func same(a, b *claim) bool {
	return a == b || a != nil && b != nil && a.id == b.id && a.epoch == b.epoch
}

// askView asks a node for its view.
func askView(ctx context.Context, node rueidis.Client) (view, error) {
	text, err := node.Do(ctx, node.B().ClusterNodes().Build()).ToString()
	if err != nil {
		return view{}, err
	}
	return parseView(strings.TrimPrefix(text, "txt:")) // in RESP3 the text says that it is one
}

// confirmCluster confirms what came from the primaries of a cluster if each owner of slots has answered and is sure that it
// is one, no slot moves, and no node knows better. A node that no longer owns a slot pushes nothing about its keys, and while a
// slot moves its owner pushes nothing about keys that it does not have.
func (c *Client) confirmCluster(ctx context.Context, conns *Conns) error {
	ticket := c.Near.Begin("")
	nodes, tracked, bulk := conns.Primary.Nodes(), conns.Tracked.Nodes(), conns.bulkNodes()
	for addr, node := range tracked {
		if nodes[addr] == nil {
			nodes[addr] = node
		}
	}
	type answer struct {
		addr    string
		view    view
		tracked bool
		err     error
	}
	answers := make(chan answer, len(nodes))
	for addr, node := range nodes {
		a := answer{addr: addr}
		if primary, _ := c.roles.Load(addr); primary == true && tracked[addr] != nil {
			node, a.tracked = tracked[addr], true // nothing is read from a replica, and no such connection to it is needed
		}
		go func() {
			a.err = together(
				func() (err error) { a.view, err = askView(ctx, node); return err },
				func() error { // its pushes have arrived, too
					if large := bulk[addr]; a.tracked && large != nil {
						return large.Do(ctx, large.B().Ping().Build()).NonRedisError()
					}
					return nil
				},
			)
			answers <- a
		}()
	}
	var views []view
	sources := make(map[string]view)
	var failed error
	for range nodes {
		a := <-answers
		if isDenied(a.err) {
			c.blind.Do(func() {
				c.options.Logger.Warn("the user may not run CLUSTER NODES: nothing is kept in the near cache for longer than its bound",
					"bound", c.options.NearCacheTTL.String())
			})
		}
		if a.err != nil {
			failed = a.err
			continue
		}
		views = append(views, a.view)
		c.nodeIDs.Store(a.addr, a.view.self)
		c.roles.Store(a.addr, a.view.nodes[a.view.self].primary)
		if a.tracked {
			sources[a.view.self] = a.view
		}
	}
	s := combine(views)
	if c.refuseReplaced(s, sources); len(s.slots) > 0 {
		c.divide(s)
	}
	if len(s.slots) == 0 {
		return cmp.Or(failed, errors.New("no node knows an owner of slots"))
	}
	for id := range s.slots {
		if _, answered := sources[id]; !answered { // it may have been the source of an entry
			return cmp.Or(failed, errors.New("an owner of slots has not answered"))
		}
	}
	moved := c.ownersSum != s.sum
	if moved {
		c.slotOwners.Store(ownersOf(s))
		c.ownersSum = s.sum
	}
	sum := s.sum
	for _, v := range views {
		self := v.nodes[v.self]
		if owns := s.slots[v.self]; len(owns) > 0 && (v.moving || !v.whole()) || self.primary && !slices.Equal(self.slots, owns) {
			sum = ""
		}
	}
	// Who waits must look again: what it waits for is not told by the former owner, nor, while there is doubt, surely by anybody.
	if c.Near.Confirm(ticket, sum) || moved || sum == "" {
		c.waiting.wakeAll()
	}
	return nil
}

// refuseReplaced leaves the nodes that failed and were replaced, and does not connect to them until the others say that they
// are back. One that is only cut off from the others would go on to say that it is a primary.
func (c *Client) refuseReplaced(s survey, sources map[string]view) {
	replaced, known := make(map[string]bool), false
	for _, source := range sources {
		if !source.whole() {
			continue
		}
		known = true
		for id, n := range source.nodes {
			if !n.failed || len(s.slots[id]) > 0 {
				continue
			}
			replaced[n.addr] = true
			c.nodeIDs.Range(func(addr, of any) bool {
				if of == id {
					replaced[addr.(string)] = true
				}
				return true
			})
		}
	}
	if known {
		c.network.refuse(replaced)
	}
}
