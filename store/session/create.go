package session

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// Creation is the input of [Sessions.Create].
type Creation struct {
	// Subject is the user whose session it is; empty means an anonymous session.
	Subject string
	// Attributes are the data of the session, at most [MaxAttributes] and [MaxAttributeBytes].
	Attributes map[string]string
	// Idle and Absolute are the timeouts of the session, rounded up to whole milliseconds.
	Idle, Absolute time.Duration
	// Device describes the client.
	Device Device
	// Assurance says how the subject was authenticated; a zero AuthenticatedAt means now. It is ignored for an anonymous
	// session.
	Assurance Assurance
	// Limits bound the sessions of the subject. They do not apply to an anonymous session.
	Limits Limits
	// IfSubjectEpoch is the result of an earlier [Sessions.SubjectEpoch]; nil means no condition. If the sessions of the
	// subject or of the device class were revoked since, Create fails with [ErrSubjectEpochChanged].
	IfSubjectEpoch *int64
}

// Created is the result of [Sessions.Create].
type Created struct {
	// Token is the session token and Session the new session. Both are empty if the limit was reached and the policy is
	// [Reject].
	Token   string
	Session *Session
	// Evicted are the sessions that were revoked to make room.
	Evicted []Summary
	// Existing are up to 200 of the sessions that count towards the limit, if the limit was reached and the policy is
	// [Reject].
	Existing []Summary

	at      time.Time // zero if there is no new session
	existed bool      // the session, or its promotion, exists already
	again   bool      // the script has only tidied an index, and must be run again
}

// Create writes a session and returns its token, of which Redis keeps the hash alone. It fails with
// [ErrSubjectEpochChanged].
func (s *Sessions) Create(ctx context.Context, namespace string, n Creation) (Created, error) {
	p := randomPartition()
	if n.Subject != "" {
		p, _ = subjectHash(namespace, n.Subject)
	}
	token, cred := newCredential(p)
	created, err := s.create(ctx, namespace, n, cred, "", redis.WritesOnce)
	if err == nil && created.existed { // a collision of 128 random bits: it does not happen
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

// create writes a session with the id and the secret of a credential. From is the id of the anonymous session that is
// promoted; empty means none.
func (s *Sessions) create(ctx context.Context, namespace string, n Creation, cred credential, from string, eff redis.Effect) (Created, error) {
	p := cred.partition
	keys, args := changing(p, namespace, cred.id)
	keys = append(keys, epochKey(p))
	hash, authenticated, ifEpoch := "", "", int64(-1)
	if n.Subject != "" {
		_, hash = subjectHash(namespace, n.Subject)
		keys = append(keys, subjectKey(p, namespace, hash), indexKey(p, namespace, hash), classesKey(p, namespace, hash),
			promotionKey(p, namespace, cred.id), classIndex(indexKey(p, namespace, hash), n.Device.Class))
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
	var created Created
	for again := true; again; again = created.again {
		m, err := s.run(ctx, createScript, eff, keys, args...)
		if err != nil {
			return Created{}, err
		}
		if created, err = parseCreated(m); err != nil {
			return created, err
		}
	}
	if created.at.IsZero() {
		return created, nil
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

// parseCreated reads the answer of create.lua.
func parseCreated(m rueidis.RedisMessage) (created Created, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) == 0 {
		return created, redis.ErrInternal
	}
	if len(parts) < 3 {
		n, err := parts[0].AsInt64()
		if err != nil {
			return created, redis.ErrInternal
		}
		return Created{existed: n == 0, again: n == 3}, nil
	}
	at, err1 := parts[1].AsInt64()
	list, err2 := parts[2].ToArray()
	if err1 != nil || err2 != nil {
		return created, redis.ErrInternal
	}
	others := make([]Summary, 0, len(list))
	for _, o := range list {
		f, err := o.AsStrSlice()
		if err != nil || len(f) != 8 {
			return created, redis.ErrInternal
		}
		n := numbers{ok: true}
		others = append(others, Summary{
			ID: f[0], Device: Device{IP: f[1], UserAgent: f[2], Label: f[3], Class: f[4]},
			CreatedAt: n.time(f[5]), LastActiveAt: n.time(f[6]), ExpiresAt: n.time(f[7]),
		})
		if !n.ok {
			return created, redis.Fail(redis.ErrCorrupt, nil)
		}
	}
	if at == 0 {
		return Created{Existing: others}, nil
	}
	return Created{at: time.UnixMilli(at), Evicted: others}, nil
}
