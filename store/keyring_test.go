package store_test

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
	"github.com/berthcare/larder/store/keyring"
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
		t.Fatal(err)
	}
	return k
}

// withKeyring opens a store beside s, on the same Redis.
func withKeyring(t *testing.T, s *store.Store, k *keyring.Keyring) *store.Store {
	t.Helper()
	o := options(s.Mode())
	o.Keyring = k
	return open(t, o)
}

// Attributes are unreadable in Redis, and returned everywhere else as they were given.
func TestAttributesAreEncrypted(t *testing.T) {
	everywhere(t, func(t *testing.T, plain *store.Store, namespace string) {
		s := plain
		if s.Mode() == store.Embedded {
			s = open(t, store.Options{Mode: store.Embedded, Keyring: newKeyring(t, "a", map[string][]byte{"a": newKey()})})
			plain = nil // it has a Redis of its own
		} else {
			s = withKeyring(t, s, newKeyring(t, "a", map[string][]byte{"a": newKey()}))
		}
		n := sessionOf("ann")
		n.Attributes = map[string]string{"email": "ann@example.org", "empty": ""}
		token, session := createSession(t, s, namespace, n)
		updateSession(t, s, namespace, byToken(token), store.SessionUpdate{Set: map[string]string{"phone": "canary-555"}})
		want := map[string]string{"email": "ann@example.org", "empty": "", "phone": "canary-555"}
		for how, got := range map[string]*store.Session{
			"primary": validate(t, s, namespace, token, primary),
			"cached":  validate(t, s, namespace, token, cached),
			"by id":   getSession(t, s, namespace, session.ID),
			"list":    walk(t, s, namespace, "ann", 10, nil)[0],
		} {
			if diff := cmp.Diff(want, got.Attributes); diff != "" {
				t.Errorf("%s (-want +got):\n%s", how, diff)
			}
		}
		stored := fmt.Sprint(s.Command(t, "HGETALL", sessionKeysOf(t, namespace, session).attributes))
		if strings.Contains(stored, "example") || strings.Contains(stored, "canary") || !strings.Contains(stored, "\xc1LE\x01\x01a") {
			t.Errorf("stored as %q", stored)
		}
		if plain == nil {
			return
		}
		// Without the key there is no session with fewer attributes, but an error.
		if got, err := plain.ValidateSession(t.Context(), namespace, token, primary, store.TouchNever); got != nil || !errors.Is(err, keyring.ErrKeyUnknown) {
			t.Errorf("without a keyring: %v, %v", got, err)
		}
		other := withKeyring(t, plain, newKeyring(t, "b", map[string][]byte{"b": newKey()}))
		if got, err := other.GetSession(t.Context(), namespace, session.ID); got != nil || !errors.Is(err, keyring.ErrKeyUnknown) {
			t.Errorf("with another key: %v, %v", got, err)
		}
		same := withKeyring(t, plain, newKeyring(t, "a", map[string][]byte{"a": newKey()}))
		if got, err := same.GetSession(t.Context(), namespace, session.ID); got != nil || !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("with another key of the same id: %v, %v", got, err)
		}
		if !revokeSession(t, plain, namespace, byToken(token)) {
			t.Error("could not be revoked without the key")
		}
	})
}

// The active key is changed while sessions live: each write is made with the new one, and both are read.
func TestKeysAreChangedUnderLivingSessions(t *testing.T) {
	everywhere(t, func(t *testing.T, plain *store.Store, namespace string) {
		if plain.Mode() == store.Embedded {
			return // it does not outlive its store, and so not its keyring
		}
		a, b := newKey(), newKey()
		before := withKeyring(t, plain, newKeyring(t, "a", map[string][]byte{"a": a, "b": b}))
		after := withKeyring(t, plain, newKeyring(t, "b", map[string][]byte{"a": a, "b": b}))
		n := sessionOf("ann")
		n.Attributes = map[string]string{"zero": "0"}
		token, session := createSession(t, plain, namespace, n) // from before there was a keyring
		updateSession(t, before, namespace, byToken(token), store.SessionUpdate{Set: map[string]string{"one": "1", "two": "1"}})
		updateSession(t, after, namespace, byToken(token), store.SessionUpdate{Set: map[string]string{"two": "2"}})
		for _, s := range []*store.Store{before, after} {
			got := validate(t, s, namespace, token, primary)
			if diff := cmp.Diff(map[string]string{"zero": "0", "one": "1", "two": "2"}, got.Attributes); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if uses := s.Stats().KeyUses; uses["a"] != 1 || uses["b"] != 1 {
				t.Errorf("uses of keys: %v", uses)
			}
		}
		key := sessionKeysOf(t, namespace, session).attributes
		for name, id := range map[string]string{"one": "a", "two": "b"} {
			if stored := after.Command(t, "HGET", key, name).(string); !strings.HasPrefix(stored, "\xc1LE\x01\x01"+id) {
				t.Errorf("%s is stored as %q", name, stored)
			}
		}
	})
}

