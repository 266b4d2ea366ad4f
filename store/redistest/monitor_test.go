package redistest

import (
	"maps"
	"testing"
)

func TestMonitor(t *testing.T) {
	s := Start(t, Options{Password: "secret"})
	s.Do(t, "SET", "before", "v")
	m := s.StartMonitor(t)
	s.Do(t, "GET", `a "quoted" [0 lua] key`)
	s.Do(t, "CLIENT", "ID")
	s.Do(t, "EVAL", "redis.call('SET', 'k', 'v') return redis.call('GET', 'k')", "0")
	sent, scripted := m.Stop(t)
	delete(sent, "auth") // each command of Do has a connection of its own
	if !maps.Equal(sent, map[string]int64{"get": 1, "client|id": 1, "eval": 1}) || !maps.Equal(scripted, map[string]int64{"set": 1, "get": 1}) {
		t.Errorf("Stop = sent %v, called by scripts %v, want one each of GET, CLIENT ID and EVAL, and of SET and GET", sent, scripted)
	}
}
