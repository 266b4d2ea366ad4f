package redis

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/rueidis"
)

// The errors that operations of the store share; features add their own. Match them with [errors.Is]. Expected outcomes, such
// as a miss or a condition that did not hold, are results and not errors. The context's errors are returned as they are.
var (
	// ErrUnavailable means that Redis could not be reached or was not ready, as while a slot of a cluster moves; nothing was
	// written. Scripts keep that promise by reading every key that they do not declare before they write.
	ErrUnavailable = errors.New("redis is unavailable")
	// ErrOutcomeUnknown means that a write was sent and its answer was lost; Redis may or may not have applied it.
	ErrOutcomeUnknown = errors.New("the write was sent and its answer was lost")
	// ErrOverloaded means that too many round trips are in flight or that Redis is out of memory; nothing was written.
	ErrOverloaded = errors.New("the store is overloaded")
	// ErrWrongType means that the key holds another type than a string; nothing was written.
	ErrWrongType = errors.New("the key holds a value of another type")
	// ErrNotCounter means that the key or the attribute does not hold a plain 64-bit integer; nothing was written.
	ErrNotCounter = errors.New("the key or the attribute does not hold a counter")
	// ErrOverflow means that the sum does not fit 64 bits; nothing was written.
	ErrOverflow = errors.New("the counter would leave the range of 64 bits")
	// ErrCorrupt means that the stored bytes were not written by Larder, or by a later version.
	ErrCorrupt = errors.New("the stored entry cannot be read")
	// ErrPageToken means that a page or resume token was not returned by the same operation.
	ErrPageToken = errors.New("the token is not one that was returned here")
	// ErrRefused means that Redis refused the credentials or a command: a mistake of the operator.
	ErrRefused = errors.New("redis refused the credentials or the command")
	// ErrWrongMode means that Redis does not run in the configured mode: a mistake of the operator.
	ErrWrongMode = errors.New("redis does not run in the configured mode")
	// ErrUnsafe means that Redis is set up so that it may lose or evict what must last, which [Options].Strict refuses: a
	// mistake of the operator.
	ErrUnsafe = errors.New("redis is not set up to keep what it is given")
	// ErrInternal means that Redis answered what Larder does not understand: a fault of Larder.
	ErrInternal = errors.New("internal store error")
)

// failure is an error together with its cause, which is for the log alone: it may contain addresses.
type failure struct {
	kind  error
	cause error
	// final means that repeating the call would mislead its caller.
	final bool
	// moving means that the slot of a key moves.
	moving bool
}

// Fail returns an error that matches kind and prints as kind. [Cause] returns its cause, which may be nil and must not contain
// keys, values or secrets.
func Fail(kind, cause error) error { return &failure{kind: kind, cause: cause} }

func (f *failure) Error() string { return f.kind.Error() }

func (f *failure) Unwrap() error { return f.kind }

// Cause returns what made an operation fail, for the log of the server and never for a caller. It may contain addresses of
// Redis; it contains no keys, values or secrets.
func Cause(err error) string {
	var f *failure
	if errors.As(err, &f) && f.cause != nil {
		return f.cause.Error()
	}
	return err.Error()
}

// Retryable reports whether a caller may repeat the operation that failed with err, if repeating it is safe for that caller:
// Redis wrote nothing, or writing twice is the same as writing once.
func Retryable(err error) bool {
	var f *failure
	if !errors.As(err, &f) {
		return false
	}
	return errors.Is(f.kind, ErrUnavailable) || errors.Is(f.kind, ErrOutcomeUnknown) && !f.final
}

// Refused reports whether an error means that Redis refused the operation, which it will refuse again: nothing was written.
func Refused(err error) bool {
	var f *failure
	return errors.As(err, &f) && !errors.Is(err, ErrOutcomeUnknown) && !errors.Is(err, ErrUnavailable)
}

