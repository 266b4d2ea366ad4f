package lock

import (
	"strings"

	"github.com/berthcare/larder/store/redis"
)

// A lockKey names a lock. Its Redis keys share the hash tag {<namespace>:<name>}, which puts them into one slot.
type lockKey struct{ namespace, name string }

func (k lockKey) tag() string { return "{" + k.namespace + ":" + k.name + "}" }

// holders is the Redis key of the sorted set of holders. Those who wait are told of its changes.
func (k lockKey) holders() string { return holdersPrefix + k.tag() }

// records is the Redis key of the hash of the holders' records.
func (k lockKey) records() string { return "ld:a:" + k.tag() }

// counter is the Redis key of the highest fencing token.
func (k lockKey) counter() string { return "ld:f:" + k.tag() }

// queue is the Redis key of the sorted set of tickets, by their order.
func (k lockKey) queue() string { return "ld:y:" + k.tag() }

// kept is the Redis key of the sorted set of tickets, by the time until which they are kept.
func (k lockKey) kept() string { return "ld:y:" + k.tag() + ":kept" }

// taken is the Redis key of the holders from whom the lock was taken last.
func (k lockKey) taken() string { return "ld:h:" + k.tag() + ":taken" }

const holdersPrefix = redis.KeyPrefix + "h:"

// lockName returns the name of a lock from the key of its holders.
func lockName(namespace, redisKey string) (name string, ok bool) {
	before := holdersPrefix + "{" + namespace + ":"
	if len(redisKey) < len(before)+1 || !strings.HasPrefix(redisKey, before) || !strings.HasSuffix(redisKey, "}") {
		return "", false
	}
	return redisKey[len(before) : len(redisKey)-1], true
}
