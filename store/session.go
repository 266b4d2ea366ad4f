package store

import (
	"context"
	"strconv"
	"strings"
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
	// Assurance says how the subject was authenticated; a zero AuthenticatedAt means now. An anonymous session has none.
	Assurance Assurance
}

// Assurance says how well it is known that a session's subject is who it says.
type Assurance struct {
	// AAL is the authentication assurance level of NIST SP 800-63B-4, 1 to 3; 0 means unknown.
	AAL int
	// AMR are methods of authentication by the names of RFC 8176, each once.
	AMR []string
	// AuthenticatedAt is when the subject last proved who it is; zero for an anonymous session.
	AuthenticatedAt time.Time
}

// MaxMethods is how many methods of authentication a session keeps: those that came last.
const MaxMethods = 16

// CreateSession writes a session and returns its token, which is not stored anywhere.
func (s *Store) CreateSession(ctx context.Context, namespace string, n NewSession) (token string, session *Session, err error) {
	p := randomPartition()
	if n.Subject != "" {
		p, _ = subjectHash(namespace, n.Subject)
	}
	token, cred := newCredential(p)
	session, err = s.createSession(ctx, namespace, n, cred, "", once)
	if err == nil && session == nil { // 128 random bits do not meet twice
		err = errInternal
	}
	if err != nil {
		return "", nil, err
	}
	return token, session, nil
}

// createSession writes a session with the id and the secret of a credential; nil means that it was written before. From is
// the id of the anonymous session in whose place it comes, empty for none.
func (s *Store) createSession(ctx context.Context, namespace string, n NewSession, cred credential, from string, eff effect) (*Session, error) {
	p := cred.partition
	keys, args := changing(p, namespace, cred.id)
	hash, authenticated := "", ""
	if n.Subject != "" {
		_, hash = subjectHash(namespace, n.Subject)
		keys = append(keys, subjectKey(p, namespace, hash), indexKey(p, namespace, hash), promotionKey(p, namespace, cred.id))
		if at := n.Assurance.AuthenticatedAt; !at.IsZero() {
			authenticated = strconv.FormatInt(at.UnixMilli(), 10)
		}
	}
	args = append(args, n.Subject, hash, string(cred.hash[:]),
		millis(n.Idle), millis(n.Absolute), n.Device.IP, n.Device.UserAgent, n.Device.Label,
		strconv.Itoa(n.Assurance.AAL), strings.Join(n.Assurance.AMR, " "), authenticated, from, millis(2*promotionWindow))
	for name, value := range s.sealAttributes(keys[0], n.Attributes) {
		args = append(args, name, value)
	}
	defer s.forget(keys[0])
	m, err := s.script(ctx, sessionCreate, eff, keys, args...)
	if err != nil {
		return nil, err
	}
	created, err := m.AsInt64()
	if err != nil {
		return nil, errInternal
	}
	if created == 0 {
		return nil, nil //nolint:nilnil // not written is no error
	}
	at := time.UnixMilli(created)
	session := &Session{
		ID: cred.id, Subject: n.Subject, Attributes: n.Attributes, Version: 1, Device: n.Device,
		CreatedAt: at, LastActiveAt: at, Idle: ceil(n.Idle), AbsoluteExpiresAt: at.Add(ceil(n.Absolute)),
	}
	if n.Subject != "" {
		session.Assurance = n.Assurance
		session.Assurance.AuthenticatedAt = at
		if authenticated != "" {
			session.Assurance.AuthenticatedAt = n.Assurance.AuthenticatedAt.Truncate(time.Millisecond)
		}
	}
	return session, nil
}

// changing returns the keys and arguments with which every script that changes one session begins.
func changing(p partition, namespace, id string) (keys, args []string) {
	return []string{sessionKey(p, namespace, id), attributesKey(p, namespace, id), eventsKey(p), endsKey(p)},
		[]string{namespace, id, subjectKey(p, namespace, ""), indexKey(p, namespace, "")}
}

func ceil(d time.Duration) time.Duration { return time.Duration(ceilMillis(d)) * time.Millisecond }

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
