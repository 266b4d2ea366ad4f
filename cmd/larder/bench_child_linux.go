package main

import "syscall"

// childAttributes has a child end with this process, however that ends, and keeps from it the Ctrl-C that is meant for
// this process. The kernel sees the end of a parent in that of the thread that started the child, and Go ends no thread
// that is not locked to a goroutine.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
