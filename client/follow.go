package client

import (
	"context"
	"errors"
)

// follow makes one call of a stream after the other until the caller leaves the loop over what they bring, and returns nil then; more
// is false. It goes on after ErrUnavailable once a call was answered, or if the stream had begun before, and pauses meanwhile. Otherwise
// it returns the error.
func follow(ctx context.Context, began bool, call func() (answered, more bool, err error)) error {
	for failures := 0; ; failures++ {
		answered, more, err := call()
		if !more {
			return nil
		}
		if answered {
			began, failures = true, 0
		}
		e := newError(err)
		if wait, ok := (&policy{failures: failures}).delay(e.RetryAfter); !ok || !began || !errors.Is(e, ErrUnavailable) || !pause(ctx, wait) {
			if ctx.Err() != nil {
				e = newError(contextStatus(ctx))
			}
			return e
		}
	}
}