// Values are encrypted where that is asked for, compressed first, however they are written and read.
func TestValuesAreEncrypted(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		o := options(s.Mode())
		o.Keyring, o.CompressAbove = newKeyring(t, "a", map[string][]byte{"a": newKey()}), 100
		s = open(t, o)
		long := bytes.Repeat([]byte("canary"), 100)
		w := func(value []byte) store.Write {
			return store.Write{Value: value, Fresh: time.Hour, Encrypt: true, Tags: []string{"t"}, ContentType: "text/plain"}
		}
		ctx := t.Context()
		values := map[string][]byte{"set": []byte("canary"), "long": long, "empty": {}, "if absent": long, "batch": long, "lease": long}
		for _, key := range []string{"set", "long", "empty"} {
			if _, _, err := s.Set(ctx, namespace, key, w(values[key]), store.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := s.Set(ctx, namespace, "if absent", w(long), store.Condition{Kind: store.IfAbsent}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.BatchSet(ctx, namespace, []store.BatchWrite{{Key: "batch", Write: w(long)}}); err != nil {
			t.Fatal(err)
		}
		leased, err := s.GetOrLease(ctx, namespace, "lease", store.LeaseOptions{TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if outcome, _, err := s.Fill(ctx, namespace, "lease", leased.Token, w(long)); outcome != store.Filled || err != nil {
			t.Fatal(outcome, err)
		}
		for key, want := range values {
			for _, near := range []bool{true, false} {
				got, err := s.Get(ctx, namespace, key, near)
				if err != nil || got.Entry == nil || !bytes.Equal(got.Value, want) || got.ContentType != "text/plain" {
					t.Errorf("%s came back as %+v, %v", key, got.Entry, err)
				}
			}
			stored := s.Command(t, "GET", "ld:c:{"+namespace+":"+key+"}").(string)
			if strings.Contains(stored, "canary") || len(stored) > 300 {
				t.Errorf("%s is stored as %q", key, stored)
			}
			found, err := s.BatchGet(ctx, namespace, []string{key}, false)
			if err != nil || found[0].Entry == nil || !bytes.Equal(found[0].Value, want) {
				t.Errorf("%s came back in a batch as %+v, %v", key, found, err)
			}
		}
		// Another entry's value under this key is not this key's.
		other := s.Command(t, "GET", "ld:c:{"+namespace+":long}").(string)
		s.Command(t, "SET", "ld:c:{"+namespace+":set}", other)
		if got, err := s.Get(ctx, namespace, "set", false); !errors.Is(err, store.ErrCorrupt) || got.Entry != nil {
			t.Errorf("a moved value came back as %+v, %v", got.Entry, err)
		}
	})
}

// What is to be encrypted is not stored as it is.
func TestNothingIsStoredWithoutTheKeyringItNeeds(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		w := store.Write{Value: []byte("canary"), Fresh: time.Hour, Encrypt: true}
		_, _, err := s.Set(t.Context(), namespace, "k", w, store.Condition{})
		_, batchErr := s.BatchSet(t.Context(), namespace, []store.BatchWrite{{Key: "k2"}, {Key: "k", Write: w}})
		leased, leaseErr := s.GetOrLease(t.Context(), namespace, "k", store.LeaseOptions{TTL: time.Minute})
		if leaseErr != nil {
			t.Fatal(leaseErr)
		}
		_, _, fillErr := s.Fill(t.Context(), namespace, "k", leased.Token, w)
		for _, err := range []error{err, batchErr, fillErr} {
			if !errors.Is(err, keyring.ErrKeyUnknown) {
				t.Errorf("got %v", err)
			}
		}
		for _, key := range []string{"k", "k2"} {
			if s.Command(t, "EXISTS", "ld:c:{"+namespace+":"+key+"}") != int64(0) {
				t.Errorf("%s was written", key)
			}
		}
	})
}

// What Redis cannot read is added to all the same, and nothing is lost.
func TestParallelIncrementsOfEncryptedAttributesAddUp(t *testing.T) {
	everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		o := options(s.Mode())
		o.Keyring = newKeyring(t, "a", map[string][]byte{"a": newKey()})
		a := open(t, o)
		stores := []*store.Store{a, a}
		if s.Mode() != store.Embedded {
			stores[1] = open(t, o)
		}
		n := sessionOf("ann")
		n.Attributes = map[string]string{"text": "canary", "full": strings.Repeat("x", store.MaxAttributeBytes-100)}
		token, session := createSession(t, a, namespace, n)
		var adders []func()
		for _, s := range stores {
			adders = append(adders, func() {
				for range 10 {
					if _, err := s.UpdateSession(t.Context(), namespace, byToken(token), store.SessionUpdate{Increment: map[string]int64{"n": 2}}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		atOnce(adders...)
		got, err := a.UpdateSession(t.Context(), namespace, byID(session), store.SessionUpdate{
			Increment: map[string]int64{"n": -1, "new": 7}, SetIfAbsent: map[string]string{"text": "other", "absent": "1"}, ExpectedVersion: 21,
		})
		want := store.UpdatedSession{Version: 22, Incremented: map[string]int64{"n": 39, "new": 7}, SetIfAbsent: []string{"absent"}}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		stored := fmt.Sprint(a.Command(t, "HGETALL", sessionKeysOf(t, namespace, session).attributes))
		if strings.Contains(stored, "39") && strings.Contains(stored, "n:39") || strings.Contains(stored, "canary") {
			t.Errorf("stored as %q", stored)
		}
		for what, c := range map[string]struct {
			u   store.SessionUpdate
			err error
		}{
			"text":          {store.SessionUpdate{Increment: map[string]int64{"text": 1}}, store.ErrNotCounter},
			"overflow":      {store.SessionUpdate{Increment: map[string]int64{"n": math.MaxInt64}}, store.ErrOverflow},
			"other version": {store.SessionUpdate{Increment: map[string]int64{"n": 1}, ExpectedVersion: 21}, store.ErrVersionMismatch},
			"too long":      {store.SessionUpdate{Set: map[string]string{"long": strings.Repeat("x", 100)}}, store.ErrTooManyAttributes},
		} {
			if got, err := a.UpdateSession(t.Context(), namespace, byToken(token), c.u); !errors.Is(err, c.err) || got.Version != 0 {
				t.Errorf("%s: %+v, %v", what, got, err)
			}
		}
		other, _ := createSession(t, a, namespace, sessionOf("ann"))
		if got, err := a.UpdateSession(t.Context(), namespace, byToken(wrongSecret(t, token, other)), store.SessionUpdate{Increment: map[string]int64{"text": 1}}); got.Version != 0 || err != nil {
			t.Errorf("with a wrong secret: %+v, %v", got, err)
		}
		// The limit is one of what was given, not of what is stored.
		room := 100 - len("text"+"canary"+"full"+"n"+"39"+"new"+"7"+"absent"+"1"+"long")
		if got := updateSession(t, a, namespace, byToken(token), store.SessionUpdate{Set: map[string]string{"long": strings.Repeat("x", room)}}); got != 23 {
			t.Errorf("version %v with exactly as many bytes as there may be", got)
		}
	})
}

// Without the key of its attributes a session cannot be given a new token that nobody would be told.
func TestReauthenticationWithoutTheKeyChangesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, plain *store.Store, namespace string) {
		if plain.Mode() == store.Embedded {
			return // it does not outlive its store, and so not its keyring
		}
		k := newKey()
		s := withKeyring(t, plain, newKeyring(t, "a", map[string][]byte{"a": k, "ab": newKey()}))
		n := sessionOf("ann")
		n.Attributes = map[string]string{"a": "b"}
		token, session := createSession(t, s, namespace, n)
		for what, other := range map[string]*store.Store{
			"no keyring": plain, "other keys": withKeyring(t, plain, newKeyring(t, "ab", map[string][]byte{"ab": newKey(), "ba": newKey()})),
		} {
			next, got, err := other.ReauthenticateSession(t.Context(), namespace, token, store.Reauthentication{AAL: 2, AMR: []string{"otp"}})
			if next != "" || got != nil || !errors.Is(err, keyring.ErrKeyUnknown) {
				t.Errorf("%s: %v, %v", what, got, err)
			}
		}
		if got := validate(t, s, namespace, token, primary); got == nil || got.Assurance.AAL != 0 {
			t.Errorf("the session is %+v", got)
		}
		next, got := reauthenticate(t, s, namespace, token, store.Reauthentication{AAL: 2, AMR: []string{"otp"}})
		if next == "" || got == nil || got.ID != session.ID || got.Attributes["a"] != "b" {
			t.Errorf("with the key: %+v", got)
		}
	})
}
