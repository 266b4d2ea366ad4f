package session_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/cache"
	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/session"
	"github.com/berthcare/larder/store/storetest"
)

func newKey() []byte {
	key := make([]byte, keyring.KeyBytes)
	_, _ = rand.Read(key)
	return key
}

func newKeyring(t testing.TB, active string, keys map[string][]byte) *keyring.Keyring {
	t.Helper()
	k, err := keyring.New(active, keys)
	if err != nil {
		t.Fatalf("keyring.New: error %v, want none", err)
	}
	return k
}

// withKeyring opens a store beside s, on the same Redis.
func withKeyring(t *testing.T, s *store.Store, k *keyring.Keyring) *store.Store {
	t.Helper()
	o := storetest.Options(t, s.Redis.Mode())
	o.Keyring = k
	return storetest.Open(t, o)
}

// Attributes are encrypted in Redis, and every call returns them as they were given.
func TestAttributesAreEncrypted(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, plain *store.Store, namespace string) {
		s := plain
		if s.Redis.Mode() == redis.Embedded {
			s = storetest.Open(t, store.Options{Redis: redis.Options{Mode: redis.Embedded}, Keyring: newKeyring(t, "a", map[string][]byte{"a": newKey()})})
			plain = nil // it has a Redis of its own
		} else {
			s = withKeyring(t, s, newKeyring(t, "a", map[string][]byte{"a": newKey()}))
		}
		n := sessionOf("ann")
		n.Attributes = map[string]string{"email": "ann@example.org", "empty": ""}
		token, sess := createSession(t, s, namespace, n)
		updateSession(t, s, namespace, byToken(token), session.Changes{Set: map[string]string{"phone": "canary-555"}})
		want := map[string]string{"email": "ann@example.org", "empty": "", "phone": "canary-555"}
		for how, got := range map[string]*session.Session{
			"primary": validate(t, s, namespace, token, primary),
			"cached":  validate(t, s, namespace, token, cached),
			"by id":   getSession(t, s, namespace, sess.ID),
			"list":    walk(t, s, namespace, "ann", 10, nil)[0],
		} {
			if diff := cmp.Diff(want, got.Attributes); diff != "" {
				t.Errorf("%s (-want +got):\n%s", how, diff)
			}
		}
		stored := fmt.Sprint(storetest.Command(t, s, "HGETALL", sessionKeysOf(t, namespace, sess).attributes))
		if strings.Contains(stored, "example") || strings.Contains(stored, "canary") || !strings.Contains(stored, "\xc1LE\x01\x01a") {
			t.Errorf("attributes are stored as %q, want them encrypted with key a", stored)
		}
		if plain == nil {
			return
		}
		// Without the key the answer is an error, and not a session without its encrypted attributes.
		if got, err := plain.Sessions.ValidateSession(t.Context(), namespace, token, primary, session.TouchNever); got != nil || !errors.Is(err, keyring.ErrKeyUnknown) {
			t.Errorf("Validate without a keyring = %v, %v; want nil, ErrKeyUnknown", got, err)
		}
		other := withKeyring(t, plain, newKeyring(t, "b", map[string][]byte{"b": newKey()}))
		if got, err := other.Sessions.Get(t.Context(), namespace, sess.ID); got != nil || !errors.Is(err, keyring.ErrKeyUnknown) {
			t.Errorf("Get with another key = %v, %v; want nil, ErrKeyUnknown", got, err)
		}
		same := withKeyring(t, plain, newKeyring(t, "a", map[string][]byte{"a": newKey()}))
		if got, err := same.Sessions.Get(t.Context(), namespace, sess.ID); got != nil || !errors.Is(err, redis.ErrCorrupt) {
			t.Errorf("Get with another key of the same id = %v, %v; want nil, ErrCorrupt", got, err)
		}
		if !revokeSession(t, plain, namespace, byToken(token)) {
			t.Error("Revoke without the key = false, want true")
		}
	})
}

