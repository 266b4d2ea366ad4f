package lardertest

import "syscall"

// processAttributes lets the kernel kill the command when the test process ends without running its cleanups.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
