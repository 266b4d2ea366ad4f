package check

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"sync"
	"testing"
)

// sessions is what a web application asks of its sessions, as a framework offers it.
type sessions interface {
	// load wraps a handler: it finds the session of a request before the handler runs, and stores it afterwards if the
	// framework does so.
	load(http.Handler) http.Handler
	// login starts a session and gives its cookie to the client.
	login(w http.ResponseWriter, r *http.Request) error
	// fields returns the data of the session of a request, nil if there is none.
	fields(r *http.Request) map[string]string
	// set writes one field of the session of a request.
	set(r *http.Request, name, value string) error
	// logout ends the session of a request.
	logout(r *http.Request) error
}

// concurrent is how many requests write to one session at once.
const concurrent = 4

// An app is a small web application: it is the same for every implementation of sessions.
type app struct {
	sessions sessions

	meet        sync.WaitGroup // requests that have loaded the session and have not yet written to it
	slowStarted chan struct{}  // closed when the slow request has loaded the session
	slowMayEnd  chan struct{}  // closed to let it write
}

// serve starts the application and returns a browser that has logged in.
func serve(t *testing.T, s sessions) (*app, *browser) {
	t.Helper()
	a := &app{sessions: s, slowStarted: make(chan struct{}), slowMayEnd: make(chan struct{})}
	a.meet.Add(concurrent)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) { answer(w, s.login(w, r)) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(s.fields(r)) })
	mux.HandleFunc("POST /fields/{name}", func(w http.ResponseWriter, r *http.Request) {
		a.meet.Done()
		a.meet.Wait() // all of them have loaded the session: what comes next is concurrent on any machine
		answer(w, s.set(r, r.PathValue("name"), "written"))
	})
	mux.HandleFunc("POST /slow", func(w http.ResponseWriter, r *http.Request) {
		close(a.slowStarted)
		<-a.slowMayEnd
		answer(w, s.set(r, "theme", "dark"))
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) { answer(w, s.logout(r)) })
	server := httptest.NewServer(s.load(mux))
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatalf("cookiejar.New: %v", err)
	}
	b := &browser{t: t, url: server.URL, client: &http.Client{Jar: jar}}
	t.Cleanup(b.client.CloseIdleConnections)
	b.post("/login")
	return a, b
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
	}
}

// A browser keeps the cookie of a session and sends requests with it.
type browser struct {
	t      *testing.T
	url    string
	client *http.Client
}

func (b *browser) post(path string) {
	reply, err := b.client.Post(b.url+path, "", nil)
	if err != nil {
		b.t.Errorf("POST %s: %v, want no error", path, err)
		return
	}
	_, _ = io.Copy(io.Discard, reply.Body)
	_ = reply.Body.Close()
}

// fields returns the data of the browser's session, nil if the application knows no session of it.
func (b *browser) fields() map[string]string {
	b.t.Helper()
	reply, err := b.client.Get(b.url + "/")
	if err != nil {
		b.t.Fatalf("GET /: %v", err)
	}
	defer reply.Body.Close()
	var fields map[string]string
	if err := json.NewDecoder(reply.Body).Decode(&fields); err != nil {
		b.t.Fatalf("decode the reply to GET /: %v", err)
	}
	return fields
}

// keptOf writes concurrent fields of one session at once and returns how many of them the session then has.
func keptOf(t *testing.T, s sessions) string {
	t.Helper()
	_, b := serve(t, s)
	var requests sync.WaitGroup
	for i := range concurrent {
		requests.Go(func() { b.post(fmt.Sprintf("/fields/field%d", i)) })
	}
	requests.Wait()
	fields := b.fields()
	if fields == nil {
		t.Fatal("fields = nil after four writes, want a session")
	}
	kept := 0
	for i := range concurrent {
		if fields[fmt.Sprintf("field%d", i)] == "written" {
			kept++
		}
	}
	return fmt.Sprintf("%d of %d", kept, concurrent)
}

// afterLogout logs out during a slow request and returns what has become of the session at the end of that request.
func afterLogout(t *testing.T, s sessions) string {
	t.Helper()
	a, b := serve(t, s)
	var slow sync.WaitGroup
	slow.Go(func() { b.post("/slow") })
	<-a.slowStarted
	b.post("/logout")
	if fields := b.fields(); fields != nil {
		t.Fatalf("fields = %v right after the logout, want nil", fields)
	}
	close(a.slowMayEnd)
	slow.Wait()
	if b.fields() != nil {
		return "active again"
	}
	return "ended"
}
