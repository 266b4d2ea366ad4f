// Package client calls Larder, the shared cache and session store, over gRPC.
//
// A client with the zero Options reaches a server on this machine. In Kubernetes the target is the headless service, so
// that calls go round over all replicas that are ready:
//
//	larder, err := client.New(client.Options{
//		Target:    "larder.default.svc.cluster.local:50051",
//		Namespace: "shop",
//	})
//	if err != nil {
//		return err
//	}
//	defer larder.Close()
//
// # Cache
//
// A miss is an outcome, not an error, so that a cache which is down can be told from one which is cold:
//
//	user, err := larder.Cache.Get(ctx, "user:1")
//	if err != nil {
//		log.Warn("cache", "error", err) // and go to the database
//	}
//	if !user.Found() {
//		value := load(1)
//		_, err = larder.Cache.Set(ctx, "user:1", value, client.SetOptions{TTL: time.Minute, Tags: []string{"users"}})
//	}
//
// Walks are ranged over. Leaving the loop ends the walk:
//
//	for progress, err := range larder.Cache.DeleteMatching(ctx, "user:*", client.DeleteMatchingOptions{}) {
//		if err != nil {
//			return err
//		}
//		log.Info("deleting", "so far", progress.Deleted)
//	}
//
// # Sessions
//
// Create shows the token once; Validate returns a session only while it is active:
//
//	token, _, err := larder.Sessions.Create(ctx, "ann", client.CreateOptions{IdleTimeout: 10 * time.Minute})
//	...
//	session, err := larder.Sessions.Validate(ctx, token, client.ValidateOptions{})
//	switch {
//	case errors.Is(err, client.ErrInactive):
//		return http.StatusUnauthorized
//	case err != nil:
//		return http.StatusServiceUnavailable
//	}
//	log.Info("hello", "subject", session.Subject)
//
// # Errors
//
// Every failed call returns an *Error with the server's code, reason, invalid fields and advice when to retry. Match it
// with errors.Is: ErrUnavailable, ErrInvalid, ErrVersionMismatch and so on. What a session lacks, ErrInactive,
// ErrStepUpRequired and the like, is not an *Error.
//
// # Deadlines and retries
//
// A call whose context has no deadline gets Options.Timeout. A call that failed with UNAVAILABLE, and with nothing else,
// is made again up to Options.MaxAttempts times within that deadline, after 50 ms doubling to 5 s with full jitter, if
// that is safe: the protocol declares which methods are idempotent, and a Set or Delete with a condition is not among
// them. RetryInfo and the grpc-retry-pushback-ms trailer of the server are obeyed.
//
// # Other languages
//
// The file service_config.json beside this package makes gRPC itself balance, check health and retry by the same rules.
// It is not for this client, whose interceptors do the retrying: two layers would multiply each other, so the client
// turns gRPC's own retries off. What gRPC cannot know is that a conditional Set or Delete is better not repeated; whoever
// uses the file for these should know that a repeated one may be told of its own success as of somebody else's.
package client
