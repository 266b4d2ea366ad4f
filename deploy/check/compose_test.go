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
		t.Fatalf("LoadWithContext: %v", err)
	}
	return project
}

func TestComposeLarder(t *testing.T) {
	project := compose(t)
	if names := project.ServiceNames(); !slices.Equal(names, []string{"larder", "redis"}) {
		t.Fatalf("compose.yaml has the services %v, want larder and redis", names)
	}
	larder, redis := project.Services["larder"], project.Services["redis"]

	if larder.Build == nil || larder.Build.Context == "" {
		t.Errorf("larder is built from %s, want a build with a context", shown(larder.Build))
	}
	if after := larder.DependsOn["redis"]; after.Condition != types.ServiceConditionHealthy {
		t.Errorf("larder waits for redis to be %q, want %q", after.Condition, types.ServiceConditionHealthy)
	}
	if url := larder.Environment["REDIS_URL"]; url == nil || *url != "redis://"+redis.Name+":6379" {
		t.Errorf("REDIS_URL = %s, want redis://%s:6379", shown(url), redis.Name)
	}
	if !larder.ReadOnly || !slices.Equal(larder.CapDrop, []string{"ALL"}) ||
		!slices.Contains(larder.SecurityOpt, "no-new-privileges:true") {
		t.Errorf("larder has read_only %v, cap_drop %v and security_opt %v, want true, [ALL] and no-new-privileges:true among them",
			larder.ReadOnly, larder.CapDrop, larder.SecurityOpt)
	}

	c := render(t)
	least := duration(t, c.config.Data["LARDER_DRAIN_DELAY"]) + duration(t, c.config.Data["LARDER_STOP_TIMEOUT"]) + 5*time.Second
	if larder.StopGracePeriod == nil || time.Duration(*larder.StopGracePeriod) <= least {
		t.Errorf("stop_grace_period = %s, want more than %v", shown(larder.StopGracePeriod), least)
	}
	var targets []int32
	for _, port := range larder.Ports {
		targets = append(targets, int32(port.Target))
	}
	if exposed := exposedPorts(t); !slices.Equal(targets, exposed) {
		t.Errorf("larder publishes %v, want what the image exposes, %v", targets, exposed)
	}
}

func TestComposeRedis(t *testing.T) {
	project := compose(t)
	redis := project.Services["redis"]
	if redis.Image != "redis:7-alpine" {
		t.Errorf("redis runs the image %q, want redis:7-alpine", redis.Image)
	}
	want := types.ShellCommand{"redis-server", "--appendonly", "yes", "--maxmemory-policy", "noeviction"}
	if !slices.Equal(redis.Command, want) {
		t.Errorf("redis runs %q, want %q", redis.Command, want)
	}
	if len(redis.Volumes) != 1 || redis.Volumes[0].Source != "redis_data" || redis.Volumes[0].Target != "/data" {
		t.Errorf("redis has the volumes %s, want redis_data at /data alone", shown(redis.Volumes))
	}
	if _, declared := project.Volumes["redis_data"]; !declared {
		t.Errorf("compose.yaml declares volumes %v, want redis_data among them", project.VolumeNames())
	}
	check := redis.HealthCheck
	if check == nil || check.Interval == nil || check.Timeout == nil || check.Retries == nil {
		t.Fatalf("redis has the healthcheck %s, want one with an interval, a timeout and retries", shown(check))
	}
	if !slices.Equal(check.Test, types.HealthCheckTest{"CMD", "redis-cli", "ping"}) ||
		time.Duration(*check.Interval) != 10*time.Second || time.Duration(*check.Timeout) != 3*time.Second || *check.Retries != 3 {
		t.Errorf("redis is checked by %v every %v within %v, %d times; want CMD redis-cli ping every 10s within 3s, 3 times",
			check.Test, check.Interval, check.Timeout, *check.Retries)
	}
}

// Redis has no password here, and Docker publishes past the host's firewall.
func TestComposePublishesOnLoopbackAlone(t *testing.T) {
	for name, service := range compose(t).Services {
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %d on %q, want 127.0.0.1", name, port.Target, port.HostIP)
			}
		}
	}
}