// The active key changes while sessions live: writes use the new key, and both keys can be read.
func TestKeysAreChangedUnderLivingSessions(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, plain *store.Store, namespace string) {
		if plain.Redis.Mode() == redis.Embedded {
			return // it does not outlive its store, and so not its keyring
		}
		a, b := newKey(), newKey()
		before := withKeyring(t, plain, newKeyring(t, "a", map[string][]byte{"a": a, "b": b}))
		after := withKeyring(t, plain, newKeyring(t, "b", map[string][]byte{"a": a, "b": b}))
		n := sessionOf("ann")
		n.Attributes = map[string]string{"zero": "0"}
		token, sess := createSession(t, plain, namespace, n) // from before there was a keyring
		updateSession(t, before, namespace, byToken(token), session.Changes{Set: map[string]string{"one": "1", "two": "1"}})
		updateSession(t, after, namespace, byToken(token), session.Changes{Set: map[string]string{"two": "2"}})
		for _, s := range []*store.Store{before, after} {
			got := validate(t, s, namespace, token, primary)
			if diff := cmp.Diff(map[string]string{"zero": "0", "one": "1", "two": "2"}, got.Attributes); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if uses := s.Stats().KeyUses; uses["a"] != 1 || uses["b"] != 1 {
				t.Errorf("uses of keys = %v, want 1 of a and 1 of b", uses)
			}
		}
		key := sessionKeysOf(t, namespace, sess).attributes
		for name, id := range map[string]string{"one": "a", "two": "b"} {
			if stored := storetest.Command(t, after, "HGET", key, name).(string); !strings.HasPrefix(stored, "\xc1LE\x01\x01"+id) {
				t.Errorf("%s is stored as %q, want it encrypted with key %s", name, stored, id)
			}
		}
	})
}

// Values are encrypted if the write asks for it, after compression, by every kind of write, and every kind of read returns
// them.
func TestValuesAreEncrypted(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		o := storetest.Options(t, s.Redis.Mode())
		o.Keyring, o.Cache.CompressAbove = newKeyring(t, "a", map[string][]byte{"a": newKey()}), 100
		s = storetest.Open(t, o)
		long := bytes.Repeat([]byte("canary"), 100)
		w := func(value []byte) cache.Write {
			return cache.Write{Value: value, Fresh: time.Hour, Encrypt: true, Tags: []string{"t"}, ContentType: "text/plain"}
		}
		ctx := t.Context()
		values := map[string][]byte{"set": []byte("canary"), "long": long, "empty": {}, "if absent": long, "batch": long, "lease": long}
		for _, key := range []string{"set", "long", "empty"} {
			if _, _, err := s.Cache.Set(ctx, namespace, key, w(values[key]), cache.Condition{}); err != nil {
				t.Fatalf("Set %q: error %v, want none", key, err)
			}
		}
		if _, _, err := s.Cache.Set(ctx, namespace, "if absent", w(long), cache.Condition{Kind: cache.IfAbsent}); err != nil {
			t.Fatalf("Set if absent: error %v, want none", err)
		}
		if _, err := s.Cache.BatchSet(ctx, namespace, []cache.BatchWrite{{Key: "batch", Write: w(long)}}); err != nil {
			t.Fatalf("BatchSet: error %v, want none", err)
		}
		leased, err := s.Cache.GetOrLease(ctx, namespace, "lease", cache.LeaseOptions{TTL: time.Minute})
		if err != nil {
			t.Fatalf("GetOrLease: error %v, want none", err)
		}
		if outcome, _, err := s.Cache.Fill(ctx, namespace, "lease", leased.Token, w(long)); outcome != cache.Filled || err != nil {
			t.Fatalf("Fill = %v, %v; want %v, no error", outcome, err, cache.Filled)
		}
		for key, want := range values {
			for _, near := range []bool{true, false} {
				got, err := s.Cache.Get(ctx, namespace, key, near)
				if err != nil || got.Entry == nil || !bytes.Equal(got.Value, want) || got.ContentType != "text/plain" {
					t.Errorf("Get %q = %+v, %v; want value %q of type text/plain", key, got.Entry, err, want)
				}
			}
			stored := storetest.Command(t, s, "GET", "ld:c:{"+namespace+":"+key+"}").(string)
			if strings.Contains(stored, "canary") || len(stored) > 300 {
				t.Errorf("%q is stored as %q, want at most 300 bytes without the plain value", key, stored)
			}
			found, err := s.Cache.BatchGet(ctx, namespace, []string{key}, false)
			if err != nil || found[0].Entry == nil || !bytes.Equal(found[0].Value, want) {
				t.Errorf("BatchGet %q = %+v, %v; want value %q", key, found, err, want)
			}
		}
		// A value that was moved from another key cannot be decrypted.
		other := storetest.Command(t, s, "GET", "ld:c:{"+namespace+":long}").(string)
		storetest.Command(t, s, "SET", "ld:c:{"+namespace+":set}", other)
		if got, err := s.Cache.Get(ctx, namespace, "set", false); !errors.Is(err, redis.ErrCorrupt) || got.Entry != nil {
			t.Errorf("Get of a value moved from another key = %+v, %v; want none, ErrCorrupt", got.Entry, err)
		}
	})
}

