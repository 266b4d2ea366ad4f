//go:build !linux

package main

import "syscall"

// childAttributes are none: a child gets the same Ctrl-C as this process.
func childAttributes() *syscall.SysProcAttr { return nil }
