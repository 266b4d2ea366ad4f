package client

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// Cache stores values under keys, for a time. A key is 1 to 1024 bytes of UTF-8, a value at most the server's limit
// (1 MiB unless configured otherwise) and possibly empty. A miss, or a condition that did not hold, is an Outcome and
// not an error.
type Cache struct {
	rpc       cachev1.CacheServiceClient
	namespace string
}

// In returns the cache of another namespace, over the same connections.
func (c *Cache) In(namespace string) *Cache { return &Cache{rpc: c.rpc, namespace: namespace} }

// An Outcome is what a call found or did. It is the name of the protocol's enum value without its prefix, so that a
// later server may send one that is not among these.
type Outcome string

// The outcomes of reads.
const (
	// Hit means that there is a fresh value.
	Hit Outcome = "HIT"
	// Stale means that there is a value past its TTL and within its StaleTTL.
	Stale Outcome = "STALE"
	// Negative means that there is a fresh entry which says that the origin has no such value.
	Negative Outcome = "NEGATIVE"
	// Miss means that there is no entry.
	Miss Outcome = "MISS"
	// NotModified means that there is a fresh value with the etag that the caller holds.
	NotModified Outcome = "NOT_MODIFIED"
	// Unprocessed means that the answer to a batch had reached its size limit; ask for this key again.
	Unprocessed Outcome = "UNPROCESSED"
)

// The outcomes of writes. A write that found no entry is a Miss too.
const (
	// Stored means that the entry was written.
	Stored Outcome = "STORED"
	// NotStored means that the precondition did not hold and nothing was written.
	NotStored Outcome = "NOT_STORED"
	// Deleted means that there was an entry and that it is gone.
	Deleted Outcome = "DELETED"
	// NotDeleted means that there is an entry with another etag, and that it was left.
	NotDeleted Outcome = "NOT_DELETED"
	// Touched means that the new expiry holds.
	Touched Outcome = "TOUCHED"
	// Unchanged means that the mode did not allow the change, and that the old expiry holds.
	Unchanged Outcome = "UNCHANGED"
	// Incremented means that the whole delta was added.
	Incremented Outcome = "INCREMENTED"
	// Saturated means that the counter was set to the bound that the delta would have crossed.
	Saturated Outcome = "SATURATED"
	// Rejected means that the delta would have crossed a bound, and that nothing was written.
	Rejected Outcome = "REJECTED"
	// Failed means that this item of a batch failed; its Err says why.
	Failed Outcome = "FAILED"
)

// A Source is where a value was read.
type Source string

// The sources of values.
const (
	// NearCache is the memory of the replica that answered.
	NearCache Source = "NEAR_CACHE"
	// Redis is the Redis primary.
	Redis Source = "REDIS"
)

// An Entry is what was found under a key.
type Entry struct {
	// Key is the key asked for.
	Key string
	// Outcome says what was found.
	Outcome Outcome
	// Value is the stored value, if Found.
	Value []byte
	// ETag names this version of the entry; empty on a Miss.
	ETag string
	// TTL is how much longer the entry stays fresh; zero when it never expires, when it is Stale and on a Miss.
	TTL time.Duration
	// StaleTTL is how much longer the entry is kept after it has ceased to be fresh; zero means not at all.
	StaleTTL time.Duration
	// Age is the time since the entry was written; zero when another Redis client wrote it.
	Age time.Duration
	// Source says where the entry was read; empty on a Miss.
	Source Source
	// ContentType is the media type given with the value; empty means that none was.
	ContentType string
	// Tags are the labels kept with the entry.
	Tags []string
	// Err is why the Outcome is Failed, and else nil. It occurs in batches only.
	Err error
}

// Found reports whether there is a Value, fresh or stale. A negative entry has none.
func (e Entry) Found() bool { return e.Outcome == Hit || e.Outcome == Stale }

// GetOptions say how to read an entry.
type GetOptions struct {
	// IfNoneMatch is an etag that the caller holds: a fresh entry with it is NotModified and comes without its value.
	IfNoneMatch string
	// Primary reads from the Redis primary, never from the replica's near cache.
	Primary bool
	// MaxAge is the greatest age that counts as fresh; an older entry is Stale. Zero means any.
	MaxAge time.Duration
	// NoStale makes a stale entry a Miss.
	NoStale bool
}

