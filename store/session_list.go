package store

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// SubjectList says which sessions of a subject to list.
type SubjectList struct {
	// Class is the device class of those to list; empty means all.
	Class string
	// Token asks for the page after the one that came with it; empty means the first.
	Token string
	// Count is at most how many to return.
	Count int
}

// ListSubjectSessions returns active sessions of a subject, those that end soonest first, and the token of the next page,
// empty after the last. A session that is touched during the walk moves ahead of it and is met again.
func (s *Store) ListSubjectSessions(ctx context.Context, namespace, subject string, l SubjectList) (sessions []*Session, next string, err error) {
	p, hash := subjectHash(namespace, subject)
	bound := hash
	if l.Class != "" {
		bound += "." + l.Class
	}
	at, ok := parseListed(l.Token, bound)
	if !ok {
		return nil, "", ErrPageToken
	}
	index := indexKey(p, namespace, hash)
	keys := []string{classesKey(p, namespace, hash)}
	args := []string{
		index, l.Class, strconv.FormatInt(at.score, 10), at.id, strconv.Itoa(l.Count), strconv.FormatInt(s.Now().UnixMilli(), 10),
		sessionKey(p, namespace, ""), attributesKey(p, namespace, ""), subjectKey(p, namespace, ""),
	}
	page, err := trip(ctx, s, sessionList.name, reads, func(ctx context.Context, c *clients) ([]rueidis.RedisMessage, error) {
		return sessionList.lua.Exec(ctx, c.primary, keys, args).ToArray()
	})
	if err != nil {
		return nil, "", err
	}
	if len(page) == 0 {
		return nil, "", errInternal
	}
	gone := map[string][]string{} // by index
	for _, m := range page[1:] {
		var class string
		if at, class, m, err = parsePlace(m); err != nil {
			return nil, "", err
		}
		r, err := s.parseSession(m, sessionKey(p, namespace, at.id), at.id)
		if err != nil {
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

// unlistLater takes ids whose records are gone out of their index, without anybody waiting for it. No id comes back.
func (s *Store) unlistLater(index string, ids []string) {
	done, ok := s.touches.start(index)
	if !ok {
		return
	}
	go func() {
		defer done()
		ctx, cancel := context.WithTimeout(s.lifetime, s.options.CommandTimeout)
		defer cancel()
		_, _ = trip(ctx, s, "zrem", writes, func(ctx context.Context, c *clients) (int64, error) {
			return c.primary.Do(ctx, c.primary.B().Zrem().Key(index).Member(ids...).Build()).AsInt64()
		})
	}()
}

// listed is one place among a subject's sessions, which are ordered by when they end, then by id.
type listed struct {
	score int64
	id    string
}

// parsePlace reads a session in the answer of session_list.lua: its place, its device class and what was read of it.
func parsePlace(m rueidis.RedisMessage) (at listed, class string, session rueidis.RedisMessage, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 4 {
		return at, "", m, errInternal
	}
	id, err1 := parts[0].ToString()
	score, err2 := parts[1].AsInt64()
	class, err3 := parts[2].ToString()
	if err1 != nil || err2 != nil || err3 != nil {
		return at, "", m, errInternal
	}
	return listed{score, id}, class, parts[3], nil
}

// token binds a place to its subject, which it names by hash alone.
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
