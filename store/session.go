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

// Device is what a client said of itself. Class is the kind of device, such as "mobile", by which sessions can be limited
// and revoked.
type Device struct{ IP, UserAgent, Label, Class string }

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
	// Limits are those of the subject.
	Limits SessionLimits
	// IfSubjectEpoch, unless nil, is the subject's epoch as it was known before: if the subject's sessions or those of the
	// device class have been revoked since, there will be no session.
	IfSubjectEpoch *int64
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

// CreateSession writes a session and returns its token, which is not stored anywhere. It fails with
// ErrSubjectEpochChanged.
func (s *Store) CreateSession(ctx context.Context, namespace string, n NewSession) (CreatedSession, error) {
	p := randomPartition()
	if n.Subject != "" {
		p, _ = subjectHash(namespace, n.Subject)
	}
	token, cred := newCredential(p)
	created, err := s.createSession(ctx, namespace, n, cred, "", once)
	if err == nil && created.existed { // 128 random bits do not meet twice
		err = errInternal
	}
	if err != nil {
		return CreatedSession{}, err
	}
	if created.Session != nil {
		created.Token = token
	}
	return created, nil
}

// createSession writes a session with the id and the secret of a credential. From is the id of the anonymous session in
// whose place it comes, empty for none.
func (s *Store) createSession(ctx context.Context, namespace string, n NewSession, cred credential, from string, eff effect) (CreatedSession, error) {
	p := cred.partition
	keys, args := changing(p, namespace, cred.id)
	hash, authenticated, ifEpoch := "", "", int64(-1)
	if n.Subject != "" {
		_, hash = subjectHash(namespace, n.Subject)
		keys = append(keys, subjectKey(p, namespace, hash), indexKey(p, namespace, hash), classesKey(p, namespace, hash), markKey(p),
			promotionKey(p, namespace, cred.id))
		if at := n.Assurance.AuthenticatedAt; !at.IsZero() {
			authenticated = strconv.FormatInt(at.UnixMilli(), 10)
		}
	}
	if n.IfSubjectEpoch != nil {
		ifEpoch = *n.IfSubjectEpoch
	}
	args = append(args, n.Subject, hash, string(cred.hash[:]),
		millis(n.Idle), millis(n.Absolute), n.Device.IP, n.Device.UserAgent, n.Device.Label, n.Device.Class,
		strconv.FormatInt(ifEpoch, 10), strconv.Itoa(n.Limits.PerSubject), strconv.Itoa(n.Limits.PerClass), string(n.Limits.Policy),
		strconv.Itoa(n.Assurance.AAL), strings.Join(n.Assurance.AMR, " "), authenticated, from, millis(2*promotionWindow))
	for name, value := range s.sealAttributes(keys[0], n.Attributes) {
		args = append(args, name, value)
	}
	defer s.forget(keys[0])
	m, err := s.script(ctx, sessionCreate, eff, keys, args...)
	if err != nil {
		return CreatedSession{}, err
	}
	created, err := parseCreated(m)
	if err != nil || created.at.IsZero() {
		return created, err
	}
	for _, o := range created.Evicted {
		s.forget(sessionKey(p, namespace, o.ID))
	}
	created.Session = &Session{
		ID: cred.id, Subject: n.Subject, Attributes: n.Attributes, Version: 1, Device: n.Device,
		CreatedAt: created.at, LastActiveAt: created.at, Idle: ceil(n.Idle), AbsoluteExpiresAt: created.at.Add(ceil(n.Absolute)),
	}
	if n.Subject != "" {
		created.Session.Assurance = n.Assurance
		created.Session.Assurance.AuthenticatedAt = created.at
		if authenticated != "" {
			created.Session.Assurance.AuthenticatedAt = n.Assurance.AuthenticatedAt.Truncate(time.Millisecond)
		}
	}
	return created, nil
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
