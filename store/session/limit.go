package session

import "time"

// Limits bound the concurrent sessions of a subject.
type Limits struct {
	// PerSubject is the maximum of all sessions of the subject and PerClass that of one device class; 0 means unlimited.
	PerSubject, PerClass int
	// Policy says what happens at the limit.
	Policy LimitPolicy
}

// LimitPolicy says what happens when a subject at its limit gets another session.
type LimitPolicy string

// The policies. The values are arguments of create.lua.
const (
	// EvictLeastRecentlyUsed revokes the sessions with the earliest recorded activity.
	EvictLeastRecentlyUsed LimitPolicy = "evict_least_recently_used"
	// EvictOldest revokes the sessions that were created first.
	EvictOldest LimitPolicy = "evict_oldest"
	// Reject creates no session.
	Reject LimitPolicy = "reject"
)

// Summary describes a session to its subject.
type Summary struct {
	// ID is the public handle.
	ID string
	// Device describes the client.
	Device Device
	// CreatedAt is when the session was created and LastActiveAt its last recorded activity.
	CreatedAt, LastActiveAt time.Time
	// ExpiresAt is when the session expires, or would have expired if it had not been revoked.
	ExpiresAt time.Time
}
