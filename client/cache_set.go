package client

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// SetOptions say how to write an entry. The zero value overwrites whatever the key holds and uses the server's default
// TTL, 1 h unless configured otherwise.
type SetOptions struct {
	// TTL is for how long the entry is fresh, at most the server's maximum (720 h unless configured otherwise). Times
	// below 1 ms are rounded up to 1 ms; a negative TTL is invalid. At most one of TTL, ExpireTime and Never may be set;
	// if none is, the server's default applies.
	TTL time.Duration
	// ExpireTime is when the entry stops being fresh: in the future, and at most the server's maximum TTL away.
	ExpireTime time.Time
	// Never keeps the entry until it is deleted or Redis evicts it. It is invalid together with Tags or StaleTTL.
	Never bool
	// StaleTTL is for how long the entry is kept after it has stopped being fresh. Reads return it as [Stale] until then.
	// TTL and StaleTTL together are at most the server's maximum TTL. Zero means what the namespace's policy says, which
	// is not at all unless configured otherwise.
	StaleTTL time.Duration
	// Negative records that the origin has no such value. The value must then be empty.
	Negative bool
	// Tags are labels for [Cache.InvalidateTags]: at most 32, of 1 to 128 bytes each. Duplicates are dropped.
	Tags []string
	// ContentType is a media type that is stored with the value, at most 255 bytes. Empty means none.
	ContentType string
	// Fence is the lock under which the caller writes, with [Cache.Set] and [Cache.Fill]. If a later holder of the lock has
	// written the key the outcome is [Fenced]. Nil means none.
	Fence *Fence

	// IfAbsent writes only if the key has no entry. Stale and negative entries count as entries. At most one of the four
	// conditions may be set. A write with a condition is never retried: a second attempt would meet the first one's
	// entry and report it as another caller's.
	IfAbsent bool
	// IfPresent writes only if the key has an entry.
	IfPresent bool
	// IfMatch writes only if the key has an entry with this etag.
	IfMatch string
	// IfNoneMatch writes unless the key has an entry with this etag.
	IfNoneMatch string
}

// A Fence proves that a write is by the holder of a lock, and not by one that has lost it without knowing. A key remembers the
// highest fencing token that has come with a write, and refuses lower ones: see [Fenced]. It is fenced only where every writer of
// the key sends a fence.
type Fence struct {
	// LockName is the name of the lock, in the namespace of the key.
	LockName string
	// FencingToken is the FencingToken of the [Lock] or [HeldLock].
	FencingToken int64
}

// message returns the fence for a request; nil for nil.
func (f *Fence) message() *cachev1.Fence {
	if f == nil {
		return nil
	}
	return &cachev1.Fence{LockName: f.LockName, FencingToken: f.FencingToken}
}

func (o SetOptions) conditions() int {
	return count(o.IfAbsent, o.IfPresent, o.IfMatch != "", o.IfNoneMatch != "")
}

// A WriteResult says what a write did.
type WriteResult struct {
	// Key is the key that was written or deleted.
	Key string
	// Outcome says what was done.
	Outcome Outcome
	// ETag is the etag of the entry that the key has now: the new one when [Stored], the one that kept the write from
	// happening when [NotStored] or [NotDeleted]. Empty means that the key has no entry.
	ETag string
	// Err says why the Outcome is [Failed] and is nil otherwise. Only batches set it.
	Err error
}

// Set writes an entry together with its expiry. The outcome is [Stored], [NotStored] or [Fenced].
//
// A Set without a condition that failed with [ErrUnavailable] is retried, so that it may be applied twice. After
// [ErrOutcomeUnknown] the entry may or may not have been written.
func (c *Cache) Set(ctx context.Context, key string, value []byte, o SetOptions) (WriteResult, error) {
	req := &cachev1.SetRequest{
		Namespace:   c.namespace,
		Key:         key,
		Value:       value,
		StaleTtl:    duration(o.StaleTTL),
		Negative:    o.Negative,
		Tags:        o.Tags,
		ContentType: o.ContentType,
		Fence:       o.Fence.message(),
	}
	if !setExpiry(req, o.TTL, o.ExpireTime, o.Never) {
		return WriteResult{}, invalid("expiry", expiryTwice)
	}
	if o.conditions() > 1 {
		return WriteResult{}, invalid("precondition", "at most one of IfAbsent, IfPresent, IfMatch and IfNoneMatch may be set")
	}
	switch {
	case o.IfAbsent:
		req.Precondition = &cachev1.SetRequest_IfAbsent{IfAbsent: true}
	case o.IfPresent:
		req.Precondition = &cachev1.SetRequest_IfPresent{IfPresent: true}
	case o.IfMatch != "":
		req.Precondition = &cachev1.SetRequest_IfMatch{IfMatch: o.IfMatch}
	case o.IfNoneMatch != "":
		req.Precondition = &cachev1.SetRequest_IfNoneMatch{IfNoneMatch: o.IfNoneMatch}
	}
	r, err := c.rpc.Set(ctx, req, withoutRetryIf(req.GetPrecondition() != nil)...)
	if err != nil {
		return WriteResult{}, err
	}
	return WriteResult{Key: key, Outcome: Outcome(text(r.GetOutcome(), "SET_OUTCOME_")), ETag: r.GetEtag()}, nil
}

