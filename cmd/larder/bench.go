package main

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

// benchCommand measures Larder beside the floor: the least that a gRPC server can cost, a bare grpc-go handler that
// answers the same bytes from memory. The two take turns in short rounds, so that whatever else the machine does slows
// both alike, and what counts is how they compare.
type benchCommand struct {
	Workload     []string         `enum:"near-get,redis-get,set,mixed,batchget,stampede,validate" default:"near-get,redis-get,set,mixed,batchget,stampede,validate" placeholder:"NAME" help:"What to measure: ${enum}; all by default."`
	Connections  int              `default:"4" help:"Connections to each server."`
	InFlight     int              `default:"64" help:"Callers, each with one call in flight."`
	ValueSize    setting.Bytes    `default:"1KiB" help:"Size of each value."`
	Keys         int              `default:"10000" help:"Number of entries, and of sessions."`
	Distribution string           `enum:"uniform,zipf" default:"uniform" help:"How keys are chosen: uniform, or zipf, where a few of them get most calls."`
	Duration     time.Duration    `default:"10s" help:"Time for each workload, which the servers share; warming up comes on top."`
	Rounds       int              `default:"10" help:"Rounds in which the servers take turns."`
	Target       string           `placeholder:"HOST:PORT" help:"A Larder that is running already; without it bench starts one."`
	TargetAdmin  string           `placeholder:"HOST:PORT" help:"Admin address of that Larder, for its CPU time and its round trips to Redis."`
	RedisURL     setting.RedisURL `env:"REDIS_URL" placeholder:"URL" help:"Redis of the Larder that bench starts, which takes all its settings from the environment. Without one bench starts a redis-server, or if there is none uses the embedded store."`
	Cluster      string           `name:"redis-cluster-nodes" env:"REDIS_CLUSTER_NODES" hidden:""`
	Sentinels    string           `name:"redis-sentinel-nodes" env:"REDIS_SENTINEL_NODES" hidden:""`
	Output       string           `enum:"text,json" default:"text" help:"Format of the result: text or json."`
	HTML         string           `name:"html" type:"path" placeholder:"FILE" help:"Write a page that draws the latencies, too."`
}

// check finds what kong cannot.
func (b *benchCommand) check() error {
	var faults []error
	for _, rule := range []struct {
		holds bool
		fault string
	}{
		{b.Connections >= 1, "--connections must be at least 1"},
		{b.InFlight >= 1, "--in-flight must be at least 1"},
		{b.Keys >= 1, "--keys must be at least 1"},
		{b.Rounds >= 1, "--rounds must be at least 1"},
		{b.Duration > 0, "--duration must be above zero"},
		{b.Target == "" || setting.IsAddr(b.Target), "--target must be host:port"},
		{b.TargetAdmin == "" || setting.IsAddr(b.TargetAdmin), "--target-admin must be host:port"},
		{b.TargetAdmin == "" || b.Target != "", "--target-admin is of use with --target alone"},
	} {
		if !rule.holds {
			faults = append(faults, errors.New(rule.fault))
		}
	}
	return errors.Join(faults...)
}

// Run measures each workload and shows the results, those that it has if ctx ends early. It returns an error if calls
// failed or if not everything was measured.
func (b *benchCommand) Run(ctx context.Context, stdout io.Writer) error {
	if err := b.check(); err != nil {
		return err
	}
	page := io.Discard
	if b.HTML != "" {
		file, err := os.Create(b.HTML) // now, not after minutes
		if err != nil {
			return err
		}
		defer file.Close()
		page = file
	}
	report, err := b.measure(ctx)
	if len(report.Workloads) == 0 {
		return err
	}
	show := report.text
	if b.Output == "json" {
		show = report.json
	}
	return errors.Join(show(stdout), report.html(page), err)
}

// measure starts the servers, measures the workloads and stops the servers.
func (b *benchCommand) measure(ctx context.Context) (r *benchReport, err error) {
	r = newBenchReport(b)
	load := newBenchLoad(b)
	larder, floor := &benchSide{name: "larder"}, &benchSide{name: "floor"}
	defer larder.close()
	defer floor.close()
	for _, start := range []func(context.Context) error{
		func(ctx context.Context) error { return floor.startFloor(ctx, b.Connections) },
		func(ctx context.Context) error { return b.startLarder(ctx, larder) },
	} {
		if err := start(ctx); err != nil {
			return r, err
		}
	}
	r.Redis = larder.redis
	if !larder.throwaway {
		defer func() { err = errors.Join(err, load.remove(ctx, larder)) }()
	}

	chosen := slices.DeleteFunc(slices.Clone(benchWorkloads), func(w benchWorkload) bool { return !slices.Contains(b.Workload, w.name) })
	progress := newBenchProgress(chosen, b.Rounds)
	defer progress.end()
	for _, w := range chosen {
		if err := load.prepare(ctx, w.needs, larder, floor); err != nil && ctx.Err() == nil {
			return r, fmt.Errorf("%s: %w", w.name, err)
		}
		if ctx.Err() == nil {
			result := load.measure(ctx, w, larder, floor, progress)
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

// startLarder connects to the target, or else starts Larder with a Redis for it.
func (b *benchCommand) startLarder(ctx context.Context, s *benchSide) error {
	if b.Target != "" {
		addr, err := setting.DialAddr(b.Target)
		if err != nil {
			return err
		}
		s.setMetrics(b.TargetAdmin)
		return s.dial(addr, b.Connections)
	}
	url := string(b.RedisURL)
	if url == "" && b.Cluster == "" && b.Sentinels == "" {
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
	// A server without a password; with one, or with several servers, what they execute is not counted.
	if addr, plain := strings.CutPrefix(url, "redis://"); plain && setting.IsAddr(addr) {
		s.redisAddr = addr
	}
	var env []string
	if url != "" {
		env = []string{"REDIS_URL=" + url}
	}
	return s.startLarder(ctx, env, b.Connections)
}
