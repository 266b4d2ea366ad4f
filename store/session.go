package store

import (
	"context"
	"crypto/subtle"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// The limits of a session's attributes.
const (
	// MaxAttributes is how many attributes a session may have.
	MaxAttributes = 64
	// MaxAttributeBytes is how long their names and values may be together.
	MaxAttributeBytes = 64 << 10
)

// epochMemory is how much longer a subject's epoch is kept than any session can live.
const epochMemory = time.Hour

// Device is what a client said of itself.
type Device struct{ IP, UserAgent, Label string }

// NewSession is what a session is created with.
type NewSession struct {
	// Subject is whose session it is; empty means an anonymous one.
	Subject string
	// Attributes are its data, within the limits.
	Attributes map[string]string
	// Idle and Absolute are its timeouts.
	Idle, Absolute time.Duration
	// Device is what the client said of itself.
	Device Device
}

// CreateSession writes a session and returns its token, which is not stored anywhere.
func (s *Store) CreateSession(ctx context.Context, namespace string, n NewSession) (token string, session *Session, err error) {
	p, hash := randomPartition(), ""
	if n.Subject != "" {
		p, hash = subjectHash(namespace, n.Subject)
	}
	token, cred := newCredential(p)
	keys, args := changing(p, namespace, cred.id)
	if hash != "" {
		keys = append(keys, subjectKey(p, namespace, hash), indexKey(p, namespace, hash))
	}
	args = append(args, n.Subject, hash, string(cred.hash[:]),
		millis(n.Idle), millis(n.Absolute), n.Device.IP, n.Device.UserAgent, n.Device.Label)
	for name, value := range s.sealAttributes(keys[0], n.Attributes) {
		args = append(args, name, value)
	}
	defer s.forget(keys[0])
	m, err := s.script(ctx, sessionCreate, once, keys, args...)
	if err != nil {
		return "", nil, err
	}
	created, err := m.AsInt64()
	if err != nil || created == 0 { // 128 random bits do not meet twice
		return "", nil, errInternal
	}
	at := time.UnixMilli(created)
	return token, &Session{
		ID: cred.id, Subject: n.Subject, Attributes: n.Attributes, Version: 1, Device: n.Device,
		CreatedAt: at, LastActiveAt: at, Idle: ceil(n.Idle), AbsoluteExpiresAt: at.Add(ceil(n.Absolute)),
	}, nil
}

// changing returns the keys and arguments with which every script that changes one session begins.
func changing(p partition, namespace, id string) (keys, args []string) {
	return []string{sessionKey(p, namespace, id), attributesKey(p, namespace, id), eventsKey(p), endsKey(p)},
		[]string{namespace, id, subjectKey(p, namespace, ""), indexKey(p, namespace, "")}
}

func ceil(d time.Duration) time.Duration { return time.Duration(ceilMillis(d)) * time.Millisecond }

// TouchSession says whether a validation counts as activity.
type TouchSession int

// The ways to touch a session.
const (
	// TouchAuto records activity after the answer, at most once per interval.
	TouchAuto TouchSession = iota
	// TouchNever leaves the idle timeout alone.
	TouchNever
	// TouchForce records activity before the answer.
	TouchForce
)

// ValidateSession returns the session of a token; nil means that the token is not that of an active one. If near is set
// an active session may come from the near cache; that there is none is always the primary's word.
func (s *Store) ValidateSession(ctx context.Context, namespace, token string, near bool, touch TouchSession) (*Session, error) {
	cred, ok := parseToken(token)
	if !ok {
		return nil, nil //nolint:nilnil // absence is not an error
	}
	valid := func(r *sessionRecord) bool {
		return r != nil && subtle.ConstantTimeCompare(r.secretHash, cred.hash[:]) == 1
	}
	var r *sessionRecord
	var err error
	if near {
		r, err = s.nearSession(ctx, cred.partition, namespace, cred.id)
	}
	if !near || err == nil && !valid(r) {
		r, err = s.readSession(ctx, cred.partition, namespace, cred.id, false)
	}
	if err != nil || !valid(r) {
		return nil, err
	}
	switch touch {
	case TouchForce:
		last, err := s.touchSession(ctx, cred.partition, namespace, cred.id, 0)
		if err != nil || last == 0 {
			return nil, err
		}
		session := r.session
		session.LastActiveAt = time.UnixMilli(last)
		return &session, nil
	case TouchAuto:
		s.touchLater(cred.partition, namespace, &r.session)
	case TouchNever:
	}
	return &r.session, nil
}

// GetSession reads an active session by its id from the primary; nil means that there is none.
func (s *Store) GetSession(ctx context.Context, namespace, id string) (*Session, error) {
	p, ok := parseSessionID(id)
	if !ok {
		return nil, nil //nolint:nilnil // absence is not an error
	}
	r, err := s.readSession(ctx, p, namespace, id, false)
	if r == nil {
		return nil, err
	}
	return &r.session, nil
}

// SessionTarget names a session by its id or by its token, of which one is empty.
type SessionTarget struct{ ID, Token string }

// resolve returns where the session is and the hash that its secret must have, empty for an id.
func (t SessionTarget) resolve() (p partition, id, hash string, ok bool) {
	if t.Token != "" {
		c, ok := parseToken(t.Token)
		return c.partition, c.id, string(c.hash[:]), ok
	}
	p, ok = parseSessionID(t.ID)
	return p, t.ID, "", ok
}

// SessionUpdate is a change of attributes.
type SessionUpdate struct {
	// Set are attributes to write, Delete names of attributes to remove; the others stay.
	Set    map[string]string
	Delete []string
	// ExpectedVersion is what the version must be; zero means any.
	ExpectedVersion int64
}

// UpdateSession changes attributes of an active session and returns its new version; zero means that there is none. It
// fails with ErrVersionMismatch and ErrTooManyAttributes.
func (s *Store) UpdateSession(ctx context.Context, namespace string, t SessionTarget, u SessionUpdate) (version int64, err error) {
	p, id, hash, ok := t.resolve()
	if !ok {
		return 0, nil
	}
	keys, args := changing(p, namespace, id)
	args = append(args, hash, strconv.FormatInt(u.ExpectedVersion, 10),
		strconv.Itoa(MaxAttributes), strconv.Itoa(MaxAttributeBytes), strconv.Itoa(len(u.Set)))
	for name, value := range s.sealAttributes(keys[0], u.Set) {
		args = append(args, name, value)
	}
	args = append(args, u.Delete...)
	defer s.forget(keys[0])
	m, err := s.script(ctx, sessionUpdate, once, keys, args...)
	if err != nil {
		return 0, err
	}
	return m.AsInt64()
}

// RevokeSession ends a session and returns whether it was active.
func (s *Store) RevokeSession(ctx context.Context, namespace string, t SessionTarget) (revoked bool, err error) {
	p, id, hash, ok := t.resolve()
	if !ok {
		return false, nil
	}
	keys, args := changing(p, namespace, id)
	defer s.forget(keys[0])
	m, err := s.script(ctx, sessionRevoke, writes, keys, append(args, hash)...)
	if err != nil {
		return false, err
	}
	n, err := m.AsInt64()
	return n == 1, err
}

// RevokeSubjectSessions ends every session of a subject but the one with the id except, empty for none, and returns how
// many it ended. Longest is the longest that any session can live.
func (s *Store) RevokeSubjectSessions(ctx context.Context, namespace, subject, except string, longest time.Duration) (int64, error) {
	p, hash := subjectHash(namespace, subject)
	subjectAt := subjectKey(p, namespace, hash)
	keys := []string{subjectAt, indexKey(p, namespace, hash), eventsKey(p)}
	forget := []string{subjectAt}
	// A session of another partition is not this subject's.
	if q, ok := parseSessionID(except); ok && q == p {
		keys = append(keys, sessionKey(p, namespace, except))
		forget = append(forget, keys[3])
	} else {
		except = ""
	}
	defer s.forget(forget...)
	m, err := s.script(ctx, sessionRevokeSubject, writes, keys,
		namespace, except, subjectKey(p, namespace, ""), subject, millis(longest+epochMemory))
	if err != nil {
		return 0, err
	}
	return m.AsInt64()
}

// readSession reads a session at one moment; nil means that there is no active one.
func (s *Store) readSession(ctx context.Context, p partition, namespace, id string, tracked bool) (r *sessionRecord, err error) {
	keys := []string{sessionKey(p, namespace, id), attributesKey(p, namespace, id)}
	m, err := trip(ctx, s, sessionRead.name, reads, func(ctx context.Context, c *clients) (rueidis.RedisMessage, error) {
		client := c.primary
		if tracked {
			client = c.tracked
		}
		return sessionRead.lua.Exec(ctx, client, keys, []string{subjectKey(p, namespace, "")}).ToMessage()
	})
	if err != nil {
		return nil, err
	}
	r, err = s.parseSession(m, keys[0], id)
	if err != nil || r == nil || !r.active(r.readEpoch, r.readAt) {
		return nil, err
	}
	return r, nil
}
