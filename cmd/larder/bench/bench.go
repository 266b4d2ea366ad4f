// Package bench is the command `larder bench`. It measures Larder and the floor side by side. The floor is a bare grpc-go
// server that answers the same bytes from memory: the least that a gRPC server can cost.
//
// Both servers run as child processes of the command and take turns in short rounds, so that whatever else the machine
// does slows both alike. What counts is the ratio between them.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/berthcare/larder/cmd/larder/setting"
)

// Command measures the chosen workloads and writes a report.
type Command struct {
	// Version is the version of Larder that the report names.
	Version string `kong:"-"`

	Workload     []string         `enum:"near-get,redis-get,set,mixed,batchget,stampede,validate,consume,consume-denied,should-rate-limit,token,lock" default:"near-get,redis-get,set,mixed,batchget,stampede,validate,consume,consume-denied,should-rate-limit,token,lock" placeholder:"NAME" help:"Workloads to measure: ${enum}. Default: all of them. A target is not measured with should-rate-limit, which needs rules of its own."`
	Connections  int              `default:"4" help:"Connections to each server."`
	InFlight     int              `default:"64" help:"Concurrent callers; each has one call in flight."`
	ValueSize    setting.Bytes    `default:"1KiB" help:"Size of each value."`
	Keys         int              `default:"10000" help:"Number of cache entries, and of sessions."`
	Distribution string           `enum:"uniform,zipf" default:"uniform" help:"Distribution of the keys that callers choose: uniform, or zipf, in which a few keys get most of the calls."`
	Duration     time.Duration    `default:"10s" help:"Measured time of each workload, shared by the servers. Warm-up comes on top."`
	Rounds       int              `default:"10" help:"Rounds of each workload; the servers take turns in each round."`
	Target       string           `placeholder:"HOST:PORT" help:"Address of a running Larder to measure. Without it, bench starts a Larder."`
	TargetAdmin  string           `placeholder:"HOST:PORT" help:"Admin address of that Larder; bench reads its CPU time and its round trips to Redis there."`
	RedisURL     setting.RedisURL `env:"REDIS_URL" placeholder:"URL" help:"Redis of the Larder that bench starts, which takes its other settings from the environment. Without it, bench starts a redis-server, or uses the embedded store if there is no redis-server."`
	Cluster      string           `name:"redis-cluster-nodes" env:"REDIS_CLUSTER_NODES" hidden:""`
	Sentinels    string           `name:"redis-sentinel-nodes" env:"REDIS_SENTINEL_NODES" hidden:""`
	Output       string           `enum:"text,json" default:"text" help:"Format of the report on standard output: text or json."`
	HTML         string           `name:"html" type:"path" placeholder:"FILE" help:"File to write the report to as an HTML page, with charts of the latencies."`
}

// check finds the mistakes in the flags that their types do not exclude.
func (c *Command) check() error {
	var faults []error
	for _, rule := range []struct {
		holds bool
		fault string
	}{
		{c.Connections >= 1, "--connections must be at least 1"},
		{c.InFlight >= 1, "--in-flight must be at least 1"},
		{c.Keys >= 1, "--keys must be at least 1"},
		{c.Rounds >= 1, "--rounds must be at least 1"},
		{c.Duration > 0, "--duration must be above zero"},
		{c.Target == "" || setting.IsAddr(c.Target), "--target must be host:port"},
		{c.TargetAdmin == "" || setting.IsAddr(c.TargetAdmin), "--target-admin must be host:port"},
		{c.Target == "" || !slices.Equal(c.Workload, []string{"should-rate-limit"}), "--workload=should-rate-limit needs rules of its own, which a --target does not have"},
		{c.TargetAdmin == "" || c.Target != "", "--target-admin requires --target"},
	} {
		if !rule.holds {
			faults = append(faults, errors.New(rule.fault))
		}
	}
	return errors.Join(faults...)
}

// Run measures each workload and writes the report to stdout. If ctx ends early the report has the rounds that are
// complete. Run returns an error if a call failed or if a workload was not measured.
func (c *Command) Run(ctx context.Context, stdout io.Writer) error {
	if err := c.check(); err != nil {
		return err
	}
	page := io.Discard
	if c.HTML != "" {
		file, err := os.Create(c.HTML) // fail now, not after the measurement
		if err != nil {
			return err
		}
		defer file.Close()
		page = file
	}
	r, err := c.measure(ctx)
	if len(r.Workloads) == 0 {
		return err
	}
	show := r.text
	if c.Output == "json" {
		show = r.json
	}
	return errors.Join(show(stdout), r.html(page), err)
}

// measure starts the servers, measures the workloads and stops the servers.
func (c *Command) measure(ctx context.Context) (r *report, err error) {
	r = newReport(c)
	l := newLoad(c)
	larder, floor := &server{name: "larder"}, &server{name: "floor"}
	defer larder.close()
	defer floor.close()
	if err := floor.startFloor(ctx, c.Connections); err != nil {
		return r, err
	}
	if err := c.startLarder(ctx, larder); err != nil {
		return r, err
	}
	r.Redis = larder.redis
	if !larder.throwaway {
		defer func() { err = errors.Join(err, l.remove(ctx, larder)) }()
	}

	chosen := slices.DeleteFunc(slices.Clone(workloads), func(w workload) bool {
		return !slices.Contains(c.Workload, w.name) || w.ownRules && c.Target != ""
	})
	p := newProgress(chosen, c.Rounds)
	defer p.end()
	for _, w := range chosen {
		if err := l.prepare(ctx, w.needs, larder, floor); err != nil && ctx.Err() == nil {
			return r, fmt.Errorf("%s: %w", w.name, err)
		}
		if ctx.Err() == nil {
			result := l.measure(ctx, w, larder, floor, p)
			if len(result.Larder.CallRates) > 0 {
				r.Workloads = append(r.Workloads, result)
			}
		}
	}
	if ctx.Err() != nil {
		r.Interrupted = true
		return r, errors.New("interrupted: not everything was measured")
	}
	if n := r.errors(); n > 0 {
		return r, fmt.Errorf("%d calls failed", n)
	}
	return r, nil
}

// startLarder connects to the target, or starts a Larder, with a Redis if the environment names none.
func (c *Command) startLarder(ctx context.Context, s *server) error {
	if c.Target != "" {
		addr, err := setting.DialAddr(c.Target)
		if err != nil {
			return err
		}
		s.setMetrics(c.TargetAdmin)
		return s.dial(addr, c.Connections)
	}
	url := string(c.RedisURL)
	if url == "" && c.Cluster == "" && c.Sentinels == "" {
		s.throwaway = true
		redis, started, err := startRedis(ctx)
		switch {
		case errors.Is(err, exec.ErrNotFound):
			url = string(setting.Embedded)
		case err != nil:
			return err
		default:
			s.children = append(s.children, redis)
			url = started
		}
	}
	// Executed commands are counted on one Redis without TLS and password: bench speaks to it over a plain connection.
	if addr, plain := strings.CutPrefix(url, "redis://"); plain && setting.IsAddr(addr) {
		s.redisAddr = addr
	}
	env, remove, err := envoyEnv()
	if err != nil {
		return err
	}
	s.remove = remove
	if url != "" {
		env = append(env, "REDIS_URL="+url)
	}
	return s.startLarder(ctx, env, c.Connections)
}
