package store

import (
	"time"

	"github.com/redis/rueidis"
)

// SessionLimits bound how many sessions a subject has at once.
type SessionLimits struct {
	// PerSubject is how many sessions a subject may have, PerClass how many with one device class; zero means any number.
	PerSubject, PerClass int
	// Policy says what happens to a session beyond.
	Policy SessionLimitPolicy
}

// SessionLimitPolicy says what happens when a subject has as many sessions as it may and gets another one.
type SessionLimitPolicy string

// The policies. The script of creation knows them by these words.
const (
	// EvictLeastRecentlyUsed ends those that were active longest ago, as far as activity is recorded.
	EvictLeastRecentlyUsed SessionLimitPolicy = "evict_least_recently_used"
	// EvictOldest ends those that were created first.
	EvictOldest SessionLimitPolicy = "evict_oldest"
	// RejectSession creates none.
	RejectSession SessionLimitPolicy = "reject"
)

// CreatedSession is what became of a creation.
type CreatedSession struct {
	// Token is the secret and Session the new session; both are empty where the limit has been reached.
	Token   string
	Session *Session
	// Evicted are the sessions that were ended to make room.
	Evicted []SessionSummary
	// Existing are up to 200 of the sessions that count against the limit, where that has been reached.
	Existing []SessionSummary

	at      time.Time // zero where there is no new session
	existed bool      // because there was one of that id before
}

// SessionSummary tells a session from the others of its subject.
type SessionSummary struct {
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
func parseCreated(m rueidis.RedisMessage) (created CreatedSession, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) == 0 {
		return created, errInternal
	}
	if len(parts) < 3 {
		return CreatedSession{existed: true}, nil
	}
	at, err1 := parts[1].AsInt64()
	list, err2 := parts[2].ToArray()
	if err1 != nil || err2 != nil {
		return created, errInternal
	}
	others := make([]SessionSummary, 0, len(list))
	for _, o := range list {
		f, err := o.AsStrSlice()
		if err != nil || len(f) != 8 {
			return created, errInternal
		}
		n := numbers{ok: true}
		others = append(others, SessionSummary{
			ID: f[0], Device: Device{IP: f[1], UserAgent: f[2], Label: f[3], Class: f[4]},
			CreatedAt: n.time(f[5]), LastActiveAt: n.time(f[6]), ExpiresAt: n.time(f[7]),
		})
		if !n.ok {
			return created, &opError{kind: ErrCorrupt}
		}
	}
	if at == 0 {
		return CreatedSession{Existing: others}, nil
	}
	return CreatedSession{at: time.UnixMilli(at), Evicted: others}, nil
}
