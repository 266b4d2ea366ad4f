package session

import (
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// Limits bound how many sessions a subject has at once.
type Limits struct {
	// PerSubject is how many sessions a subject may have, PerClass how many with one device class; zero means any number.
	PerSubject, PerClass int
	// Policy says what happens to a session beyond.
	Policy LimitPolicy
}

// LimitPolicy says what happens when a subject has as many sessions as it may and gets another one.
type LimitPolicy string

// The policies. The script of creation knows them by these words.
const (
	// EvictLeastRecentlyUsed ends those that were active longest ago, as far as activity is recorded.
	EvictLeastRecentlyUsed LimitPolicy = "evict_least_recently_used"
	// EvictOldest ends those that were created first.
	EvictOldest LimitPolicy = "evict_oldest"
	// Reject creates none.
	Reject LimitPolicy = "reject"
)

// Created is what became of a creation.
type Created struct {
	// Token is the secret and Session the new session; both are empty where the limit has been reached.
	Token   string
	Session *Session
	// Evicted are the sessions that were ended to make room.
	Evicted []Summary
	// Existing are up to 200 of the sessions that count against the limit, where that has been reached.
	Existing []Summary

	at      time.Time // zero where there is no new session
	existed bool      // because there was one of that id before
}

// Summary tells a session from the others of its subject.
type Summary struct {
	// ID is the public handle.
	ID string
	// Device is what the client said of itself.
	Device Device
	// CreatedAt is when it was created, LastActiveAt when it was last active as far as that is recorded.
	CreatedAt, LastActiveAt time.Time
	// ExpiresAt is when it ends, or would have ended, by time.
	ExpiresAt time.Time
}

// parseCreated reads the answer of session_create.lua.
func parseCreated(m rueidis.RedisMessage) (created Created, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) == 0 {
		return created, redis.ErrInternal
	}
	if len(parts) < 3 {
		return Created{existed: true}, nil
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
