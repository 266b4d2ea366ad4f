package redis

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"sort"
)

// WalkSteps is the maximum number of steps of a walk for one page. In a database full of other keys a page is short or empty rather
// than late, and the walk continues from its token.
const WalkSteps = 100

// A Walk is a walk over keys of all primaries.
type Walk struct {
	// Of is what the walk is about, to which its tokens are bound.
	Of string
	// Match is the glob pattern of the keys, and Type their type as Redis names it.
	Match, Type string
}

// position is how far a walk has come: the id of a primary and a SCAN cursor there. Primaries are walked in the order of their
// ids.
type position struct{ node, cursor uint64 }

// Scan makes one step of a walk, in which Redis visits about count keys. It returns Redis keys and the token of the next step, empty
// after the last. It fails with [ErrPageToken] if the token is of another walk.
func (c *Client) Scan(ctx context.Context, w Walk, token string, count int64) (keys []string, next string, err error) {
	of := fnv.New32a()
	_, _ = of.Write([]byte(w.Of))
	walk := of.Sum32()
	at, ok := parsePosition(token, walk)
	if !ok {
		return nil, "", ErrPageToken
	}
	type step struct {
		keys []string
		next string
	}
	done, err := RoundTrip(ctx, c, "scan", Reads, func(ctx context.Context, conns *Conns) (step, error) {
		ids, nodes, err := c.Primaries(ctx, conns)
		if err != nil {
			return step{}, err
		}
		n := sort.Search(len(ids), func(i int) bool { return ids[i] >= at.node })
		if n == len(ids) { // the primaries have changed, and none is left to walk
			return step{}, nil
		}
		at := at
		if ids[n] != at.node {
			at = position{ids[n], 0}
		}
		node := nodes[at.node]
		page, err := node.Do(ctx, node.B().Scan().Cursor(at.cursor).Match(w.Match).Count(count).Type(w.Type).Build()).AsScanEntry()
		if err != nil {
			return step{}, err
		}
		next := ""
		switch at.cursor = page.Cursor; {
		case at.cursor != 0:
			next = at.token(walk)
		case n+1 < len(ids):
			next = position{ids[n+1], 0}.token(walk)
		}
		return step{page.Elements, next}, nil
	})
	return done.keys, done.next, err
}

// token returns the position in a walk as a page token. Walk identifies the namespace and the pattern.
func (p position) token(walk uint32) string {
	b := binary.BigEndian.AppendUint32(nil, walk)
	b = binary.BigEndian.AppendUint64(b, p.node)
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, p.cursor))
}

// parsePosition is the inverse of token; ok is false if the token is not one of the walk.
func parsePosition(token string, walk uint32) (p position, ok bool) {
	if token == "" {
		return p, true
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 20 {
		return p, false
	}
	p = position{binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint64(b[12:])}
	// The whole token is compared, because decoding ignores line breaks and the last bits.
	return p, p.token(walk) == token
}
