package service

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berthcare/larder/store/lock"
)

// lockName checks the name of a lock.
func (f *fields) lockName(name string) string {
	f.text("name", name, 1, maxLockNameBytes)
	return name
}

// lockToken checks a lock token.
func (f *fields) lockToken(token string) string {
	if !lock.ValidToken(token) {
		f.add("lock_token", "must be a lock token returned by AcquireLock or HoldLock")
	}
	return token
}

// lockRequestID checks the request id of a lock, which may be empty and is a secret otherwise.
func (f *fields) lockRequestID(id string) string {
	if id != "" {
		f.text("request_id", id, minLockRequestIDBytes, maxRequestIDBytes)
	}
	return id
}

// lockTTL checks the ttl of a lock; otherwise is returned if it is unset.
func (f *fields) lockTTL(ttl *durationpb.Duration, otherwise time.Duration) time.Duration {
	if ttl == nil {
		return otherwise
	}
	return f.exactDuration("ttl", ttl, lock.MinTTL, f.rules.Locks.MaxTTL)
}

// lockRequest is what AcquireLockRequest and HoldLockRequest have in common.
type lockRequest interface {
	GetTtl() *durationpb.Duration
	GetPermits() int32
	GetFair() bool
	GetOwner() string
	GetMetadata() string
}

// lockRequest checks a request for a lock.
func (f *fields) lockRequest(r lockRequest) lock.Request {
	if most := f.rules.Locks.MaxPermits; r.GetPermits() < 0 || int(r.GetPermits()) > most {
		f.add("permits", "must be at least 0 and at most %d", most)
	}
	f.text("owner", r.GetOwner(), 0, maxOwnerBytes)
	f.text("metadata", r.GetMetadata(), 0, maxMetadataBytes)
	return lock.Request{
		TTL: f.lockTTL(r.GetTtl(), f.rules.Locks.DefaultTTL), Permits: max(int(r.GetPermits()), 1), Fair: r.GetFair(),
		Owner: r.GetOwner(), Metadata: r.GetMetadata(),
	}
}

// lockFence checks the fencing token of a holder; 0 means none.
func (f *fields) lockFence(token int64) int64 {
	if token < 0 {
		f.add("fencing_token", "must not be negative")
	}
	return token
}