// A write that must be encrypted is refused without a keyring.
func TestNothingIsStoredWithoutTheKeyringItNeeds(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		w := cache.Write{Value: []byte("canary"), Fresh: time.Hour, Encrypt: true}
		_, _, err := s.Cache.Set(t.Context(), namespace, "k", w, cache.Condition{})
		_, batchErr := s.Cache.BatchSet(t.Context(), namespace, []cache.BatchWrite{{Key: "k2"}, {Key: "k", Write: w}})
		leased, leaseErr := s.Cache.GetOrLease(t.Context(), namespace, "k", cache.LeaseOptions{TTL: time.Minute})
		if leaseErr != nil {
			t.Fatalf("GetOrLease: error %v, want none", leaseErr)
		}
		_, _, fillErr := s.Cache.Fill(t.Context(), namespace, "k", leased.Token, w)
		for _, err := range []error{err, batchErr, fillErr} {
			if !errors.Is(err, keyring.ErrKeyUnknown) {
				t.Errorf("write without a keyring: error %v, want ErrKeyUnknown", err)
			}
		}
		for _, key := range []string{"k", "k2"} {
			if storetest.Command(t, s, "EXISTS", "ld:c:{"+namespace+":"+key+"}") != int64(0) {
				t.Errorf("%q exists after a refused write, want it absent", key)
			}
		}
	})
}

// Concurrent increments of encrypted attributes add up.
func TestParallelIncrementsOfEncryptedAttributesAddUp(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		o := storetest.Options(t, s.Redis.Mode())
		o.Keyring = newKeyring(t, "a", map[string][]byte{"a": newKey()})
		a := storetest.Open(t, o)
		stores := []*store.Store{a, a}
		if s.Redis.Mode() != redis.Embedded {
			stores[1] = storetest.Open(t, o)
		}
		n := sessionOf("ann")
		n.Attributes = map[string]string{"text": "canary", "full": strings.Repeat("x", session.MaxAttributeBytes-100)}
		token, sess := createSession(t, a, namespace, n)
		var adders []func()
		for _, s := range stores {
			adders = append(adders, func() {
				for range 10 {
					if _, err := s.Sessions.Update(t.Context(), namespace, byToken(token), session.Changes{Increment: map[string]int64{"n": 2}}); err != nil {
						t.Errorf("Update: error %v, want none", err)
					}
				}
			})
		}
		atOnce(adders...)
		got, err := a.Sessions.Update(t.Context(), namespace, byID(sess), session.Changes{
			Increment: map[string]int64{"n": -1, "new": 7}, SetIfAbsent: map[string]string{"text": "other", "absent": "1"}, ExpectedVersion: 21,
		})
		want := session.Updated{Version: 22, Incremented: map[string]int64{"n": 39, "new": 7}, SetIfAbsent: []string{"absent"}}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		stored := fmt.Sprint(storetest.Command(t, a, "HGETALL", sessionKeysOf(t, namespace, sess).attributes))
		if strings.Contains(stored, "39") && strings.Contains(stored, "n:39") || strings.Contains(stored, "canary") {
			t.Errorf("attributes are stored as %q, want them encrypted", stored)
		}
		for what, c := range map[string]struct {
			u   session.Changes
			err error
		}{
			"text":          {session.Changes{Increment: map[string]int64{"text": 1}}, redis.ErrNotCounter},
			"overflow":      {session.Changes{Increment: map[string]int64{"n": math.MaxInt64}}, redis.ErrOverflow},
			"other version": {session.Changes{Increment: map[string]int64{"n": 1}, ExpectedVersion: 21}, session.ErrVersionMismatch},
			"too long":      {session.Changes{Set: map[string]string{"long": strings.Repeat("x", 100)}}, session.ErrTooManyAttributes},
		} {
			if got, err := a.Sessions.Update(t.Context(), namespace, byToken(token), c.u); !errors.Is(err, c.err) || got.Version != 0 {
				t.Errorf("%s: Update = %+v, %v; want version 0, %v", what, got, err, c.err)
			}
		}
		other, _ := createSession(t, a, namespace, sessionOf("ann"))
		if got, err := a.Sessions.Update(t.Context(), namespace, byToken(wrongSecret(t, token, other)), session.Changes{Increment: map[string]int64{"text": 1}}); got.Version != 0 || err != nil {
			t.Errorf("Update with a wrong secret = %+v, %v; want version 0, no error", got, err)
		}
		// The limit counts bytes before encryption.
		room := 100 - len("text"+"canary"+"full"+"n"+"39"+"new"+"7"+"absent"+"1"+"long")
		if got := updateSession(t, a, namespace, byToken(token), session.Changes{Set: map[string]string{"long": strings.Repeat("x", room)}}); got != 23 {
			t.Errorf("version %d after an update to exactly the limit of bytes, want 23", got)
		}
	})
}

