// Package client calls Larder, the shared cache and session store, over gRPC.
//
// A [Client] with the zero [Options] calls a server on this machine. In Kubernetes the target is the headless service,
// so that calls are spread over all replicas that are ready:
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
// A miss is an [Outcome] and not an error, so that a cold cache can be told from one that is down:
//
//	user, err := larder.Cache.Get(ctx, "user:1")
//	if err != nil {
//		log.Warn("cache", "error", err) // and read from the database
//	}
//	if !user.Found() {
//		value := load(1)
//		_, err = larder.Cache.Set(ctx, "user:1", value, client.SetOptions{TTL: time.Minute, Tags: []string{"users"}})
//	}
//
// [Cache.GetOrLoad] does this with one caller loading at a time across the whole cluster.
//
// Walks and watches are iterators. Leaving the loop ends them:
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
// [Sessions.Create] returns the token once. [Sessions.Validate] returns a session only while it is active:
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
// # One-time tokens
//
// [Tokens.Issue] returns the secret once. [Tokens.Consume] returns a token only when it accepts one, which it does once:
//
//	token, err := larder.Tokens.Issue(ctx, "ann", "password-reset", client.TokenLink, client.IssueOptions{RevokeSessions: true})
//	...
//	_, err = larder.Tokens.Consume(ctx, "password-reset", client.ByLink(link), client.ConsumeTokenOptions{Source: ip})
//	var refused *client.TokenError
//	switch {
//	case errors.As(err, &refused):
//		return http.StatusForbidden
//	case err != nil:
//		return http.StatusServiceUnavailable
//	}
//
// # Errors
//
// A call that fails returns an [*Error] with the server's code, reason, invalid fields and advice when to retry. Match it
// with [errors.Is] and [ErrUnavailable], [ErrInvalid], [ErrVersionMismatch] and so on. The errors about the state of a
// session, such as [ErrInactive], [ErrStepUpRequired] and [*LimitError], are not an [*Error], because the call succeeded; neither are a
// [*TokenError] and [ErrClaimed].
//
// # Deadlines and retries
//
// A call whose context has no deadline gets [Options].Timeout, 5 s by default. A call that fails with UNAVAILABLE, and
// with no other code, is retried within that deadline, for up to [Options].MaxAttempts attempts, after 50 ms doubling to
// 5 s with full jitter. Only methods that the proto files declare idempotent are retried, except a Set or Delete with a
// condition. The client follows the server's RetryInfo and its grpc-retry-pushback-ms trailer.
//
// # Compatibility
//
// A server may be newer than this package. An enum value that the package does not know becomes [Unrecognized], and an
// event of [Cache.Watch] that it does not know becomes a [WatchReset].
//
// # Other languages
//
// The file service_config.json beside this package makes gRPC itself balance, check health and retry by the same rules.
// This client does not use it: its interceptors retry, and it turns gRPC's own retries off because two layers would
// multiply each other. gRPC cannot know that a conditional Set or Delete should not be retried: a caller with this file
// may be told that its own successful write was another caller's.
package client
