package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// envoyDomain is the domain of the rate limit requests.
const envoyDomain = "larder-bench"

// envoyRules is a limit for each user that no run reaches.
const envoyRules = "domain: " + envoyDomain + "\ndescriptors:\n  - {key: user_id, rate_limit: {name: per-user, unit: minute, requests_per_unit: 4294967295}}\n"

// envoyEnv writes the rules into a folder of their own, and returns the environment with which Larder serves them and a
// function that removes the folder. A request that Redis does not decide fails, and is no quick success.
func envoyEnv() (env []string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "larder-bench-")
	if err != nil {
		return nil, nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	path := filepath.Join(dir, "rules.yaml")
	if err := os.WriteFile(path, []byte(envoyRules), 0o600); err != nil {
		remove()
		return nil, nil, err
	}
	return []string{"LARDER_ENVOY_RATELIMIT_CONFIG=" + path, "LARDER_ENVOY_RATELIMIT_FAILURE_POLICY=error"}, remove, nil
}

// shouldRateLimit asks about one descriptor, as Envoy does for each request.
func shouldRateLimit(ctx context.Context, c *caller) (int, error) {
	r, err := c.envoy.ShouldRateLimit(ctx, &envoy.RateLimitRequest{Domain: envoyDomain, Descriptors: []*common.RateLimitDescriptor{
		{Entries: []*common.RateLimitDescriptor_Entry{{Key: "user_id", Value: c.namespace + c.keys[c.choose()]}}},
	}})
	if err != nil {
		return 0, err
	}
	if r.GetOverallCode() != envoy.RateLimitResponse_OK || r.GetStatuses()[0].GetCurrentLimit() == nil {
		return 0, fmt.Errorf("ShouldRateLimit returned %v, want OK and a limit", r)
	}
	return 1, nil
}

// A floorEnvoy answers rate limit requests as Larder answers those of the workload.
type floorEnvoy struct {
	envoy.UnimplementedRateLimitServiceServer
}

var floorEnvoyOK = &envoy.RateLimitResponse{
	OverallCode: envoy.RateLimitResponse_OK,
	Statuses: []*envoy.RateLimitResponse_DescriptorStatus{{
		Code:           envoy.RateLimitResponse_OK,
		CurrentLimit:   &envoy.RateLimitResponse_RateLimit{Name: "per-user", RequestsPerUnit: 4294967295, Unit: envoy.RateLimitResponse_RateLimit_MINUTE},
		LimitRemaining: 4294967294, DurationUntilReset: &durationpb.Duration{Seconds: 30},
	}},
}

// ShouldRateLimit allows every request.
func (floorEnvoy) ShouldRateLimit(context.Context, *envoy.RateLimitRequest) (*envoy.RateLimitResponse, error) {
	return floorEnvoyOK, nil
}
