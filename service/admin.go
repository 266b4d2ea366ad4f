package service

import (
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminHandler returns the HTTP handler for operators. It belongs on a port that callers cannot reach:
//
//	GET /health        JSON status; 200 while calls can be served, otherwise 503
//	GET /metrics       metrics in Prometheus' text format
//	GET /rlconfig      rules of Envoy's rate limits as text; only if they are served
//	/debug/pprof/      profiles of the process, which show its memory; only if profiles is true
func (s *Server) AdminHandler(profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.serveHealth)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{Timeout: 10 * time.Second}))
	if s.envoy != nil {
		mux.HandleFunc("GET /rlconfig", s.envoy.serveConfig)
	}
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// healthPage is the body of /health.
type healthPage struct {
	Status    string            `json:"status"`    // "ok", or "degraded" if some calls would fail or all
	Timestamp string            `json:"timestamp"` // RFC 3339, UTC, in milliseconds
	Services  map[string]string `json:"services"`  // "redis": "connected" or "disconnected"
	// Problems are what makes some calls fail, by kind.
	Problems map[string]string `json:"problems,omitempty"`
	// Warnings are the settings with which Redis may lose or evict acknowledged writes, by name, and what is wrong with each.
	Warnings map[string]string `json:"warnings,omitempty"`
}

func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	page, code := healthPage{
		Status:    "ok",
		Timestamp: time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00"),
		Services:  map[string]string{"redis": "connected"},
	}, http.StatusOK
	if !s.health.Redis() {
		page.Services["redis"] = "disconnected"
	}
	if page.Problems = s.health.Problems(); len(page.Problems) > 0 {
		page.Status = "degraded" // and ready: callers must not lose what works
	}
	if !s.health.Ready() {
		page.Status, code = "degraded", http.StatusServiceUnavailable
	}
	if s.warnings != nil {
		for _, warning := range s.warnings() {
			if page.Warnings == nil {
				page.Warnings = make(map[string]string)
			}
			page.Warnings[warning.Setting] = warning.Problem
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(page) // fails only if the client is gone
}
