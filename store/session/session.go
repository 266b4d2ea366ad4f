// Package session keeps sessions in Redis: creation, validation, rotation, revocation, and the events of all that.
package session

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/berthcare/larder/store/keyring"
	"github.com/berthcare/larder/store/redis"
)

// Options configures [Sessions].
type Options struct {
	// SweepInterval is how often sessions whose time is over are swept: their end becomes an event and what they have left in
	// Redis is removed. One replica at a time sweeps. 0 means never.
	SweepInterval time.Duration
}

// Sessions keeps sessions in Redis. It is safe for concurrent use.
type Sessions struct {
	redis   *redis.Client
	keyring *keyring.Keyring // nil if attributes are not encrypted
	options Options
	touches toucher
	sweeper sweeper
}

// New returns sessions over a Redis client, and starts the sweeper. The keyring encrypts attributes; nil means that they are
// not encrypted. The caller must call Close after it has stopped the client.
func New(c *redis.Client, k *keyring.Keyring, o Options) *Sessions {
	s := &Sessions{redis: c, keyring: k, options: o}
	s.touches.busy = make(map[string]struct{})
	s.sweeper.maxEvents = maxPartitionEvents
	// Every change of a session may have added an event to its partition's stream.
	c.OnEmbeddedWrite(func(key string) {
		if p, ok := partitionOf(key); ok {
			c.Wake(eventsKey(p))
		}
	})
	if o.SweepInterval > 0 {
		s.sweeper.stopped = make(chan struct{})
		go s.sweep()
	}
	return s
}

// Close waits for the touches and the sweep under way; no other begins.
func (s *Sessions) Close() {
	s.touches.close()
	if s.sweeper.stopped != nil {
		<-s.sweeper.stopped
	}
}

// Stats are counters of [Sessions] in this process.
type Stats struct {
	// ExpiredIdle and ExpiredAbsolute count the sessions that this process has swept, by the timeout that was over.
	ExpiredIdle, ExpiredAbsolute int64
	// Removed counts the sessions of which it has removed what they had left after they were revoked together.
	Removed int64
	// SweepLate is how long the first session that its last sweep has ended had been over.
	SweepLate time.Duration
}

// Stats returns the counters.
func (s *Sessions) Stats() Stats {
	return Stats{
		ExpiredIdle: s.sweeper.idle.Load(), ExpiredAbsolute: s.sweeper.absolute.Load(), Removed: s.sweeper.removed.Load(),
		SweepLate: time.Duration(s.sweeper.late.Load()) * time.Millisecond,
	}
}

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

