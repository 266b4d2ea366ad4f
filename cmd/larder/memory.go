package main

import (
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryShare is the part of the memory of the container that the Go runtime may use before it collects garbage all the time. The
// rest is for what it does not count, such as the buffers of the kernel.
const memoryShare = 0.85

// setMemoryLimit makes the Go runtime heed the memory limit of the container, unless GOMEMLIMIT says what to heed. Without a limit
// it lets garbage grow to the size of what is in use, and the container is killed.
func setMemoryLimit() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if limit := memoryLimit("/proc/self/cgroup", "/sys/fs/cgroup"); limit > 0 {
		debug.SetMemoryLimit(int64(memoryShare * float64(limit)))
	}
}

// memoryLimit returns the least memory limit of the control groups that a process is in, in bytes; 0 if there is none. Membership
// is the file that lists the groups, and root where they are mounted. It knows version 2 of control groups, and of version 1 what
// a container sees of it.
func memoryLimit(membership, root string) (limit int64) {
	files := []string{path.Join(root, "memory", "memory.limit_in_bytes")}
	text, _ := os.ReadFile(membership) // absent where there are no control groups
	for line := range strings.Lines(string(text)) {
		if group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			for ; ; group = path.Dir(group) {
				files = append(files, path.Join(root, group, "memory.max"))
				if group == "/" || group == "." {
					break
				}
			}
		}
	}
	limit = math.MaxInt64
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 { // else it is "max"
			limit = min(limit, n)
		}
	}
	if limit > math.MaxInt64/2 { // version 1 has no other word for unlimited
		return 0
	}
	return limit
}
