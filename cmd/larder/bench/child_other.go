//go:build !linux

package bench

import "syscall"

// childAttributes returns nil: a child is in the process group of this process and gets the same Ctrl-C.
func childAttributes() *syscall.SysProcAttr { return nil }
