package redis

import (
	"sync"
	"time"
)

// moves tells slots that moved with their keys from slots that were handed over without them, of which the former owner drops
// the keys and tells nothing.
//
// A key that moves is told twice at once: by the new owner, which restores it, and by the former one, which deletes it. In a slot
// that was handed over the former owner can only have told of a key before the new one did, and hardly just before. What is taken
// for a loss and is none costs watchers a reset; so does a slot without a key that is watched.
type moves struct {
	mu sync.Mutex
	// owners are those by which the rest is meant; nil before they are known.
	owners *slotOwners
	// restored are keys that another node than their owner has told of, and which.
	restored map[string]string
	// deleted are the last keys that owners have told of.
	deleted [64]toldKey
	next    int
	// moved are slots of which a key has moved, and where to.
	moved map[uint16]string
	// looks is the number of looks at other owners than before: what nodes have told is read concurrently, and may be late.
	looks int
}

type toldKey struct {
	key string
	at  time.Time
}

const (
	// maxRestored bounds the keys that are remembered. Of the slots of further ones it is not known that they moved.
	maxRestored = 10_000
	// atOnce is how much later than the former owner's the new owner's word may be read.
	atOnce = 20 * time.Millisecond
)

// told takes note of a key that a node has told of.
func (m *moves) told(node, key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.owners == nil {
		return
	}
	slot := slotOf(key)
	if node == m.owners[slot] {
		if to, ok := m.restored[key]; ok {
			delete(m.restored, key)
			m.move(slot, to)
			return
		}
		m.deleted[m.next] = toldKey{key, time.Now()}
		m.next = (m.next + 1) % len(m.deleted)
		return
	}
	for i := range m.deleted {
		if m.deleted[i].key == key && time.Since(m.deleted[i].at) < atOnce {
			m.move(slot, node)
			return
		}
	}
	if m.restored == nil {
		m.restored = make(map[string]string)
	}
	if len(m.restored) < maxRestored {
		m.restored[key] = node
	}
}

func (m *moves) move(slot uint16, to string) {
	if m.moved == nil {
		m.moved = make(map[uint16]string)
	}
	m.moved[slot] = to
}

// lost takes the owners that are known now, and reports whether slots have other owners than before without their keys having
// moved there.
func (m *moves) lost(now *slotOwners) (lost bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now == nil || now == m.owners {
		return false
	}
	if m.owners != nil {
		if m.looks++; m.looks < 2 {
			return false
		}
		for slot, id := range now {
			if before := m.owners[slot]; before != id && before != "" && m.moved[uint16(slot)] != id { //nolint:gosec // below 16384
				lost = true
			}
		}
	}
	m.owners, m.looks, m.restored, m.moved = now, 0, nil, nil
	return lost
}
