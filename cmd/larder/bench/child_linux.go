package bench

import "syscall"

// childAttributes lets the kernel send SIGTERM to a child when this process ends, however it ends, and puts the child into
// a process group of its own, so that Ctrl-C on the terminal reaches this process alone. The kernel sends that signal when
// the thread that started the child ends; Go ends only threads that are locked to a goroutine.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
