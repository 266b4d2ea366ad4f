package session

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// SubjectList selects sessions of a subject.
type SubjectList struct {
	// Class is the device class to list; empty means all.
	Class string
	// Token is the token of the page before; empty means the first page.
	Token string
	// Count is the maximum number of sessions to return.
	Count int
}

// ListSubject returns active sessions of a subject in the order of their expiry, and the token of the next page, which is
// empty after the last page. A session that is touched while the caller pages through the list moves towards its end and may
// be returned twice.
func (s *Sessions) ListSubject(ctx context.Context, namespace, subject string, l SubjectList) (sessions []*Session, next string, err error) {
	p, hash := subjectHash(namespace, subject)
	bound := hash
	if l.Class != "" {
		bound += "." + l.Class
	}
	at, ok := parseListed(l.Token, bound)
	if !ok {
		return nil, "", redis.ErrPageToken
	}
	index := indexKey(p, namespace, hash)
	keys := []string{classesKey(p, namespace, hash), index, subjectKey(p, namespace, hash), classIndex(index, l.Class)}
	args := []string{
		l.Class, strconv.FormatInt(at.score, 10), at.id, strconv.Itoa(l.Count), strconv.FormatInt(s.redis.Now().UnixMilli(), 10),
		sessionKey(p, namespace, ""), attributesKey(p, namespace, ""), subjectKey(p, namespace, ""),
	}
	answer, err := s.runBulk(ctx, listScript, keys, args...)
	if err != nil {
		return nil, "", err
	}
	page, err := answer.ToArray()
	if err != nil || len(page) == 0 {
		return nil, "", redis.ErrInternal
	}
	gone := map[string][]string{} // ids without a record, by index
	for _, m := range page[1:] {
		var class string
		if at, class, m, err = parsePlace(m); err != nil {
			return nil, "", err
		}
		r, err := s.parseRecordOnly(m, sessionKey(p, namespace, at.id), at.id)
		switch {
		case r != nil && err != nil: // it can be shown and revoked without its attributes
			r.session.Attributes, r.session.Unreadable = nil, true
		case errors.Is(err, redis.ErrCorrupt): // nobody can use it
			continue
		case err != nil:
			return nil, "", err
		}
		if r == nil {
			gone[classIndex(index, class)] = append(gone[classIndex(index, class)], at.id)
		} else if r.active(r.readEpoch, r.readAt) {
			sessions = append(sessions, &r.session)
		}
	}
	for key, ids := range gone {
		s.unlistLater(key, ids)
	}
	if more, err := page[0].AsInt64(); err != nil || more == 1 {
		next = at.token(bound)
	}
	return sessions, next, nil
}

// unlistLater removes ids whose records are gone from their index, in the background. Ids are never used again, so this
// cannot race with a creation.
func (s *Sessions) unlistLater(index string, ids []string) {
	done, ok := s.touches.start(index)
	if !ok {
		return
	}
	go func() {
		defer done()
		ctx, cancel := context.WithTimeout(s.redis.Lifetime(), s.redis.CommandTimeout())
		defer cancel()
		_, _ = redis.RoundTripTo(ctx, s.redis, index, "zrem", redis.Writes, func(ctx context.Context, conns *redis.Conns) (int64, error) {
			return conns.Primary.Do(ctx, conns.Primary.B().Zrem().Key(index).Member(ids...).Build()).AsInt64()
		})
	}()
}

// listed is a position in the list of a subject's sessions, which is ordered by expiry and then by id.
type listed struct {
	score int64
	id    string
}

// parsePlace reads one session of the answer of list.lua: its position, its device class and its snapshot.
func parsePlace(m rueidis.RedisMessage) (at listed, class string, session rueidis.RedisMessage, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 4 {
		return at, "", m, redis.ErrInternal
	}
	id, err1 := parts[0].ToString()
	score, err2 := parts[1].AsInt64()
	class, err3 := parts[2].ToString()
	if err1 != nil || err2 != nil || err3 != nil {
		return at, "", m, redis.ErrInternal
	}
	return listed{score, id}, class, parts[3], nil
}

// token returns a page token. It is bound to the subject by the subject's hash.
func (l listed) token(subjectHash string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(subjectHash + ":" + strconv.FormatInt(l.score, 10) + ":" + l.id))
}

func parseListed(token, subjectHash string) (l listed, ok bool) {
	if token == "" {
		return l, true
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return l, false
	}
	parts := strings.Split(string(b), ":")
	if len(parts) != 3 || parts[0] != subjectHash {
		return l, false
	}
	_, ok = parseSessionID(parts[2])
	l.id = parts[2]
	l.score, err = strconv.ParseInt(parts[1], 10, 64)
	return l, ok && err == nil
}
