package check

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose loads the file against the specification's schema, which refuses unknown keys.
func compose(t *testing.T) *types.Project {
	t.Helper()
	project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  "..",
		ConfigFiles: []types.ConfigFile{{Filename: "../compose.yaml"}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) { o.SkipResolveEnvironment = true })
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestComposeLarder(t *testing.T) {
	project := compose(t)
	if names := project.ServiceNames(); !slices.Equal(names, []string{"larder", "redis"}) {
		t.Fatalf("services are %v", names)
	}
	larder, redis := project.Services["larder"], project.Services["redis"]

	if larder.Build == nil || larder.Build.Context == "" {
		t.Error("larder is not built from the repository")
	}
	if after := larder.DependsOn["redis"]; after.Condition != types.ServiceConditionHealthy {
		t.Errorf("larder waits for redis to be %q, want %q", after.Condition, types.ServiceConditionHealthy)
	}
	if url := larder.Environment["REDIS_URL"]; url == nil || *url != "redis://"+redis.Name+":6379" {
		t.Error("REDIS_URL does not name the redis service")
	}
	if !larder.ReadOnly || !slices.Equal(larder.CapDrop, []string{"ALL"}) ||
		!slices.Contains(larder.SecurityOpt, "no-new-privileges:true") {
		t.Error("larder is not confined: want read_only, cap_drop ALL and no-new-privileges")
	}

	c := render(t)
	least := duration(t, c.config.Data["LARDER_DRAIN_DELAY"]) + duration(t, c.config.Data["LARDER_STOP_TIMEOUT"]) + 5*time.Second
	if larder.StopGracePeriod == nil || time.Duration(*larder.StopGracePeriod) <= least {
		t.Errorf("stop_grace_period is not above %v", least)
	}
	var targets []int32
	for _, port := range larder.Ports {
		targets = append(targets, int32(port.Target))
	}
	if exposed := exposedPorts(t); !slices.Equal(targets, exposed) {
		t.Errorf("larder publishes %v, the image exposes %v", targets, exposed)
	}
}

func TestComposeRedis(t *testing.T) {
	project := compose(t)
	redis := project.Services["redis"]
	if redis.Image != "redis:7-alpine" {
		t.Errorf("redis runs %q", redis.Image)
	}
	want := types.ShellCommand{"redis-server", "--appendonly", "yes", "--maxmemory-policy", "noeviction"}
	if !slices.Equal(redis.Command, want) {
		t.Errorf("redis runs %q, want %q", redis.Command, want)
	}
	if len(redis.Volumes) != 1 || redis.Volumes[0].Source != "redis_data" || redis.Volumes[0].Target != "/data" {
		t.Errorf("redis keeps its data in %+v", redis.Volumes)
	}
	if _, declared := project.Volumes["redis_data"]; !declared {
		t.Error("volume redis_data is not declared")
	}
	check := redis.HealthCheck
	if check == nil || check.Interval == nil || check.Timeout == nil || check.Retries == nil {
		t.Fatal("redis has no complete healthcheck")
	}
	if !slices.Equal(check.Test, types.HealthCheckTest{"CMD", "redis-cli", "ping"}) ||
		time.Duration(*check.Interval) != 10*time.Second || time.Duration(*check.Timeout) != 3*time.Second || *check.Retries != 3 {
		t.Errorf("redis is checked by %v every %v within %v, %d times", check.Test, check.Interval, check.Timeout, *check.Retries)
	}
}

// Redis has no password here, and Docker publishes past the host's firewall.
func TestComposePublishesOnLoopbackAlone(t *testing.T) {
	for name, service := range compose(t).Services {
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %d on %q", name, port.Target, port.HostIP)
			}
		}
	}
}
