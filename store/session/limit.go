package session

import "time"

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