// Get reads an entry, from the replica's near cache if it is there. Such an answer reflects every write made through the
// same replica, others within milliseconds, and is never older than the server's near-cache bound (5 s by default).
func (c *Cache) Get(ctx context.Context, key string) (Entry, error) {
	return c.GetWith(ctx, key, GetOptions{})
}

// GetWith reads an entry as the options say.
func (c *Cache) GetWith(ctx context.Context, key string, o GetOptions) (Entry, error) {
	req := &cachev1.GetRequest{
		Namespace:   c.namespace,
		Key:         key,
		IfNoneMatch: o.IfNoneMatch,
		Consistency: consistency(o.Primary),
		MaxAge:      duration(o.MaxAge),
	}
	if o.NoStale {
		req.AllowStale = new(bool)
	}
	r, err := c.rpc.Get(ctx, req)
	if err != nil {
		return Entry{}, err
	}
	e := entry(r)
	e.Key, e.Outcome = key, Outcome(name(r.GetOutcome(), "GET_OUTCOME_"))
	return e, nil
}

// SetOptions say how to write an entry. The zero value writes whatever is there, for the server's default TTL.
type SetOptions struct {
	// TTL is how long the entry is fresh, at most the server's maximum. At most one of TTL, ExpireTime and Never may be
	// set; none of them means the server's default.
	TTL time.Duration
	// ExpireTime is when the entry ceases to be fresh.
	ExpireTime time.Time
	// Never keeps the entry until it is deleted or evicted.
	Never bool
	// StaleTTL is how long the entry is kept, and answered as Stale, after it has ceased to be fresh.
	StaleTTL time.Duration
	// Negative marks an entry that says "the origin has no such value"; the value must be empty.
	Negative bool
	// Tags are up to 32 labels of 1 to 128 bytes, kept with the entry.
	Tags []string
	// ContentType is a media type kept with the value, at most 255 bytes.
	ContentType string

	// IfAbsent writes only where there is no entry. At most one of the four conditions may be set. A Set with a condition
	// is made once and never retried, since the second attempt would be told of the first one's success as of another's.
	IfAbsent bool
	// IfPresent writes only over an entry.
	IfPresent bool
	// IfMatch writes only over an entry with this etag.
	IfMatch string
	// IfNoneMatch writes unless there is an entry with this etag.
	IfNoneMatch string
}

func (o SetOptions) conditions() int {
	return count(o.IfAbsent, o.IfPresent, o.IfMatch != "", o.IfNoneMatch != "")
}

// A Written tells what became of a write.
type Written struct {
	// Key is the key of the entry.
	Key string
	// Outcome says what was done.
	Outcome Outcome
	// ETag is that of the entry now there: the new one when Stored, the one in the way when NotStored or NotDeleted. Empty
	// means that there is none.
	ETag string
	// Err is why the Outcome is Failed, and else nil. It occurs in batches only.
	Err error
}