// DeleteOptions are the options of [Cache.Delete]. The zero value deletes the entry whatever its etag is.
type DeleteOptions struct {
	// IfMatch deletes the entry only if it has this etag. Such a call is never retried.
	IfMatch string
	// Fence is the lock under which the caller deletes. Nil means none.
	Fence *Fence
}

// Delete deletes an entry. The outcome is [Deleted], [Miss], [NotDeleted] or [Fenced].
func (c *Cache) Delete(ctx context.Context, key string, o DeleteOptions) (WriteResult, error) {
	req := &cachev1.DeleteRequest{Namespace: c.namespace, Key: key, IfMatch: o.IfMatch, Fence: o.Fence.message()}
	r, err := c.rpc.Delete(ctx, req, withoutRetryIf(o.IfMatch != "")...)
	if err != nil {
		return WriteResult{}, err
	}
	return WriteResult{Key: key, Outcome: Outcome(text(r.GetOutcome(), "DELETE_OUTCOME_")), ETag: r.GetEtag()}, nil
}

// A TouchMode says which changes of an expiry [Cache.Touch] may make. Empty means [Overwrite].
type TouchMode string

// The modes of [Cache.Touch]. They compare the times at which the entry would be removed, stale time included.
const (
	// Overwrite sets the new expiry whatever the old one is.
	Overwrite TouchMode = "OVERWRITE"
	// ExtendOnly sets the new expiry only if it is later than the old one.
	ExtendOnly TouchMode = "EXTEND_ONLY"
	// ShortenOnly sets the new expiry only if it is earlier than the old one.
	ShortenOnly TouchMode = "SHORTEN_ONLY"
)

// TouchOptions are the options of [Cache.Touch]. The zero value sets the server's default TTL. At most one of TTL,
// ExpireTime and Never may be set.
type TouchOptions struct {
	// TTL is for how long from now the entry is fresh; the bounds are those of [SetOptions].
	TTL time.Duration
	// ExpireTime is when the entry stops being fresh.
	ExpireTime time.Time
	// Never keeps the entry until it is deleted or Redis evicts it. A tagged entry must expire: see [ErrTagged].
	Never bool
	// Mode says which changes may be made. Empty means [Overwrite].
	Mode TouchMode
}

// Touch changes the expiry of an entry and keeps its value, etag and StaleTTL. The outcome is [Touched], [Miss] or
// [Unchanged].
func (c *Cache) Touch(ctx context.Context, key string, o TouchOptions) (Outcome, error) {
	mode, err := number[cachev1.TouchMode]("mode", o.Mode, "TOUCH_MODE_", cachev1.TouchMode_value)
	if err != nil {
		return "", err
	}
	req := &cachev1.TouchRequest{Namespace: c.namespace, Key: key, Mode: mode}
	if !setExpiry(req, o.TTL, o.ExpireTime, o.Never) {
		return "", invalid("expiry", expiryTwice)
	}
	r, err := c.rpc.Touch(ctx, req)
	return Outcome(text(r.GetOutcome(), "TOUCH_OUTCOME_")), err
}

const expiryTwice = "at most one of TTL, ExpireTime and Never may be set"

// setExpiry sets the expiry of a request. The requests name its three alternatives alike, and their oneof can hold only
// one: setExpiry returns false if more than one is given, because the server could not see that.
func setExpiry(req proto.Message, ttl time.Duration, at time.Time, never bool) bool {
	m := req.ProtoReflect()
	set := func(field protoreflect.Name, v protoreflect.Value) { m.Set(m.Descriptor().Fields().ByName(field), v) }
	switch {
	case ttl != 0:
		set("ttl", protoreflect.ValueOf(durationpb.New(ttl).ProtoReflect()))
	case !at.IsZero():
		set("expire_time", protoreflect.ValueOf(timestamppb.New(at).ProtoReflect()))
	case never:
		set("never", protoreflect.ValueOf(true))
	}
	return count(ttl != 0, !at.IsZero(), never) <= 1
}

// withoutRetryIf returns the call option that turns retries off for a conditional write.
func withoutRetryIf(conditional bool) []grpc.CallOption {
	if conditional {
		return []grpc.CallOption{withoutRetry}
	}
	return nil
}

// count returns how many of the conditions are true.
func count(conditions ...bool) (n int) {
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}
