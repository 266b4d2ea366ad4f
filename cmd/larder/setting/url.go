package setting

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Embedded is the URL of the embedded store: a Redis inside the larder process, whose data is lost when the process ends.
const Embedded RedisURL = "embedded://"

// A RedisURL names one Redis or Valkey server: redis://, valkey:// or, for TLS, rediss:// or valkeys://, then
// [username[:password]@]host[:port][/database]; or unix://[username[:password]@]/path/of/a/socket; or it is [Embedded]. ?db=NUMBER
// gives the database, too. fmt, slog and the JSON encoder write it without its credentials.
type RedisURL string

// The schemes of servers that are reached over TCP, and those of them that mean TLS.
var (
	tcpSchemes = []string{"redis", "rediss", "valkey", "valkeys"}
	tlsSchemes = []string{"rediss", "valkeys"}
)

// UnmarshalText parses a URL. Its errors say what is wrong and repeat no part of the URL: url.Parse takes a password with an
// unescaped character for a host, port, path, query or fragment.
func (r *RedisURL) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil {
		return errors.New("cannot be read as redis://[username:password@]host[:port][/database]; special characters of the username and the password must be percent-encoded, such as @ as %40, or set REDIS_PASSWORD")
	}
	*r = RedisURL(text)
	tcp := slices.Contains(tcpSchemes, u.Scheme)
	query, queryErr := url.ParseQuery(u.RawQuery)
	_, other := query["db"]
	switch {
	case u.Scheme == "embedded" && *r == Embedded:
		return nil
	case u.Scheme == "embedded":
		return errors.New("embedded:// takes no host, credentials or database")
	case !tcp && u.Scheme != "unix":
		return errors.New("must begin with redis://, rediss://, valkey://, valkeys://, unix:// or embedded://")
	case tcp && u.Hostname() == "":
		return errors.New("has no host: expected one after //, and after the @ if there are credentials")
	case u.Scheme == "unix" && (u.Host != "" || u.Path == "" || u.Path == "/"):
		return errors.New("expected unix:// and the absolute path of a socket, such as unix:///run/redis.sock")
	case u.Fragment != "" || u.RawFragment != "":
		return errors.New("must not contain #; in a password it is written %23")
	case u.RawQuery != "" && (queryErr != nil || len(query) != 1 || !other):
		return errors.New("takes ?db=NUMBER and nothing else after a question mark; in a password it is written %3F")
	case len(query["db"]) > 1 || len(query["db"]) > 0 && tcp && strings.Trim(u.Path, "/") != "":
		return errors.New("names the database twice")
	case r.Database() < 0:
		return errors.New("the database must be a number, as in /3 or ?db=3")
	}
	return nil
}

// TLS reports whether the scheme means TLS.
func (r RedisURL) TLS() bool { return slices.Contains(tlsSchemes, r.Parts().Scheme) }

// Socket returns the path of the Unix socket, empty if the server is reached over TCP.
func (r RedisURL) Socket() string {
	if u := r.Parts(); u.Scheme == "unix" {
		return u.Path
	}
	return ""
}

// String returns the URL without its credentials.
func (r RedisURL) String() string {
	if r == Embedded {
		return string(r) // url.URL would print "embedded:"
	}
	u := r.Parts()
	u.User = nil
	return u.String()
}

// GoString returns the same as [RedisURL.String], for %#v.
func (r RedisURL) GoString() string { return r.String() }

// Format writes the same as [RedisURL.String] whatever the verb.
func (r RedisURL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// LogValue logs the same as [RedisURL.String].
func (r RedisURL) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalText encodes the same as [RedisURL.String].
func (r RedisURL) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Parts returns the parsed URL, credentials included. It is empty for a string that [RedisURL.UnmarshalText] refuses.
func (r RedisURL) Parts() *url.URL {
	u, err := url.Parse(string(r))
	if err != nil {
		return new(url.URL)
	}
	return u
}

// Credentials returns the username and the password, each empty if the URL has none.
func (r RedisURL) Credentials() (username, password string) {
	user := r.Parts().User
	password, _ = user.Password()
	return user.Username(), password
}

// Database returns the database number: that of ?db= or of the path, 0 if there is neither, -1 if it is not a number below
// 2^31.
func (r RedisURL) Database() int {
	u := r.Parts()
	number := strings.TrimPrefix(u.Path, "/")
	if u.Scheme == "unix" {
		number = ""
	}
	if u.Query().Has("db") {
		number = u.Query().Get("db")
	} else if number == "" {
		return 0
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}
