package client

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
)

// A Cache stores values under keys, in one namespace and for a limited time. A key is 1 to 1024 bytes of UTF-8 without
// NUL. A value may be empty and is at most the server's limit long, 1 MiB unless configured otherwise.
//
// A miss, and a condition that did not hold, is an [Outcome] and not an error. Every error is an [*Error] unless a
// method says otherwise.
//
// A Cache is safe for concurrent use. [Client] holds the one of [Options].Namespace.
type Cache struct {
	rpc       cachev1.CacheServiceClient
	namespace string
}

// In returns the Cache of another namespace, over the same connections. Empty means "default". The server checks the
// name: 1 to 63 characters of a-z, 0-9, dot, underscore and dash, the first a letter or a digit.
func (c *Cache) In(namespace string) *Cache { return &Cache{rpc: c.rpc, namespace: namespace} }

// An Entry is what a read found under a key.
type Entry struct {
	// Key is the key that was read.
	Key string
	// Outcome says what was found.
	Outcome Outcome
	// Value is the stored value; empty unless [Entry.Found] is true.
	Value []byte
	// ETag identifies this version of the entry, as 16 hexadecimal digits; empty on a [Miss].
	ETag string
	// TTL is the time until the entry stops being fresh. Zero means that it never expires, that it is [Stale], or that
	// there is none.
	TTL time.Duration
	// StaleTTL is for how long the entry is kept after it has stopped being fresh. Zero means not at all.
	StaleTTL time.Duration
	// Age is the time since the entry was written. Zero means that another Redis client wrote it and its age is unknown.
	Age time.Duration
	// Source says where the entry was read; empty on a [Miss].
	Source Source
	// ContentType is the media type stored with the value; empty means none.
	ContentType string
	// Tags are the tags stored with the entry.
	Tags []string
	// Err says why the Outcome is [Failed] and is nil otherwise. Only batches set it.
	Err error
}

// Found reports whether the entry has a Value, fresh or stale. It is false for a [Negative] entry.
func (e Entry) Found() bool { return e.Outcome == Hit || e.Outcome == Stale }

// GetOptions are the options of [Cache.GetWith]. The zero value reads as [Cache.Get] does.
type GetOptions struct {
	// IfNoneMatch is the etag of a value that the caller holds. If the fresh entry has the same etag, the outcome is
	// [NotModified] and the value is not sent. Empty means that the value is always sent.
	IfNoneMatch string
	// Primary reads from the Redis primary and never from the replica's near cache.
	Primary bool
	// MaxAge is the highest age that counts as fresh: an older entry is [Stale], or a [Miss] with NoStale. Zero means no
	// limit. Entries that other Redis clients wrote have no known age and are always accepted.
	MaxAge time.Duration
	// NoStale turns a stale entry into a [Miss].
	NoStale bool
}

// Get reads an entry. The outcome is [Hit], [Stale], [Negative] or [Miss].
//
// The replica answers from its near cache if it can. Such an answer reflects every write made through the same replica,
// and writes made through other replicas within milliseconds; while the replica cannot hear from Redis the answer is
// never older than the server's near-cache bound, 5 s unless configured otherwise.
func (c *Cache) Get(ctx context.Context, key string) (Entry, error) {
	return c.GetWith(ctx, key, GetOptions{})
}

// GetWith reads an entry with options. The outcome is that of [Cache.Get], or [NotModified].
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
	e.Key, e.Outcome = key, Outcome(text(r.GetOutcome(), "GET_OUTCOME_"))
	return e, nil
}

// entry reads the fields that the answer to a single read and a result of a batch have in common.
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
		Source:      Source(text(r.GetSource(), "SOURCE_")),
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

// duration returns nil for zero, which the API takes for "not given".
func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
