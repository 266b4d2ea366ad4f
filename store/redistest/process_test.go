package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// orphanEnv makes the test binary start a server and wait to be killed.
const orphanEnv = "REDISTEST_ORPHAN"

func TestMain(m *testing.M) {
	if os.Getenv(orphanEnv) != "" {
		s, _, err := StartMain(Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.Addr)
		select {}
	}
	os.Exit(m.Run())
}

// pids returns the process ids of running servers.
func pids(servers ...*Server) []int {
	list := make([]int, len(servers))
	for i, s := range servers {
		list[i] = s.process().pid()
	}
	return list
}

// wantGone fails the test for each process that still exists.
func wantGone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is left (%v), want it gone", pid, err)
		}
	}
}

func TestCleanup(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	var left []int
	t.Run("run", func(t *testing.T) {
		running, paused, killed := Start(t, Options{}), Start(t, Options{}), Start(t, Options{})
		left = pids(running, paused, killed)
		paused.Pause(t)
		killed.Kill()
	})
	wantGone(t, left)
	if dirs, _ := filepath.Glob(filepath.Join(temp, "redistest-*")); len(dirs) > 0 {
		t.Errorf("directories %v are left, want none", dirs)
	}
}

func TestKilledProgramLeavesNoServer(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), orphanEnv+"=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("StdoutPipe = %v, want no error", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("Start = %v, want no error", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	addr := strings.TrimSpace(line)
	if _, _, bad := net.SplitHostPort(addr); err != nil || bad != nil {
		t.Fatalf("the program printed %q, %v, want an address", line, err)
	}
	eventually(t, func() error {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return nil //nolint:nilerr // that nobody answers is what is waited for
		}
		conn.Close()
		return errors.New("the server outlived the program")
	})
}
