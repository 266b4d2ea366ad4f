package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/berthcare/larder/client"
	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// serveEmbedded runs a server on the embedded store in this process. It returns the server's address and a function that
// stops the server.
func serveEmbedded() (address string, stop func(), err error) {
	quiet := slog.New(slog.DiscardHandler)
	st, err := store.New(store.Options{Redis: redis.Options{Mode: redis.Embedded, Logger: quiet}})
	if err != nil {
		return "", nil, err
	}
	if err := st.Redis.Connect(context.Background()); err != nil {
		st.Close()
		return "", nil, err
	}
	server := service.New(st, service.NewMetrics(), service.Options{Logger: quiet, DrainDelay: time.Nanosecond})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		st.Close()
		return "", nil, err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	stop = func() {
		server.Shutdown(context.Background())
		<-served
		st.Close()
	}
	if err := awaitReady(lis.Addr().String()); err != nil {
		stop()
		return "", nil, err
	}
	return lis.Addr().String(), stop, nil
}

// awaitReady waits until the server at an address reports that it is ready.
func awaitReady(address string) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: "ready"})
	for err == nil {
		var r *healthpb.HealthCheckResponse
		if r, err = watch.Recv(); r.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
	}
	return err
}

// example calls use with a client of an embedded server and prints the error with which it ends.
func example(use func(ctx context.Context, larder *client.Client) error) {
	address, stop, err := serveEmbedded()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	larder, err := client.New(client.Options{Target: address, Namespace: "shop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer larder.Close()
	if err := use(context.Background(), larder); err != nil {
		fmt.Println(err)
	}
}

func ExampleNew() {
	larder, err := client.New(client.Options{Target: "larder.default.svc.cluster.local:50051", Namespace: "shop"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer larder.Close()
	fmt.Println(larder.Conn().Target())

	_, err = client.New(client.Options{Target: "https://larder.example:50051"})
	fmt.Println(err)
	// Output:
	// larder.default.svc.cluster.local:50051
	// larder: the scheme https:// of Target is that of a URL and not of a gRPC target; write "larder.example:50051" and set Options.TLS
}

func ExampleCache() {
	example(func(ctx context.Context, larder *client.Client) error {
		user, err := larder.Cache.Get(ctx, "user:1")
		if err != nil {
			return err
		}
		fmt.Println(user.Outcome, user.Found())

		set, err := larder.Cache.Set(ctx, "user:1", []byte("Ann"), client.SetOptions{TTL: time.Minute, IfAbsent: true})
		if err != nil {
			return err
		}
		fmt.Println(set.Outcome)

		user, err = larder.Cache.Get(ctx, "user:1")
		if err != nil {
			return err
		}
		fmt.Printf("%s %s\n", user.Outcome, user.Value)

		// Another caller overwrites the entry, so that the condition does not hold any more.
		if _, err := larder.Cache.Set(ctx, "user:1", []byte("Anna"), client.SetOptions{}); err != nil {
			return err
		}
		set, err = larder.Cache.Set(ctx, "user:1", []byte("Anne"), client.SetOptions{IfMatch: user.ETag})
		if err != nil {
			return err
		}
		fmt.Println(set.Outcome)

		deleted, err := larder.Cache.Delete(ctx, "user:1", client.DeleteOptions{})
		if err != nil {
			return err
		}
		fmt.Println(deleted.Outcome)
		return nil
	})
	// Output:
	// MISS false
	// STORED
	// HIT Ann
	// NOT_STORED
	// DELETED
}

func ExampleCache_GetOrLoad() {
	example(func(ctx context.Context, larder *client.Client) error {
		for range 2 {
			user, err := larder.Cache.GetOrLoad(ctx, "user:1", client.LoadOptions{}, func(context.Context) (client.LoadResult, error) {
				fmt.Println("loading from the database")
				return client.LoadResult{Value: []byte("Ann"), Options: client.SetOptions{TTL: time.Hour, Tags: []string{"users"}}}, nil
			})
			if err != nil {
				return err
			}
			fmt.Printf("%s\n", user.Value)
		}
		return nil
	})
	// Output:
	// loading from the database
	// Ann
	// Ann
}

func ExampleCache_Increment() {
	example(func(ctx context.Context, larder *client.Client) error {
		visits, err := larder.Cache.Increment(ctx, "visits", 3, client.IncrementOptions{TTL: time.Hour})
		if err != nil {
			return err
		}
		fmt.Println(visits.Outcome, visits.Value, visits.TTL > 59*time.Minute)

		if _, err := larder.Cache.Set(ctx, "user:1", []byte("Ann"), client.SetOptions{}); err != nil {
			return err
		}
		_, err = larder.Cache.Increment(ctx, "user:1", 1, client.IncrementOptions{})
		fmt.Println(errors.Is(err, client.ErrNotCounter))
		return nil
	})
	// Output:
	// INCREMENTED 3 true
	// true
}

func ExampleCache_DeleteMatching() {
	example(func(ctx context.Context, larder *client.Client) error {
		for _, key := range []string{"user:1", "user:2", "order:1"} {
			if _, err := larder.Cache.Set(ctx, key, nil, client.SetOptions{}); err != nil {
				return err
			}
		}
		for progress, err := range larder.Cache.DeleteMatching(ctx, "user:*", client.DeleteMatchingOptions{}) {
			if err != nil {
				return err
			}
			if progress.Done {
				fmt.Println("deleted", progress.Deleted)
			}
		}
		for key, err := range larder.Cache.ListKeys(ctx, "*", client.ListKeysOptions{}) {
			if err != nil {
				return err
			}
			fmt.Println("left", key)
		}
		return nil
	})
	// Output:
	// deleted 2
	// left order:1
}

func ExampleError() {
	example(func(ctx context.Context, larder *client.Client) error {
		_, err := larder.Cache.Set(ctx, "", nil, client.SetOptions{})
		var e *client.Error
		if !errors.As(err, &e) {
			return err
		}
		fmt.Println(errors.Is(err, client.ErrInvalid), e.Code, e.Reason)
		for _, v := range e.Violations {
			fmt.Println(v.Field, v.Description)
		}
		return nil
	})
	// Output:
	// true InvalidArgument INVALID_FIELD
	// key must not be empty
}

func ExampleSessions() {
	example(func(ctx context.Context, larder *client.Client) error {
		// The token goes to the browser. Larder does not store it and cannot return it again.
		token, _, err := larder.Sessions.Create(ctx, "ann", client.CreateOptions{
			Attributes:  map[string]string{"cart": "3 books"},
			IdleTimeout: 10 * time.Minute,
			Device:      client.Device{Label: "Ann's phone"},
		})
		if err != nil {
			return err
		}

		session, err := larder.Sessions.Validate(ctx, token, client.ValidateOptions{})
		if err != nil {
			return err // if it is ErrInactive, the user has to log in
		}
		fmt.Println(session.Subject, session.Attributes["cart"])

		// Two requests change the cart at once. The second one notices that it has seen an old version.
		update := client.UpdateOptions{Set: map[string]string{"cart": "4 books"}, ExpectedVersion: session.Version}
		updated, err := larder.Sessions.Update(ctx, client.ByToken(token), update)
		if err != nil {
			return err
		}
		fmt.Println("version", updated.Version)
		_, err = larder.Sessions.Update(ctx, client.ByToken(token), update)
		fmt.Println(errors.Is(err, client.ErrVersionMismatch))

		for s, err := range larder.Sessions.ListSubject(ctx, "ann", client.ListSubjectOptions{Current: client.ByID(session.ID)}) {
			if err != nil {
				return err
			}
			fmt.Println(s.Device.Label, s.Current)
		}

		revoked, err := larder.Sessions.RevokeSubject(ctx, "ann", client.RevokeSubjectOptions{})
		if err != nil {
			return err
		}
		fmt.Println("revoked", revoked)
		_, err = larder.Sessions.Validate(ctx, token, client.ValidateOptions{})
		fmt.Println(errors.Is(err, client.ErrInactive))
		return nil
	})
	// Output:
	// ann 3 books
	// version 2
	// true
	// Ann's phone true
	// revoked 1
	// true
}

func ExampleTokens() {
	example(func(ctx context.Context, larder *client.Client) error {
		issued, err := larder.Tokens.Issue(ctx, "ann", "verify-email", client.TokenCode, client.IssueOptions{Payload: "ann@example.com"})
		if err != nil {
			return err
		}
		fmt.Println("a code of", len(issued.Code), "digits, good for", issued.ExpiresIn)

		var refused *client.TokenError
		_, err = larder.Tokens.Consume(ctx, "verify-email", client.ByCode(issued.ID, "wrong"), client.ConsumeTokenOptions{Source: "203.0.113.7"})
		if errors.As(err, &refused) {
			fmt.Println(refused.Outcome, "attempts left:", refused.AttemptsLeft)
		}
		token, err := larder.Tokens.Consume(ctx, "verify-email", client.ByCode(issued.ID, issued.Code), client.ConsumeTokenOptions{Source: "203.0.113.7"})
		if err != nil {
			return err
		}
		fmt.Println(token.Subject, "has verified", token.Payload)
		_, err = larder.Tokens.Consume(ctx, "verify-email", client.ByCode(issued.ID, issued.Code), client.ConsumeTokenOptions{})
		fmt.Println(err)
		return nil
	})
	// Output:
	// a code of 6 digits, good for 10m0s
	// INCORRECT attempts left: 4
	// ann has verified ann@example.com
	// larder: the token was used before
}

func ExampleTokens_ClaimOnce() {
	example(func(ctx context.Context, larder *client.Client) error {
		for range 2 {
			err := larder.Tokens.ClaimOnce(ctx, "https://issuer.example", "the jti of a JWT", 5*time.Minute)
			fmt.Println(err, errors.Is(err, client.ErrClaimed))
		}
		return nil
	})
	// Output:
	// <nil> false
	// larder: claimed before true
}

func ExampleTokens_ClaimCounter() {
	example(func(ctx context.Context, larder *client.Client) error {
		for _, step := range []int64{59848123, 59848123, 59848122, 59848124} {
			last, err := larder.Tokens.ClaimCounter(ctx, "totp", "ann", step, 0)
			fmt.Println(last, err == nil)
		}
		return nil
	})
	// Output:
	// 59848123 true
	// 59848123 false
	// 59848123 false
	// 59848124 true
}

func ExampleTokens_Exchange() {
	example(func(ctx context.Context, larder *client.Client) error {
		issued, err := larder.Tokens.Issue(ctx, "ann", "password-reset", client.TokenCode, client.IssueOptions{RevokeSessions: true})
		if err != nil {
			return err
		}
		grant, err := larder.Tokens.Exchange(ctx, "password-reset", client.ByCode(issued.ID, issued.Code), client.ExchangeOptions{GrantBinding: "cookie"})
		if err != nil {
			return err
		}
		fmt.Println("a grant of", grant.Subject)
		_, err = larder.Tokens.Consume(ctx, "password-reset.grant", client.ByLink(grant.Link), client.ConsumeTokenOptions{Binding: "another cookie"})
		fmt.Println(err)
		_, err = larder.Tokens.Consume(ctx, "password-reset.grant", client.ByLink(grant.Link), client.ConsumeTokenOptions{Binding: "cookie"})
		fmt.Println(err)
		return nil
	})
	// Output:
	// a grant of ann
	// larder: the token is not correct
	// <nil>
}
