package client_test

import (
	"context"
	"fmt"
	"time"

	"github.com/berthcare/larder/client"
)

func ExampleLocks_Acquire() {
	example(func(ctx context.Context, larder *client.Client) error {
		lock, err := larder.Locks.Acquire(ctx, "import", client.AcquireOptions{TTL: time.Minute, Owner: "worker-1"})
		if err != nil {
			return err
		}
		fmt.Println(lock.Outcome, time.Until(lock.ValidUntil) > 50*time.Second)

		other, err := larder.Locks.Acquire(ctx, "import", client.AcquireOptions{WaitTimeout: 10 * time.Millisecond})
		if err != nil {
			return err
		}
		fmt.Println(other.Outcome, "by", other.Holder.Owner)

		held, err := larder.Locks.Release(ctx, "import", lock.Token)
		if err != nil {
			return err
		}
		fmt.Println("was held:", held)
		return nil
	})
	// Output:
	// ACQUIRED true
	// HELD by worker-1
	// was held: true
}

func ExampleLocks_Do() {
	example(func(ctx context.Context, larder *client.Client) error {
		return larder.Locks.Do(ctx, "report", client.HoldOptions{}, func(ctx context.Context) error {
			// The write is refused if another process has had the lock since and has written.
			written, err := larder.Cache.Set(ctx, "report", []byte("42"), client.SetOptions{Fence: client.FenceOf(ctx)})
			if err != nil {
				return err
			}
			fmt.Println(written.Outcome)
			return nil
		})
	})
	// Output:
	// STORED
}

func ExampleLocks_RunAsLeader() {
	example(func(ctx context.Context, larder *client.Client) error {
		return larder.Locks.RunAsLeader(ctx, "scheduler", client.HoldOptions{Owner: "worker-1"}, func(ctx context.Context) error {
			for state, err := range larder.Locks.Observe(ctx, "scheduler") {
				if err != nil {
					return err
				}
				fmt.Println("leader:", state.Holders[0].Owner)
				break
			}
			return nil
		})
	})
	// Output:
	// leader: worker-1
}
