package check

import (
	"net/http"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/v2"
	"github.com/redis/go-redis/v9"
)

// A wholeBlob keeps sessions with scs and its Redis store, used as its documentation shows.
type wholeBlob struct{ manager *scs.SessionManager }

func newWholeBlob(redis *redis.Client) wholeBlob {
	manager := scs.New()
	manager.Store = goredisstore.New(redis)
	return wholeBlob{manager}
}

func (s wholeBlob) load(next http.Handler) http.Handler { return s.manager.LoadAndSave(next) }

func (s wholeBlob) login(_ http.ResponseWriter, r *http.Request) error {
	if err := s.manager.RenewToken(r.Context()); err != nil {
		return err
	}
	s.manager.Put(r.Context(), "user", "ann")
	return nil
}

func (s wholeBlob) fields(r *http.Request) map[string]string {
	if !s.manager.Exists(r.Context(), "user") {
		return nil
	}
	fields := map[string]string{}
	for _, name := range s.manager.Keys(r.Context()) {
		fields[name] = s.manager.GetString(r.Context(), name)
	}
	return fields
}

func (s wholeBlob) set(r *http.Request, name, value string) error {
	s.manager.Put(r.Context(), name, value)
	return nil
}

func (s wholeBlob) logout(r *http.Request) error { return s.manager.Destroy(r.Context()) }
