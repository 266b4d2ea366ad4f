package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// A Secret is a setting that is never shown: whatever prints it, prints "[redacted]", or nothing if it is empty. Convert
// it to a string to use it.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

// Format hides the secret, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue hides the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret.
//
//nolint:unparam // encoding.TextMarshaler has an error
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Bytes is a size: a number of bytes, or one with a unit, such as 64KiB (65536 bytes) or 64kB (64000 bytes).
type Bytes int64

// UnmarshalText reads a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	size, err := humanize.ParseBytes(string(text))
	if err != nil || size > math.MaxInt64 {
		return fmt.Errorf("expected a size such as 1MiB or 1048576 but got %q", text)
	}
	*b = Bytes(size)
	return nil
}

// String shows a size, rounded.
func (b Bytes) String() string { return humanize.IBytes(uint64(max(b, 0))) }

// A RedisURL names a Redis: redis:// or rediss://[username[:password]@]host[:port][/database], or embedded://. It is
// shown without its credentials.
type RedisURL string

// UnmarshalText reads a URL. Its errors do not repeat any of it: a password with an unescaped character can end up in
// every part.
func (r *RedisURL) UnmarshalText(text []byte) error {
	u, err := url.Parse(string(text))
	if err != nil {
		return errURL
	}
	*r = RedisURL(text)
	if u.Scheme == "embedded" {
		if string(text) != "embedded://" {
			return errors.New("embedded:// takes no host, credentials or database")
		}
		return nil
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return errURL
	}
	if db := r.database(); db < 0 {
		return errURL
	}
	return nil
}

var errURL = errors.New("expected redis://, rediss://[username:password@]host[:port][/database] or embedded://, the username and the password percent-encoded")

// String shows the URL without its credentials.
func (r RedisURL) String() string {
	u := r.parts()
	u.User = nil
	return u.String()
}

// GoString shows the URL without its credentials.
func (r RedisURL) GoString() string { return r.String() }

// Format shows the URL without its credentials, whatever the verb.
func (r RedisURL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, r.String()) }

// LogValue shows the URL without its credentials.
func (r RedisURL) LogValue() slog.Value { return slog.StringValue(r.String()) }

// MarshalText shows the URL without its credentials.
//
//nolint:unparam // encoding.TextMarshaler has an error
func (r RedisURL) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r RedisURL) parts() *url.URL {
	u, err := url.Parse(string(r))
	if err != nil {
		return new(url.URL)
	}
	return u
}

func (r RedisURL) credentials() (username, password string) {
	user := r.parts().User
	password, _ = user.Password()
	return user.Username(), password
}

// database is the number in the path, 0 if there is none, or -1 if there is something else.
func (r RedisURL) database() int {
	path := strings.TrimPrefix(r.parts().Path, "/")
	if path == "" {
		return 0
	}
	number, err := strconv.ParseUint(path, 10, 31)
	if err != nil {
		return -1
	}
	return int(number)
}
