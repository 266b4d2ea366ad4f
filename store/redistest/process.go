package redistest

import (
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pollInterval is the pause between two looks at a condition.
const pollInterval = 10 * time.Millisecond

// stopTimeout leaves room for redis-server's default shutdown-timeout of 10 s.
const stopTimeout = 15 * time.Second

// process is one run of redis-server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once the process is gone and reaped
}

// spawn runs bin in dir, appending its output to the file log.
func spawn(bin, dir, log string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(bin, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	if err := startBound(cmd); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

func (p *process) kill() {
	_ = p.signal(syscall.SIGCONT)
	_ = p.signal(syscall.SIGKILL)
	<-p.done
}

func (p *process) terminate() {
	_ = p.signal(syscall.SIGTERM)
	_ = p.signal(syscall.SIGCONT) // a paused process takes no other signal
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.kill()
	}
}

// poll calls f until it returns nil, and gives up with its last error after
// the timeout.
func poll(timeout time.Duration, f func() error) error {
	deadline := time.Now().Add(timeout)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pollInterval) //nolint:forbidigo // polls what has no event
	}
}

// startAll starts one server for each element of options, all at once.
func startAll(options []Options, flags ...string) ([]*Server, error) {
	servers := make([]*Server, len(options))
	errs := make([]error, len(options))
	var wg sync.WaitGroup
	for i, o := range options {
		wg.Go(func() { servers[i], errs[i] = start(o, flags...) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		closeAll(servers)
		return nil, err
	}
	return servers, nil
}

// onCleanup stops servers when the test ends, showing their logs if it failed.
func onCleanup(tb testing.TB, stop func(), servers ...*Server) {
	tb.Cleanup(func() {
		if tb.Failed() {
			for _, s := range servers {
				tb.Logf("log of redis-server %s:\n%s", s.Addr, s.log(0))
			}
		}
		stop()
	})
}

// closeAll closes servers, some of which may be nil.
func closeAll(servers []*Server) {
	for _, s := range servers {
		if s != nil {
			s.close()
		}
	}
}
