package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"time"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// serveEmbedded runs a server on the embedded store in this process and returns its address and what stops it.
func serveEmbedded() (address string, stop func()) {
	quiet := slog.New(slog.DiscardHandler)
	st, err := store.New(store.Options{Redis: redis.Options{Mode: redis.Embedded, Logger: quiet}})
	if err != nil {
		log.Fatal(err)
	}
	if err := st.Redis.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	server := service.New(st, service.NewMetrics(), service.Options{Logger: quiet, DrainDelay: time.Nanosecond})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	return lis.Addr().String(), func() {
		server.Shutdown(context.Background())
		<-served
		st.Close()
	}
}

func ExampleCache() {
	address, stop := serveEmbedded()
	defer stop()
	larder, err := client.New(client.Options{Target: address, Namespace: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	defer larder.Close()
	ctx := context.Background()

	user, err := larder.Cache.Get(ctx, "user:1")
	fmt.Println(user.Found(), user.Outcome, err)

	set, err := larder.Cache.Set(ctx, "user:1", []byte("Ann"), client.SetOptions{TTL: time.Minute, IfAbsent: true})
	fmt.Println(set.Outcome, err)

	user, err = larder.Cache.Get(ctx, "user:1")
	fmt.Printf("%v %s %v\n", user.Found(), user.Value, err)

	// Somebody else has written in the meantime: the condition does not hold.
	_, _ = larder.Cache.Set(ctx, "user:1", []byte("Anna"), client.SetOptions{})
	set, err = larder.Cache.Set(ctx, "user:1", []byte("Anne"), client.SetOptions{IfMatch: user.ETag})
	fmt.Println(set.Outcome, err)

	visits, err := larder.Cache.Increment(ctx, "visits", 3, client.IncrementOptions{TTL: time.Hour})
	fmt.Println(visits.Value, visits.TTL > 59*time.Minute, err)

	_, err = larder.Cache.Increment(ctx, "user:1", 1, client.IncrementOptions{})
	fmt.Println(errors.Is(err, client.ErrNotCounter))

	for progress, err := range larder.Cache.DeleteMatching(ctx, "user:*", client.DeleteMatchingOptions{}) {
		if progress.Done {
			fmt.Println("deleted", progress.Deleted, err)
		}
	}
	for key, err := range larder.Cache.ListKeys(ctx, "*", client.ListKeysOptions{}) {
		fmt.Println("left", key, err)
	}

	_, err = larder.Cache.Set(ctx, "", nil, client.SetOptions{})
	var invalid *client.Error
	fmt.Println(errors.As(err, &invalid) && errors.Is(err, client.ErrInvalid), invalid.Field)
	// Output:
	// false MISS <nil>
	// STORED <nil>
	// true Ann <nil>
	// NOT_STORED <nil>
	// 3 true <nil>
	// true
	// deleted 1 <nil>
	// left visits <nil>
	// true key
}

func ExampleSessions() {
	address, stop := serveEmbedded()
	defer stop()
	larder, err := client.New(client.Options{Target: address, Namespace: "shop"})
	if err != nil {
		log.Fatal(err)
	}
	defer larder.Close()
	ctx := context.Background()

	// The token goes to the browser; nobody can ever read it from Larder again.
	token, _, err := larder.Sessions.Create(ctx, "ann", client.CreateOptions{
		Attributes:  map[string]string{"cart": "3 books"},
		IdleTimeout: 10 * time.Minute,
		Device:      client.Device{Label: "Ann's phone"},
	})
	if err != nil {
		log.Fatal(err)
	}

	session, err := larder.Sessions.Validate(ctx, token, client.ValidateOptions{})
	if err != nil {
		log.Fatal(err) // ErrInactive would mean that she has to log in
	}
	fmt.Println(session.Subject, session.Attributes["cart"])

	updated, err := larder.Sessions.Update(ctx, client.ByToken(token), client.UpdateOptions{
		Set:             map[string]string{"cart": "4 books"},
		ExpectedVersion: session.Version,
	})
	fmt.Println(updated.Version, err)
	_, err = larder.Sessions.Update(ctx, client.ByToken(token), client.UpdateOptions{
		Set:             map[string]string{"cart": "empty"},
		ExpectedVersion: session.Version,
	})
	fmt.Println(errors.Is(err, client.ErrVersionMismatch))

	for s, err := range larder.Sessions.ListSubject(ctx, "ann", client.ListSubjectOptions{Current: client.ByID(session.ID)}) {
		fmt.Println(s.Device.Label, s.Current, err)
	}

	revoked, err := larder.Sessions.RevokeSubject(ctx, "ann", client.RevokeSubjectOptions{})
	fmt.Println(revoked, err)
	_, err = larder.Sessions.Validate(ctx, token, client.ValidateOptions{})
	fmt.Println(errors.Is(err, client.ErrInactive))
	// Output:
	// ann 3 books
	// 2 <nil>
	// true
	// Ann's phone true <nil>
	// 1 <nil>
	// true
}
