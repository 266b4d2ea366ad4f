//go:build !linux

package lardertest

import "syscall"

// processAttributes returns nil: only Linux can end the command together with the test process.
func processAttributes() *syscall.SysProcAttr { return nil }
