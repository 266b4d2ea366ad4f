package bench

import (
	"context"
	"encoding/json"
	"os"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berthcare/larder/cmd/larder/setting"
)

// maxMessage is the maximum size of a gRPC message of the callers and of the floor.
const maxMessage = 64 << 20

// A server is one of the servers that are compared: Larder or the floor.
type server struct {
	name     string
	conns    []*grpc.ClientConn
	children []*child // the processes started for it: a redis-server if any, then the server itself
	pid      int      // process id of the server; 0 for a target, whose process is unknown
	metrics  string   // URL of its Prometheus metrics; empty for none
	redis    string   // mode and version of its Redis, as the server logs them
	// redisAddr is the address at which bench asks Redis for the commands it has executed; empty to ask nothing.
	redisAddr string
	holds     data     // what was written to it
	tokens    []string // of the sessions that it holds
	// throwaway is true if the data that the run writes is lost when the server's Redis stops.
	throwaway bool
	remove    func() // removes the files that were written for it; nil for none
}

// dial makes the connections, which the first calls establish. It uses neither a resolver nor a proxy.
func (s *server) dial(addr string, connections int) error {
	for range connections {
		conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
		if err != nil {
			return err
		}
		s.conns = append(s.conns, conn)
	}
	return nil
}

// close closes the connections and stops the processes.
func (s *server) close() {
	for _, conn := range s.conns {
		_ = conn.Close()
	}
	for _, c := range slices.Backward(s.children) {
		c.stop()
	}
	if s.remove != nil {
		s.remove()
	}
}

// setMetrics sets the URL of the metrics from an admin address; an empty address means that there are none.
func (s *server) setMetrics(admin string) {
	if addr, err := setting.DialAddr(admin); err == nil {
		s.metrics = "http://" + addr + "/metrics"
	}
}

// startFloor starts the floor.
func (s *server) startFloor(ctx context.Context, connections int) error {
	return s.start(ctx, "listening", connections, nil, "bench-floor")
}

// startLarder starts Larder with the settings of the environment, to which env is added.
func (s *server) startLarder(ctx context.Context, env []string, connections int) error {
	return s.start(ctx, "connected to redis", connections, env,
		"serve", "--grpc-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--drain-delay=0s", "--log-level=info", "--log-format=json")
}

// start runs this executable with other arguments, waits until that process logs a JSON record with the message, and dials
// the address that the process has logged.
func (s *server) start(ctx context.Context, message string, connections int, env []string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var listening, connected struct{ Msg, Grpc, Admin, Mode, Version string }
	c, err := startChild(ctx, "larder "+args[0], self, env, func(line []byte) bool {
		record := listening
		if json.Unmarshal(line, &record) != nil {
			return false
		}
		switch record.Msg {
		case "listening":
			listening = record
		case "connected to redis":
			connected = record
		}
		return record.Msg == message
	}, args...)
	if err != nil {
		return err
	}
	s.children = append(s.children, c)
	s.pid = c.command.Process.Pid
	s.setMetrics(listening.Admin)
	if s.redis = connected.Mode; connected.Version != connected.Mode { // they are the same for the embedded store
		s.redis += " " + connected.Version
	}
	return s.dial(listening.Grpc, connections)
}
