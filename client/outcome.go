package client

// An Outcome says what a call found or did. Each method lists the outcomes that it returns. An outcome that only a later
// server knows is [Unrecognized].
type Outcome string

// The outcomes of reads.
const (
	// Hit means that the entry exists and its value is fresh.
	Hit Outcome = "HIT"
	// Stale means that the value is past its TTL and still within its StaleTTL.
	Stale Outcome = "STALE"
	// Negative means that a fresh entry records that the origin has no such value.
	Negative Outcome = "NEGATIVE"
	// Miss means that the key has no entry.
	Miss Outcome = "MISS"
	// NotModified means that the value is fresh and has the etag that the caller sent; the server leaves the value out.
	NotModified Outcome = "NOT_MODIFIED"
	// Pending means that the key has no value and that the caller did not get the lease to load it, because another
	// caller has it or because leases are held back after a failed load.
	Pending Outcome = "PENDING"
	// Unprocessed means that the server left this key out of a batch whose answer had reached its size limit. Ask for it
	// again.
	Unprocessed Outcome = "UNPROCESSED"
)

// The outcomes of writes. A write that found no entry has the outcome [Miss].
const (
	// Stored means that the entry was written.
	Stored Outcome = "STORED"
	// NotStored means that the condition did not hold and that nothing was written.
	NotStored Outcome = "NOT_STORED"
	// Deleted means that the entry existed and was deleted.
	Deleted Outcome = "DELETED"
	// NotDeleted means that the entry has another etag than IfMatch and was left in place.
	NotDeleted Outcome = "NOT_DELETED"
	// Touched means that the new expiry was set.
	Touched Outcome = "TOUCHED"
	// Unchanged means that the [TouchMode] did not allow the new expiry and that the old one was kept.
	Unchanged Outcome = "UNCHANGED"
	// Incremented means that the whole delta was added.
	Incremented Outcome = "INCREMENTED"
	// Saturated means that the counter was set to the bound that the delta would have crossed.
	Saturated Outcome = "SATURATED"
	// Rejected means that the delta would have crossed a bound and that nothing was written.
	Rejected Outcome = "REJECTED"
	// LeaseExpired means that the lease had expired before [Cache.Fill] and that nothing was written.
	LeaseExpired Outcome = "LEASE_EXPIRED"
	// Invalidated means that the key, one of its tags or the namespace was invalidated after the lease had been granted,
	// and that [Cache.Fill] wrote nothing.
	Invalidated Outcome = "INVALIDATED"
	// Superseded means that another caller wrote the key after the lease had been granted, and that [Cache.Fill] wrote
	// nothing.
	Superseded Outcome = "SUPERSEDED"
	// Failed means that this item of a batch failed; its Err says why.
	Failed Outcome = "FAILED"
)

// The outcomes of rate limits.
const (
	// Allowed means that the limits allow the call.
	Allowed Outcome = "ALLOWED"
	// Denied means that a limit denies the call.
	Denied Outcome = "DENIED"
	// LimitExceeded is why a call is denied: too much has been used.
	LimitExceeded Outcome = "LIMIT_EXCEEDED"
	// CostExceedsCapacity means that the cost is more than may ever be used at once.
	CostExceedsCapacity Outcome = "COST_EXCEEDS_CAPACITY"
	// RedisUnavailable means that Redis did not decide in time, and that the rule denies then.
	RedisUnavailable Outcome = "REDIS_UNAVAILABLE"
	// Committed means that the reservation has ended with its real cost.
	Committed Outcome = "COMMITTED"
	// Cancelled means that the reservation has ended without cost.
	Cancelled Outcome = "CANCELLED"
	// NotReserved means that there is no such reservation: it has expired, or never was.
	NotReserved Outcome = "NOT_RESERVED"
)

// TokenOpen means that a token can be consumed. [InspectedToken] and [TokenError] list the other outcomes of tokens.
const TokenOpen Outcome = "OPEN"

// A Source says where the server read an entry. A source that only a later server knows is [Unrecognized].
type Source string

// The sources of entries.
const (
	// NearCache is the memory of the replica that answered.
	NearCache Source = "NEAR_CACHE"
	// Redis is the Redis primary.
	Redis Source = "REDIS"
)