// Set writes an entry, whole and with its expiry in one step. The outcome is Stored or NotStored.
func (c *Cache) Set(ctx context.Context, key string, value []byte, o SetOptions) (Written, error) {
	req := &cachev1.SetRequest{
		Namespace:   c.namespace,
		Key:         key,
		Value:       value,
		StaleTtl:    duration(o.StaleTTL),
		Negative:    o.Negative,
		Tags:        o.Tags,
		ContentType: o.ContentType,
	}
	if !setExpiry(req, o.TTL, o.ExpireTime, o.Never) {
		return Written{}, invalid("expiry", expiryTwice)
	}
	if o.conditions() > 1 {
		return Written{}, invalid("precondition", "at most one may be set")
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
	r, err := c.rpc.Set(ctx, req, onceIf(req.GetPrecondition() != nil)...)
	if err != nil {
		return Written{}, err
	}
	return Written{Key: key, Outcome: Outcome(name(r.GetOutcome(), "SET_OUTCOME_")), ETag: r.GetEtag()}, nil
}

// DeleteOptions say what to delete. The zero value deletes the entry whatever it is.
type DeleteOptions struct {
	// IfMatch deletes the entry only if it has this etag. Such a call is made once and never retried.
	IfMatch string
}

// Delete removes an entry. The outcome is Deleted, Miss or NotDeleted.
func (c *Cache) Delete(ctx context.Context, key string, o DeleteOptions) (Written, error) {
	req := &cachev1.DeleteRequest{Namespace: c.namespace, Key: key, IfMatch: o.IfMatch}
	r, err := c.rpc.Delete(ctx, req, onceIf(o.IfMatch != "")...)
	if err != nil {
		return Written{}, err
	}
	return Written{Key: key, Outcome: Outcome(name(r.GetOutcome(), "DELETE_OUTCOME_")), ETag: r.GetEtag()}, nil
}

// A TouchMode says which changes of expiry are wanted.
type TouchMode = cachev1.TouchMode

// The modes of Touch. The zero value is Overwrite.
const (
	// Overwrite sets the new expiry whatever the old one is.
	Overwrite = cachev1.TouchMode_TOUCH_MODE_OVERWRITE
	// ExtendOnly sets the new expiry only when it is later.
	ExtendOnly = cachev1.TouchMode_TOUCH_MODE_EXTEND_ONLY
	// ShortenOnly sets the new expiry only when it is earlier.
	ShortenOnly = cachev1.TouchMode_TOUCH_MODE_SHORTEN_ONLY
)

// TouchOptions say until when to keep an entry, as in SetOptions.
type TouchOptions struct {
	// TTL is how long from now the entry is fresh.
	TTL time.Duration
	// ExpireTime is when the entry ceases to be fresh.
	ExpireTime time.Time
	// Never keeps the entry until it is deleted or evicted.
	Never bool
	// Mode says which changes are wanted.
	Mode TouchMode
}

// Touch changes the expiry of an entry and leaves its value, etag and StaleTTL alone. The outcome is Touched, Miss or
// Unchanged.
func (c *Cache) Touch(ctx context.Context, key string, o TouchOptions) (Outcome, error) {
	req := &cachev1.TouchRequest{Namespace: c.namespace, Key: key, Mode: o.Mode}
	if !setExpiry(req, o.TTL, o.ExpireTime, o.Never) {
		return "", invalid("expiry", expiryTwice)
	}
	r, err := c.rpc.Touch(ctx, req)
	return Outcome(name(r.GetOutcome(), "TOUCH_OUTCOME_")), err
}

// entry reads the fields that a single read and an item of a batch have in common.
func entry(r interface {
	GetValue() []byte
	GetEtag() string
	GetTtl() *durationpb.Duration
	GetStaleTtl() *durationpb.Duration
	GetAge() *durationpb.Duration
	GetSource() cachev1.Source
	GetContentType() string
	GetTags() []string
},
) Entry {
	return Entry{
		Value:       r.GetValue(),
		ETag:        r.GetEtag(),
		TTL:         r.GetTtl().AsDuration(),
		StaleTTL:    r.GetStaleTtl().AsDuration(),
		Age:         r.GetAge().AsDuration(),
		Source:      Source(name(r.GetSource(), "SOURCE_")),
		ContentType: r.GetContentType(),
		Tags:        r.GetTags(),
	}
}

func consistency(primary bool) cachev1.Consistency {
	if primary {
		return cachev1.Consistency_CONSISTENCY_PRIMARY
	}
	return cachev1.Consistency_CONSISTENCY_UNSPECIFIED
}

const expiryTwice = "at most one of TTL, ExpireTime and Never may be set"

// setExpiry sets the expiry of a request. All of them name its three choices alike, of which a oneof holds only one: it
// returns false where more are given, which the server could not tell.
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

// onceIf is the call option that forbids retries of a conditional write.
func onceIf(conditional bool) []grpc.CallOption {
	if conditional {
		return []grpc.CallOption{once}
	}
	return nil
}

// name is that of an enum's value without the prefix of its type; empty for the unspecified value.
func name[E interface {
	~int32
	String() string
}](e E, prefix string) string {
	if e == 0 {
		return ""
	}
	return strings.TrimPrefix(e.String(), prefix)
}

func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func count(conditions ...bool) (n int) {
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}
