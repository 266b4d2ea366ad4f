package store

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// ListSubjectSessions returns up to count active sessions of a subject, those that end soonest first, and the token of
// the next page, empty after the last. A session that is touched during the walk moves ahead of it and is met again.
func (s *Store) ListSubjectSessions(ctx context.Context, namespace, subject, token string, count int) (sessions []*Session, next string, err error) {
	p, hash := subjectHash(namespace, subject)
	at, ok := parseListed(token, hash)
	if !ok {
		return nil, "", ErrPageToken
	}
	listed, more, err := s.index(ctx, indexKey(p, namespace, hash), at, count)
	if err != nil || len(listed) == 0 {
		return nil, "", err
	}
	results := make([]rueidis.RedisMessage, len(listed))
	var failed error
	err = s.batch(ctx, sessionRead.name, reads, false, all(len(listed)), func(b rueidis.Builder, i int) rueidis.Completed {
		id := listed[i].id
		return b.EvalRo().Script(sessionRead.text).Numkeys(2).
			Key(sessionKey(p, namespace, id), attributesKey(p, namespace, id)).Arg(subjectKey(p, namespace, "")).Build()
	}, func(i int, r rueidis.RedisResult) (err error) {
		results[i], err = r.ToMessage()
		return err
	}, func(_ int, err error) { failed = err })
	if err = errors.Join(err, failed); err != nil {
		return nil, "", err
	}
	for i, m := range results {
		r, err := s.parseSession(m, sessionKey(p, namespace, listed[i].id), listed[i].id)
		if err != nil {
			return nil, "", err
		}
		if r != nil && r.active(r.readEpoch, r.readAt) {
			sessions = append(sessions, &r.session)
		}
	}
	if more {
		next = listed[len(listed)-1].token(hash)
	}
	return sessions, next, nil
}

// listed is one place in a subject's index: sessions are ordered by when they end, then by id.
type listed struct {
	score int64
	id    string
}

// index returns up to count places after at that have not ended, and whether there are more.
func (s *Store) index(ctx context.Context, key string, at listed, count int) (places []listed, more bool, err error) {
	// First the rest of those that end when the last one of the page before does, which ids alone tell apart, then those
	// that end later. A session moves to a later end only, so one that moves in between is met twice and none is left
	// out, as neighbours would be if places were counted.
	const ties, later = 0, 1
	score := strconv.FormatInt(at.score, 10)
	commands, after := []int{ties, later}, "("+score
	if now := s.Now().UnixMilli(); at.score <= now {
		commands, after = []int{later}, "("+strconv.FormatInt(now, 10)
	}
	var answers [2][]rueidis.ZScore
	var failed error
	err = s.batch(ctx, "zrangebyscore", reads, false, commands, func(b rueidis.Builder, i int) rueidis.Completed {
		if i == ties {
			return b.Zrangebyscore().Key(key).Min(score).Max(score).Withscores().Build()
		}
		return b.Zrangebyscore().Key(key).Min(after).Max("+inf").Withscores().Limit(0, int64(count)+1).Build()
	}, func(i int, r rueidis.RedisResult) (err error) {
		answers[i], err = r.AsZScores()
		return err
	}, func(_ int, err error) { failed = err })
	if err = errors.Join(err, failed); err != nil {
		return nil, false, err
	}
	for i, scores := range answers {
		for _, z := range scores {
			if i == later || z.Member > at.id {
				places = append(places, listed{int64(z.Score), z.Member})
			}
		}
	}
	if len(places) > count {
		return places[:count], true, nil
	}
	return places, false, nil
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
