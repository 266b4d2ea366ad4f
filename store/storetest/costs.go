package storetest

import (
	"testing"
)

// A Counter counts the commands that it runs: a server or a cluster.
type Counter interface {
	ResetCommandCalls(tb testing.TB)
	CommandCalls(tb testing.TB) map[string]int64
}

// background are the commands that connections and this package send by themselves, beside those of an operation.
var background = []string{
	"ping", "time", "role", "info", "cluster|nodes", "hello", "client|tracking", "client|no-evict", "client|setinfo", "config|resetstat", "cluster|slots", "cluster|shards",
}

// Costs returns the commands that Redis ran for an operation.
func Costs(t *testing.T, server Counter, op func()) map[string]int64 {
	t.Helper()
	server.ResetCommandCalls(t)
	op()
	return CommandCalls(t, server)
}

// CommandCalls returns the commands that Redis ran since they were last reset, less those in the background.
func CommandCalls(t *testing.T, server Counter) map[string]int64 {
	t.Helper()
	calls := server.CommandCalls(t)
	for _, name := range background {
		delete(calls, name)
	}
	return calls
}
