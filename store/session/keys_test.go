package session

import (
	"strings"
	"testing"

	"github.com/berthcare/larder/store/redis"
)

// Keys of different kinds are never equal.
func TestKeysHaveDifferentLetters(t *testing.T) {
	t.Parallel()
	p, hash := subjectHash("a", "b")
	seen := map[string]bool{"ld:c:": true, "ld:l:": true, "ld:t:": true, "ld:n:": true} // those of the cache
	for _, k := range []string{
		sessionKey(p, "a", hash), attributesKey(p, "a", hash), indexKey(p, "a", hash), subjectKey(p, "a", hash),
		classesKey(p, "a", hash), promotionKey(p, "a", hash), epochKey(p), eventsKey(p), endsKey(p), discardedKey(p),
	} {
		if letter := k[:len("ld:x:")]; seen[letter] || !strings.HasPrefix(letter, redis.KeyPrefix) || letter[4] != ':' {
			t.Errorf("key %q begins with %q, want a letter of its own", k, letter)
		} else {
			seen[letter] = true
		}
	}
}

func TestAppendedKeysAreTheSame(t *testing.T) {
	t.Parallel()
	for want, got := range map[string][]byte{
		sessionKey(207, "n", "id"):     appendSessionKey(nil, 207, "n", "id"),
		subjectKey(0, "n", "00ff00ff"): appendSubjectKey(nil, 0, "n", "00ff00ff"),
	} {
		if string(got) != want {
			t.Errorf("the appended key is %q, want %q", got, want)
		}
	}
}