// Creation is what a session is created with.
type Creation struct {
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
	Limits Limits
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

// Create writes a session and returns its token, which is not stored anywhere. It fails with
// ErrSubjectEpochChanged.
func (s *Sessions) Create(ctx context.Context, namespace string, n Creation) (Created, error) {
	p := randomPartition()
	if n.Subject != "" {
		p, _ = subjectHash(namespace, n.Subject)
	}
	token, cred := newCredential(p)
	created, err := s.create(ctx, namespace, n, cred, "", redis.WritesOnce)
	if err == nil && created.existed { // 128 random bits do not meet twice
		err = redis.ErrInternal
	}
	if err != nil {
		return Created{}, err
	}
	if created.Session != nil {
		created.Token = token
	}
	return created, nil
}

// create writes a session with the id and the secret of a credential. From is the id of the anonymous session in
// whose place it comes, empty for none.
func (s *Sessions) create(ctx context.Context, namespace string, n Creation, cred credential, from string, eff redis.Effect) (Created, error) {
	p := cred.partition
	keys, args := changing(p, namespace, cred.id)
	hash, authenticated, ifEpoch := "", "", int64(-1)
	if n.Subject != "" {
		_, hash = subjectHash(namespace, n.Subject)
		keys = append(keys, subjectKey(p, namespace, hash), indexKey(p, namespace, hash), classesKey(p, namespace, hash), epochKey(p),
			promotionKey(p, namespace, cred.id))
		if at := n.Assurance.AuthenticatedAt; !at.IsZero() {
			authenticated = strconv.FormatInt(at.UnixMilli(), 10)
		}
	}
	if n.IfSubjectEpoch != nil {
		ifEpoch = *n.IfSubjectEpoch
	}
	args = append(args, n.Subject, hash, string(cred.hash[:]),
		redis.Millis(n.Idle), redis.Millis(n.Absolute), n.Device.IP, n.Device.UserAgent, n.Device.Label, n.Device.Class,
		strconv.FormatInt(ifEpoch, 10), strconv.Itoa(n.Limits.PerSubject), strconv.Itoa(n.Limits.PerClass), string(n.Limits.Policy),
		strconv.Itoa(n.Assurance.AAL), strings.Join(n.Assurance.AMR, " "), authenticated, from, redis.Millis(2*promotionWindow))
	for name, value := range s.sealAttributes(keys[0], n.Attributes) {
		args = append(args, name, value)
	}
	defer s.redis.Forget(keys[0])
	m, err := s.redis.Run(ctx, createScript, eff, keys, args...)
	if err != nil {
		return Created{}, err
	}
	created, err := parseCreated(m)
	if err != nil || created.at.IsZero() {
		return created, err
	}
	for _, o := range created.Evicted {
		s.redis.Forget(sessionKey(p, namespace, o.ID))
	}
	created.Session = &Session{
		ID: cred.id, Subject: n.Subject, Attributes: n.Attributes, Version: 1, Device: n.Device,
		CreatedAt: created.at, LastActiveAt: created.at, Idle: redis.RoundUp(n.Idle), AbsoluteExpiresAt: created.at.Add(redis.RoundUp(n.Absolute)),
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

// Get reads an active session by its id from the primary; nil means that there is none.
func (s *Sessions) Get(ctx context.Context, namespace, id string) (*Session, error) {
	p, ok := parseSessionID(id)
	if !ok {
		return nil, nil //nolint:nilnil // absence is not an error
	}
	r, err := s.read(ctx, p, namespace, id, false)
	if r == nil {
		return nil, err
	}
	return &r.session, nil
}

// Target names a session by its id or by its token, of which one is empty.
type Target struct{ ID, Token string }

// resolve returns where the session is and the hash that its secret must have, empty for an id.
func (t Target) resolve() (p partition, id, hash string, ok bool) {
	if t.Token != "" {
		c, ok := parseToken(t.Token)
		return c.partition, c.id, string(c.hash[:]), ok
	}
	p, ok = parseSessionID(t.ID)
	return p, t.ID, "", ok
}

// Revoke ends a session and returns whether it was active.
func (s *Sessions) Revoke(ctx context.Context, namespace string, t Target) (revoked bool, err error) {
	p, id, hash, ok := t.resolve()
	if !ok {
		return false, nil
	}
	keys, args := changing(p, namespace, id)
	defer s.redis.Forget(keys[0])
	m, err := s.redis.Run(ctx, revokeScript, redis.Writes, keys, append(args, hash)...)
	if err != nil {
		return false, err
	}
	n, err := m.AsInt64()
	return n == 1, err
}

// read reads a session at one moment; nil means that there is no active one.
func (s *Sessions) read(ctx context.Context, p partition, namespace, id string, tracked bool) (r *record, err error) {
	keys := []string{sessionKey(p, namespace, id), attributesKey(p, namespace, id)}
	m, err := s.redis.RunRead(ctx, readScript, tracked, keys, subjectKey(p, namespace, ""))
	if err != nil {
		return nil, err
	}
	r, err = s.parseRecord(m, keys[0], id)
	if err != nil || r == nil || !r.active(r.readEpoch, r.readAt) {
		return nil, err
	}
	return r, nil
}