// Moving reports whether Redis refused a command because the slot of its keys moves: the command did nothing, and works in a moment.
func Moving(err error) bool {
	var f *failure
	return errors.As(err, &f) && f.moving
}

// Effect says what a lost answer of a command means.
type Effect int

// The effects.
const (
	// Reads means that nothing can have been written.
	Reads Effect = iota
	// Writes means that Redis may have applied the write, and that applying it again changes nothing.
	Writes
	// WritesOnce means that Redis may have applied the write, and that repeating the call would mislead its caller.
	WritesOnce
)

// refusals are the codes of Redis which mean that nothing was done, and the error that each becomes.
var refusals = []struct {
	code   string
	kind   error
	moving bool
}{
	{"LOADING", ErrUnavailable, false},
	{"MASTERDOWN", ErrUnavailable, false},
	{"CLUSTERDOWN", ErrUnavailable, false},
	{"TRYAGAIN", ErrUnavailable, true},
	{"READONLY", ErrUnavailable, false},
	{"NOREPLICAS", ErrUnavailable, false},
	{"BUSY", ErrUnavailable, false},
	{"MISCONF", ErrUnavailable, false},
	{"MOVED", ErrUnavailable, true},
	{"ASK", ErrUnavailable, true},
	{"UNBLOCKED", ErrUnavailable, false},
	// A script that uses a key which it has not declared meets its slot while that moves, or a cluster that is not whole.
	{"Script attempted to access a non local key", ErrUnavailable, true},
	{"Script attempted to execute a command while the cluster is down", ErrUnavailable, false},
	{"Script attempted to execute a write command while the cluster is down", ErrUnavailable, false},
	// The same in Redis 8 and Valkey.
	{"Attempted to access a non local key", ErrUnavailable, true},
	{"Script attempted to access a slot not served", ErrUnavailable, false},
	{"Can not execute a command", ErrUnavailable, false},
	{"Can not execute a write command", ErrUnavailable, false},
	{"Can not execute the command on a stale replica", ErrUnavailable, false},
	{"Unable to execute command", ErrUnavailable, false},
	{"OOM", ErrOverloaded, false},
	{"WRONGTYPE", ErrWrongType, false},
	{"NOAUTH", ErrRefused, false},
	{"WRONGPASS", ErrRefused, false},
	{"NOPERM", ErrRefused, false},
	{"The user executing the script", ErrRefused, false}, // Redis 7.0
	{"ACL failure in script", ErrRefused, false},         // Redis 7.2 and Valkey
	{"LARDER_NOT_COUNTER", ErrNotCounter, false},
	{"LARDER_OVERFLOW", ErrOverflow, false},
}

// classify turns the error of a command into one of the errors above, or into the context's own. A context error that is not
// the caller's own came from another caller of a shared connection, and means no more than a lost answer.
func classify(ctx context.Context, err error, eff Effect) error {
	if err == nil {
		return nil
	}
	var own *failure
	if errors.As(err, &own) {
		return err
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	var re *rueidis.RedisError
	if errors.As(err, &re) {
		text := re.Error()
		for _, r := range refusals {
			if begins(text, r.code) {
				return &failure{kind: r.kind, cause: errors.New(r.code), moving: r.moving}
			}
		}
		if strings.Contains(text, "would overflow") {
			return Fail(ErrOverflow, errors.New("overflow"))
		}
		// The rest of the text may repeat arguments.
		return Fail(ErrInternal, errors.New("redis answered "+code(re)))
	}
	if eff == Reads || notSent(err) {
		return Fail(ErrUnavailable, err)
	}
	return &failure{kind: ErrOutcomeUnknown, cause: err, final: eff == WritesOnce}
}

// notSent reports errors which mean that the command never left this process.
func notSent(err error) bool {
	return errors.Is(err, rueidis.ErrNoAddr) || errors.Is(err, rueidis.ErrNoSlot) || errors.Is(err, errDial)
}
