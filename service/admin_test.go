package service

import (
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHealthPage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name            string
		redis, draining bool
		code            int
		status, service string
	}{
		{"Ok", true, false, 200, "ok", "connected"},
		{"WithoutRedis", false, false, 503, "degraded", "disconnected"},
		{"ShuttingDown", true, true, 503, "degraded", "connected"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(whole, patient300ms, NewMetrics(), Options{})
			t.Cleanup(s.grpc.Stop)
			for _, b := range s.health.abilities {
				b.holds = tt.redis
			}
			s.health.draining = tt.draining
			w := httptest.NewRecorder()
			s.AdminHandler(false).ServeHTTP(w, httptest.NewRequest("GET", "/health", nil))

			var got struct {
				Status    string
				Timestamp string
				Services  map[string]string
			}
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatalf("body = %q, want JSON: %v", w.Body, err)
			}
			at, err := time.Parse("2006-01-02T15:04:05.000Z07:00", got.Timestamp)
			if err != nil || time.Since(at).Abs() > time.Minute {
				t.Errorf("timestamp = %q, %v, want the present time in UTC and milliseconds", got.Timestamp, err)
			}
			if w.Code != tt.code || got.Status != tt.status || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("answer = %d %q %s, want %d application/json with the status %s", w.Code, w.Header().Get("Content-Type"), w.Body, tt.code, tt.status)
			}
			if diff := cmp.Diff(map[string]string{"redis": tt.service}, got.Services); diff != "" {
				t.Errorf("services (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAdminPages(t *testing.T) {
	t.Parallel()
	s := newServer(whole, patient300ms, NewMetrics(), Options{})
	t.Cleanup(s.grpc.Stop)
	for _, tt := range []struct {
		method, path string
		profiles     bool
		code         int
	}{
		{"GET", "/metrics", false, 200},
		{"GET", "/debug/pprof/", false, 404},
		{"GET", "/debug/pprof/", true, 200},
		{"GET", "/debug/pprof/heap", true, 200},
		{"POST", "/health", false, 405},
		{"GET", "/", false, 404},
	} {
		w := httptest.NewRecorder()
		s.AdminHandler(tt.profiles).ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
		if w.Code != tt.code {
			t.Errorf("%s %s with profiles %v = %d, want %d", tt.method, tt.path, tt.profiles, w.Code, tt.code)
		}
	}
}
