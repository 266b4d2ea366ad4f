package session

import (
	"crypto/sha256"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// record is a session together with what a validation needs.
type record struct {
	session Session
	secrets secrets
	// reached holds when the subject last authenticated at each authentication assurance level.
	reached [maxAAL + 1]time.Time
	// absolute is the length of the absolute timeout.
	absolute time.Duration
	// promotion is set if the session was promoted or a promotion has begun.
	promotion promotion
	// subjectHash stands for the subject in keys; empty for an anonymous session. since names the key of the subject under which
	// the session was created, zero if it needs none: if Redis has evicted that key, nobody knows whether the session was revoked.
	subjectHash string
	since       int64
	// lost means that Redis has evicted the attributes.
	lost bool
	// epoch is the session's epoch: the session is revoked if it is below the subject's. readEpoch is the subject's epoch
	// when the record was read.
	epoch, readEpoch int64
	// readAt is when the record was read, by the clock of Redis.
	readAt time.Time
	size   int
}

// numbers parses numbers of a record. ok is false once one of them was not a number.
type numbers struct{ ok bool }

func (n *numbers) int64(text string) int64 {
	v, err := strconv.ParseInt(text, 10, 64)
	n.ok = n.ok && err == nil
	return v
}

func (n *numbers) time(text string) time.Time { return time.UnixMilli(n.int64(text)) }

// active reports whether the session is active, by its times, its epoch and its promotion. That its key exists says nothing.
func (r *record) active(subjectEpoch int64, now time.Time) bool {
	return now.Before(r.session.ExpiresAt()) && r.epoch >= subjectEpoch && !r.promotion.ends(now) && !r.lost
}

// parseRecord reads a snapshot, the answer of read.lua and other scripts. It returns nil if there is no record.
func (s *Sessions) parseRecord(m rueidis.RedisMessage, key, id string) (*record, error) {
	r, err := s.parseRecordOnly(m, key, id)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// parseRecordOnly is parseRecord that also returns the record, with an error, if only its attributes cannot be decrypted.
func (s *Sessions) parseRecordOnly(m rueidis.RedisMessage, key, id string) (_ *record, sealed error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 4 {
		return nil, redis.ErrInternal
	}
	fields, err := parts[0].AsStrMap()
	if err != nil {
		return nil, redis.ErrInternal
	}
	if len(fields) == 0 {
		return nil, nil //nolint:nilnil // absence is not an error
	}
	attributes, err := parts[1].AsStrMap()
	if err != nil {
		return nil, redis.ErrInternal
	}
	if err := s.openAttributes(key, attributes); err != nil {
		sealed = err
	}
	epoch, err := parts[2].ToString()
	if err != nil {
		return nil, redis.ErrInternal
	}
	now, err := parts[3].ToString()
	if err != nil {
		return nil, redis.ErrInternal
	}
	n := numbers{ok: true}
	optional := func(name string) int64 {
		if fields[name] == "" {
			return 0
		}
		return n.int64(fields[name])
	}
	r := &record{
		session: Session{
			ID: id, Subject: fields["sub"], Attributes: attributes, Version: n.int64(fields["v"]),
			Device:            Device{fields["ip"], userAgent(fields), fields["label"], fields["cl"]},
			CreatedAt:         n.time(fields["ct"]),
			LastActiveAt:      n.time(fields["la"]),
			Idle:              time.Duration(n.int64(fields["idle"])) * time.Millisecond,
			AbsoluteExpiresAt: n.time(fields["abs"]),
		},
		secrets: secrets{
			hash: []byte(fields["h"]), salt: []byte(fields["salt"]), unseen: fields["seen"] == "0",
			previous: []byte(fields["hp"]), older: []byte(fields["old"]),
			lineage: []byte(fields["ln"]), generation: uint32(optional("gn")), //nolint:gosec // 32 bits by the script
			usableUntil: optional("pu"), reuseFrom: optional("pr"), olderReuseFrom: optional("oldr"),
		},
		promotion: promotion{
			to: fields["to"], salt: []byte(fields["to_salt"]), done: fields["to_done"] != "", until: optional("to_until"),
		},
		subjectHash: fields["sh"], since: optional("su"), lost: fields["da"] == "1" && len(attributes) == 0,
		epoch:     n.int64(fields["ep"]),
		readEpoch: n.int64(epoch),
		readAt:    n.time(now),
	}
	began := r.session.CreatedAt
	if fields["ab"] != "" {
		began = n.time(fields["ab"])
	}
	r.absolute = r.session.AbsoluteExpiresAt.Sub(began)
	if r.subjectHash != "" {
		r.session.Assurance = Assurance{AAL: int(optional("aal")), AuthenticatedAt: r.session.CreatedAt}
		if fields["amr"] != "" {
			r.session.Assurance.AMR = strings.Fields(fields["amr"])
		}
		if fields["at"] != "" {
			r.session.Assurance.AuthenticatedAt = n.time(fields["at"])
		}
		r.parseReached(fields, &n)
	}
	if now == "0" {
		r.readAt = s.redis.Now()
	}
	for name, value := range fields {
		if strings.HasPrefix(name, supersededField) {
			secret, ok := parseSuperseded(name, value)
			n.ok = n.ok && ok
			r.secrets.superseded = append(r.secrets.superseded, secret)
		}
		r.size += len(name) + len(value) + 32
	}
	for name, value := range attributes {
		r.size += len(name) + len(value) + 32
	}
	if !n.ok || len(r.secrets.hash) != sha256.Size {
		return nil, redis.Fail(redis.ErrCorrupt, nil)
	}
	return r, sealed
}

// maxAAL is the highest authentication assurance level.
const maxAAL = 3

// parseReached reads when the subject last authenticated at each level. The levels are kept from the second authentication on.
func (r *record) parseReached(fields map[string]string, n *numbers) {
	for aal := 1; aal <= maxAAL; aal++ {
		if at := fields["at"+strconv.Itoa(aal)]; at != "" {
			r.reached[aal] = n.time(at)
		}
	}
	a := r.session.Assurance
	if r.reached != [maxAAL + 1]time.Time{} || a.AAL < 1 || a.AAL > maxAAL {
		return
	}
	// A later authentication, by a version of Larder that did not keep the levels, may have been of a lower one.
	r.reached[a.AAL] = a.AuthenticatedAt
	if r.session.CreatedAt.Before(a.AuthenticatedAt) {
		r.reached[a.AAL] = r.session.CreatedAt
	}
}

// authenticated returns when the subject last authenticated at a level or above; zero means never.
func (r *record) authenticated(aal int) (last time.Time) {
	if aal <= 0 {
		return r.session.Assurance.AuthenticatedAt
	}
	for _, at := range r.reached[min(aal, len(r.reached)):] {
		if at.After(last) {
			last = at
		}
	}
	return last
}

// userAgent joins the parts of a user agent: Redis keeps a hash compact only if each of its values has at most 64 bytes.
func userAgent(fields map[string]string) string {
	whole := fields["ua"]
	for i := 1; ; i++ {
		part, ok := fields["ua"+strconv.Itoa(i)]
		if !ok {
			return whole
		}
		whole += part
	}
}
