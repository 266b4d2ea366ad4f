package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/service/edge/rls"
	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// serveCommand is `larder serve`.
type serveCommand struct {
	Config `embed:""`
	Check  bool `help:"Check the settings and the files that they name, then exit without connecting to Redis or serving."`
}

// Run serves until ctx ends, or checks the settings if --check is set.
func (s *serveCommand) Run(ctx context.Context, stdout io.Writer) error {
	p := program{config: s.Config, stdout: stdout}
	if err := p.prepare(); err != nil {
		return err
	}
	if s.Check {
		defer p.store.Close()
		_, err := fmt.Fprintf(stdout, "The settings are valid: %s.\n", p.redis())
		return err
	}
	if err := p.listen(ctx); err != nil {
		p.store.Close()
		return err
	}
	return p.serve(ctx)
}

// A program is a server with its settings, ports and log. Tests run it inside their own process, on free ports.
type program struct {
	config Config
	stdout io.Writer // receives the log

	log     *slog.Logger
	options store.Options
	store   *store.Store
	server  *service.Server
	policy  *policyFile     // nil without one
	keyring *keyringFile    // nil without one
	limits  *rateLimitFiles // nil without any
	grpc    net.Listener
	admin   net.Listener
}

// prepare checks the settings and makes everything that needs no network. It reads the files that the settings name.
func (p *program) prepare() error {
	options, serving, err := p.config.Options()
	if err != nil {
		return err
	}
	p.log = p.config.Log.logger(p.stdout)
	for _, hint := range p.config.hints {
		p.log.Warn(hint)
	}
	metrics := service.NewMetrics()
	options.Redis.Logger, options.Redis.Observer = p.log, metrics
	serving.Logger = p.log
	p.options = options
	if p.store, err = store.New(options); err != nil {
		return err
	}
	p.server = service.New(p.store, metrics, serving)
	if path := p.config.Secrecy.KeyringFile; path != "" {
		p.keyring = &keyringFile{path: path, keyring: options.Keyring, metrics: metrics, log: p.log}
	}
	if path := p.config.Policy.File; path != "" {
		p.policy = &policyFile{path: path, server: p.server, metrics: metrics, log: p.log}
		if _, err := p.policy.load(); err != nil {
			p.store.Close()
			return fmt.Errorf("LARDER_POLICY_FILE: %w", err)
		}
	}
	if paths := p.config.Envoy.Config; len(paths) > 0 {
		p.limits = &rateLimitFiles{
			paths: paths, options: rls.LoadOptions{MergeDomains: p.config.Envoy.MergeDomains}, server: p.server, metrics: metrics, log: p.log,
		}
		if _, err := p.limits.load(); err != nil {
			p.store.Close()
			return fmt.Errorf("LARDER_ENVOY_RATELIMIT_CONFIG: %w", err)
		}
	}
	return nil
}

// listen opens the ports. They are open before Larder connects to Redis, so that probes find a replica that is alive and not
// ready.
func (p *program) listen(ctx context.Context) (err error) {
	var ports net.ListenConfig
	if p.grpc, err = ports.Listen(ctx, "tcp", p.config.Serving.GRPCAddr); err != nil {
		return fmt.Errorf("LARDER_GRPC_ADDR: %w", err)
	}
	if p.admin, err = ports.Listen(ctx, "tcp", p.config.Serving.AdminAddr); err != nil {
		return errors.Join(fmt.Errorf("LARDER_ADMIN_ADDR: %w", err), p.grpc.Close())
	}
	return nil
}

// acceptDelay is the maximum time for which the kernel holds connections of callers in the gRPC port before the server
// accepts them. The server accepts them as soon as it is connected to Redis, which takes milliseconds, and a few hundred
// on an overloaded machine. Without the delay, callers that do not watch health would be sent UNAVAILABLE by a replica that
// has just restarted.
const acceptDelay = time.Second

// serve serves until ctx ends or a port fails, then stops the server, the admin port and the store in this order. It
// returns nil if ctx has ended.
func (p *program) serve(ctx context.Context) error {
	admin := &http.Server{
		Handler:           p.server.AdminHandler(p.config.Log.Pprof),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 2)
	connected := make(chan struct{})
	go func() {
		select {
		case <-connected:
		case <-time.After(acceptDelay):
		}
		ended <- p.server.Serve(p.grpc)
	}()
	go func() { ended <- admin.Serve(p.admin) }()
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stop()
	if p.policy != nil {
		watch.Go(func() { p.policy.watch(watching) })
	}
	if p.keyring != nil {
		watch.Go(func() { p.keyring.watch(watching) })
	}
	if p.limits != nil {
		watch.Go(func() { p.limits.watch(watching) })
	}
	p.log.Info("listening", "version", release(), "grpc", p.grpc.Addr().String(), "admin", p.admin.Addr().String())

	// The drain delay is for callers that use this replica. A replica that was never ready has none, and skips it.
	drain, skipDelay := context.WithCancel(context.WithoutCancel(ctx))
	defer skipDelay()
	err := p.connect(ctx)
	close(connected)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-ended:
		}
	} else {
		skipDelay()
	}
	if ctx.Err() != nil {
		err = nil
		p.log.Info("stopping", "drain_delay", p.config.Serving.DrainDelay, "stop_timeout", p.config.Serving.StopTimeout)
	}
	p.server.Shutdown(drain)
	_ = admin.Close() // after the server, so that /health and /metrics can be read until it has stopped
	p.store.Close()
	p.log.Info("stopped")
	return err
}

// connect connects to Redis within the startup timeout. Its error is one line that tells the operator what to check.
func (p *program) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.Serving.StartupTimeout)
	defer cancel()
	p.log.Info("connecting to redis", "redis", p.redis(), "timeout", p.config.Serving.StartupTimeout)
	start := time.Now()
	err := p.store.Redis.Connect(ctx)
	if err == nil {
		p.log.Info("connected to redis", "mode", p.store.Redis.Mode(), "version", p.store.Redis.Version(), "took", time.Since(start))
		p.hint()
		return nil
	}
	return p.unusable(err)
}

// redis names the Redis of the settings, without credentials.
func (p *program) redis() string {
	if p.options.Redis.Mode == redis.Embedded {
		return "redis embedded in this process"
	}
	return fmt.Sprintf("redis at %s (%s)", strings.Join(p.options.Redis.Addrs, ","), p.options.Redis.Mode)
}

// logger returns a logger that writes to standard output. Standard error is for the reason why the process has failed.
func (l logSettings) logger(stdout io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.Level(l.LogLevel)}
	if l.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(stdout, options))
	}
	options.ReplaceAttr = inMilliseconds
	return slog.New(slog.NewJSONHandler(stdout, options))
}

// inMilliseconds writes durations as numbers of one unit, which their names tell: slog writes nanoseconds.
func inMilliseconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() != slog.KindDuration {
		return a
	}
	return slog.Float64(a.Key+"_ms", float64(a.Value.Duration().Microseconds())/1000)
}
