package client_test

import (
	"context"
	"fmt"
	"time"

	"github.com/berthcare/larder/client"
)

// perMinute is a rule in a call; the server's policy file is the place for rules that several callers share.
func perMinute(n int64) []client.RateLimit {
	return []client.RateLimit{{Inline: &client.RateLimitRule{Name: "login", Capacity: n, Period: time.Minute, OnFailure: client.FailClosed}}}
}

func ExampleRateLimits_Consume() {
	addr, stop, err := serveEmbedded()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	larder, err := client.New(client.Options{Target: addr})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer larder.Close()

	for range 3 {
		d, err := larder.RateLimits.Consume(context.Background(), "203.0.113.7", perMinute(2), client.ConsumeOptions{})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(d.Outcome, d.Limits[0].Remaining)
	}
	// Output:
	// ALLOWED 1
	// ALLOWED 0
	// DENIED 0
}

func ExampleRateLimitHeaders() {
	addr, stop, err := serveEmbedded()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	larder, err := client.New(client.Options{Target: addr})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer larder.Close()

	d, err := larder.RateLimits.Consume(context.Background(), "ann", perMinute(60), client.ConsumeOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fields := client.RateLimitHeaders(d)
	fmt.Println(fields.Get("RateLimit-Policy"))
	fmt.Println(fields.Get("RateLimit"))
	// Output:
	// "login";q=60;w=60
	// "login";r=59;t=1
}

func ExampleRateLimits_Reserve() {
	addr, stop, err := serveEmbedded()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	larder, err := client.New(client.Options{Target: addr})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer larder.Close()
	ctx := context.Background()

	budget := []client.RateLimit{{Inline: &client.RateLimitRule{Name: "tokens", Capacity: 1000, Period: 24 * time.Hour}}}
	estimate, used := int64(500), int64(120)
	r, err := larder.RateLimits.Reserve(ctx, "ann", budget, time.Minute, client.ConsumeOptions{Cost: &estimate})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(r.Outcome, r.Limits[0].Remaining)
	end, err := larder.RateLimits.Commit(ctx, r.ID, &used)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(end.Outcome, end.Limits[0].Remaining)
	// Output:
	// ALLOWED 500
	// COMMITTED 880
}
