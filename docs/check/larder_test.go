package check

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthcare/larder/client"
)

// patience is how long a test waits for the server before it fails.
const patience = 60 * time.Second

// startLarder compiles Larder, serves it over a Redis and returns a client of it.
func startLarder(t *testing.T, redisURL string) *client.Client {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "larder")
	build := exec.Command("go", "build", "-o", binary, "./cmd/larder")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithCancel(context.Background())
	serve := exec.CommandContext(ctx, binary, "serve")
	serve.Env = append(os.Environ(), "REDIS_URL="+redisURL, "LARDER_GRPC_ADDR=127.0.0.1:0", "LARDER_ADMIN_ADDR=127.0.0.1:0", "LARDER_LOG_FORMAT=json")
	serve.WaitDelay = time.Second
	stdout, err := serve.StdoutPipe()
	if err != nil {
		t.Fatalf("StdoutPipe: %v", err)
	}
	if err := serve.Start(); err != nil {
		t.Fatalf("start larder serve: %v", err)
	}
	addr := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		listening := ""
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var line struct{ Msg, GRPC string }
			_ = json.Unmarshal(lines.Bytes(), &line)
			switch line.Msg {
			case "listening":
				listening = line.GRPC
			case "connected to redis":
				addr <- listening
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-read
		_ = serve.Wait()
	})
	select {
	case target := <-addr:
		c, err := client.New(client.Options{Target: target})
		if err != nil {
			t.Fatalf("client.New: %v", err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	case <-read:
		t.Fatal("larder serve ended, want it to connect to redis")
	case <-time.After(patience):
		t.Fatalf("larder serve is not connected to redis after %v, want it to be", patience)
	}
	return nil
}

// A fieldwise keeps sessions in Larder: it finds the session of a request by its cookie and writes single fields.
type fieldwise struct{ sessions *client.Sessions }

const cookie = "session"

type sessionKey struct{}

func (s fieldwise) load(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie(cookie); err == nil {
			session, err := s.sessions.Validate(r.Context(), c.Value, client.ValidateOptions{})
			if err != nil && !errors.Is(err, client.ErrInactive) {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, session))
		}
		next.ServeHTTP(w, r)
	})
}

func (s fieldwise) login(w http.ResponseWriter, r *http.Request) error {
	token, _, err := s.sessions.Create(r.Context(), "ann", client.CreateOptions{Attributes: map[string]string{"user": "ann"}})
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: token, Path: "/", HttpOnly: true})
	return err
}

func (s fieldwise) fields(r *http.Request) map[string]string {
	if session, _ := r.Context().Value(sessionKey{}).(*client.Session); session != nil {
		return session.Attributes
	}
	return nil
}

func (s fieldwise) set(r *http.Request, name, value string) error {
	c, err := r.Cookie(cookie)
	if err != nil {
		return err
	}
	_, err = s.sessions.Update(r.Context(), client.ByToken(c.Value), client.UpdateOptions{Set: map[string]string{name: value}})
	return err
}

func (s fieldwise) logout(r *http.Request) error {
	c, err := r.Cookie(cookie)
	if err != nil {
		return err
	}
	_, err = s.sessions.Revoke(r.Context(), client.ByToken(c.Value))
	return err
}