// A replica that cannot decrypt the attributes does not reauthenticate the session: nobody would receive the new token.
func TestReauthenticationWithoutTheKeyChangesNothing(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, plain *store.Store, namespace string) {
		if plain.Redis.Mode() == redis.Embedded {
			return // it does not outlive its store, and so not its keyring
		}
		k := newKey()
		s := withKeyring(t, plain, newKeyring(t, "a", map[string][]byte{"a": k, "ab": newKey()}))
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "b"}
		token, sess := createSession(t, s, namespace, n)
		for what, other := range map[string]*store.Store{
			"no keyring": plain, "other keys": withKeyring(t, plain, newKeyring(t, "ab", map[string][]byte{"ab": newKey(), "ba": newKey()})),
		} {
			next, got, err := other.Sessions.Reauthenticate(t.Context(), namespace, token, session.Reauthentication{AAL: 2, AMR: []string{"otp"}})
			if next != "" || got != nil || !errors.Is(err, keyring.ErrKeyUnknown) {
				t.Errorf("%s: Reauthenticate = %v, %v; want no session, ErrKeyUnknown", what, got, err)
			}
		}
		if got := validate(t, s, namespace, token, primary); got == nil || got.Assurance.AAL != 0 {
			t.Errorf("session after refused reauthentications = %+v, want an active one with AAL 0", got)
		}
		next, got := reauthenticate(t, s, namespace, token, session.Reauthentication{AAL: 2, AMR: []string{"otp"}})
		if next == "" || got == nil || got.ID != sess.ID || got.Attributes["a"] != "b" {
			t.Errorf("Reauthenticate with the key = %+v, want session %s with its attributes", got, sess.ID)
		}
	})
}

// An increment by session id needs no token, whatever tokens the session had.
func TestIncrementOfEncryptedAttributeByID(t *testing.T) {
	raced(t, func(t *testing.T, plain *store.Store, namespace string) {
		s := withKeyring(t, plain, newKeyring(t, "a", map[string][]byte{"a": newKey()}))
		token, sess := createSession(t, s, namespace, sessionOf("ann"))
		for want := int64(1); want <= 3; want++ {
			got, err := s.Sessions.Update(t.Context(), namespace, byID(sess), session.Changes{Increment: map[string]int64{"n": 1}})
			if err != nil || got.Incremented["n"] != want {
				t.Errorf("Update by id = %+v, %v; want n %d, no error", got, err, want)
			}
			token, _ = rotate(t, s, namespace, token)
		}
	})
}
