package client_test

import (
	_ "embed"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	tokenv1 "github.com/berthcare/larder/gen/larder/token/v1"
)

//go:embed service_config.json
var serviceConfig string

// methods returns the full names of the methods whose idempotency_level allows retries, or of the others.
func methods(safe bool) (names []string) {
	for _, file := range []protoreflect.FileDescriptor{
		cachev1.File_larder_cache_v1_cache_proto, sessionv1.File_larder_session_v1_session_proto, ratelimitv1.File_larder_ratelimit_v1_ratelimit_proto,
		tokenv1.File_larder_token_v1_token_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				level := m.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel()
				if safe == (level == descriptorpb.MethodOptions_IDEMPOTENT || level == descriptorpb.MethodOptions_NO_SIDE_EFFECTS) {
					names = append(names, string(service.FullName())+"/"+string(m.Name()))
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

func TestServiceConfigRetriesExactlyTheIdempotentMethods(t *testing.T) {
	t.Parallel()
	var config struct {
		MethodConfig []struct {
			Name        []struct{ Service, Method string }
			RetryPolicy map[string]any
		}
	}
	if err := json.Unmarshal([]byte(serviceConfig), &config); err != nil {
		t.Fatalf("service_config.json: error %v, want valid JSON", err)
	}
	var got []string
	for _, c := range config.MethodConfig {
		for _, n := range c.Name {
			got = append(got, n.Service+"/"+n.Method)
		}
		want := map[string]any{
			"maxAttempts": 4.0, "initialBackoff": "0.05s", "maxBackoff": "5s", "backoffMultiplier": 2.0,
			"retryableStatusCodes": []any{"UNAVAILABLE"},
		}
		if diff := cmp.Diff(want, c.RetryPolicy); diff != "" {
			t.Errorf("retryPolicy (-want +got):\n%s", diff)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(methods(true), got); diff != "" {
		t.Errorf("methods with a retryPolicy (-want +got):\n%s", diff)
	}
}

// TestServiceConfigWorksWithoutThisClient: gRPC itself, as in other languages, balances and retries as the file says.
func TestServiceConfigWorksWithoutThisClient(t *testing.T) {
	t.Parallel()
	ready, unready := serve(t, refuse("0")), serve(t, refuse("0"))
	unready.health.Shutdown()
	o := over(ready, unready)
	conn, err := grpc.NewClient(o.Target, append(o.DialOptions, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(serviceConfig))...)
	if err != nil {
		t.Fatalf("NewClient = error %v, want none", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	rpc := cachev1.NewCacheServiceClient(conn)
	if _, err := rpc.Get(t.Context(), &cachev1.GetRequest{Key: "k"}); err == nil || ready.calls() != 4 {
		t.Errorf("Get = error %v after %d calls, want one after 4", err, ready.calls())
	}
	if _, err := rpc.Increment(t.Context(), &cachev1.IncrementRequest{Key: "k"}); err == nil || ready.calls() != 5 {
		t.Errorf("Increment = error %v after %d calls in all, want one after 5", err, ready.calls())
	}
	if n := unready.calls(); n != 0 {
		t.Errorf("the backend that is not ready got %d calls, want 0", n)
	}
}
