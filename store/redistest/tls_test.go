package redistest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
)

// pingTLS completes a handshake and a PING, without which TLS 1.3 does not
// tell a client that its certificate is refused.
func pingTLS(addr string, config *tls.Config) error {
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = roundTrip(conn, bufio.NewReader(conn), "PING")
	return err
}

func TestTLS(t *testing.T) {
	files := GenerateTLS(t)
	open := Start(t, Options{TLS: files})
	strict := *files
	strict.RequireClientCert = true
	closed := Start(t, Options{TLS: &strict, Password: "secret"})

	if want := "rediss://" + open.Addr; open.URL() != want {
		t.Errorf("URL = %q, want %q", open.URL(), want)
	}
	open.Do(t, "PING")
	closed.Do(t, "PING")

	withCert, err := files.clientConfig()
	if err != nil {
		t.Fatalf("clientConfig = %v, want no error", err)
	}
	withoutCert := withCert.Clone()
	withoutCert.Certificates = nil
	byName := withoutCert.Clone()
	byName.ServerName = "localhost"
	otherName := withoutCert.Clone()
	otherName.ServerName = "example.com"
	otherCA, err := GenerateTLS(t).clientConfig()
	if err != nil {
		t.Fatalf("clientConfig = %v, want no error", err)
	}
	stranger := withCert.Clone()
	stranger.Certificates = otherCA.Certificates

	for _, c := range []struct {
		name   string
		server *Server
		config *tls.Config
		want   string // part of the error; "refused" for any before a reply
	}{
		{"no certificate", open, withoutCert, ""},
		{"by name", open, byName, ""},
		{"wrong name", open, otherName, "certificate is valid for"},
		{"unknown CA", open, otherCA, "unknown authority"},
		{"required certificate", closed, withCert, "NOAUTH"},
		{"missing certificate", closed, withoutCert, "refused"},
		{"certificate of another CA", closed, stranger, "refused"},
	} {
		err := pingTLS(c.server.Addr, c.config)
		var reply replyError
		switch {
		case c.want == "refused":
			// Either a TLS alert or the reset after it comes first.
			if err == nil || errors.As(err, &reply) {
				t.Errorf("%s: PING = %v, want an error before any reply", c.name, err)
			}
		case c.want == "" && err != nil:
			t.Errorf("%s: PING = %v, want no error", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: PING = %v, want %q in it", c.name, err, c.want)
		}
	}

	conn, err := net.Dial("tcp", open.Addr)
	if err != nil {
		t.Fatalf("Dial = %v, want no error", err)
	}
	defer conn.Close()
	if v, err := roundTrip(conn, bufio.NewReader(conn), "PING"); err == nil {
		t.Errorf("plain PING to a TLS port = %v, want an error", v)
	}
}
