package redistest

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// spawner runs functions on one OS thread that lives as long as the program.
// The kernel sends Pdeathsig when the thread that started a child exits, which
// on any other thread could be long before the test binary does.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// startBound starts cmd so that it dies with this program, however that ends.
func startBound(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := make(chan error)
	spawner() <- func() { err <- cmd.Start() }
	return <-err
}
