package redis

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

// TLSFiles are PEM files that are read for every new connection, so that they can be replaced while the process runs. A file
// that is empty here is not read.
type TLSFiles struct {
	// CA has the authorities that are trusted to sign the certificate of Redis.
	CA string
	// Cert and Key are the certificate that is presented to Redis and its private key; both or none are set.
	Cert, Key string
}

// ReadSecret returns what a file contains, without the line break that most editors end a file with.
func ReadSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return secret, nil
}

// LoadTLS returns a copy of a configuration with what the files contain, and an error for each file that is of no use: its
// part of the configuration is as before.
func LoadTLS(base *tls.Config, f TLSFiles) (config *tls.Config, ca, pair error) {
	texts, caErr, pairErr := f.read()
	config = base.Clone()
	if ca = caErr; f.CA != "" && ca == nil {
		ca = texts.setCA(config, f.CA)
	}
	if pair = pairErr; f.Cert != "" && pair == nil {
		pair = texts.setPair(config)
	}
	return config, ca, pair
}

// pems are the contents of [TLSFiles].
type pems struct{ ca, cert, key []byte }

func (f TLSFiles) read() (p pems, ca, pair error) {
	if f.CA != "" {
		p.ca, ca = os.ReadFile(f.CA)
	}
	if f.Cert != "" {
		if p.cert, pair = os.ReadFile(f.Cert); pair == nil {
			p.key, pair = os.ReadFile(f.Key)
		}
	}
	return p, ca, pair
}

func (p pems) setCA(config *tls.Config, path string) error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(p.ca) {
		return fmt.Errorf("%s holds no PEM certificate", path)
	}
	config.RootCAs = pool
	return nil
}

func (p pems) setPair(config *tls.Config) error {
	pair, err := tls.X509KeyPair(p.cert, p.key)
	if err == nil {
		config.Certificates = []tls.Certificate{pair}
	}
	return err
}

// files are the files of a client's options. What they contain is taken for every new connection: while one cannot be used,
// what it contained last is.
type files struct {
	options *Options

	mu        sync.Mutex
	passwords map[string]string // by path
	pems      pems              // in use
	ca        *x509.CertPool
	pair      []tls.Certificate
	faults    map[string]string // by path, what was logged last
}

func newFiles(o *Options) *files {
	return &files{options: o, passwords: make(map[string]string), faults: make(map[string]string)}
}

// password returns what a file contains, or fallback where there is none.
func (f *files) password(path, fallback string) string {
	if path == "" {
		return fallback
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	before, known := f.passwords[path]
	if !known {
		before = fallback
	}
	now, err := ReadSecret(path)
	if f.tell(path, err); err != nil {
		return before
	}
	if now != before {
		f.options.Logger.Info("a password of redis has changed", "file", path)
	}
	f.passwords[path] = now
	return now
}

// renew returns a copy of a configuration with what the TLS files contain.
func (f *files) renew(base *tls.Config) *tls.Config {
	config := base.Clone()
	from := f.options.TLSFiles
	if from == (TLSFiles{}) {
		return config
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now, caErr, pairErr := from.read()
	if from.CA != "" {
		if caErr == nil && !bytes.Equal(now.ca, f.pems.ca) {
			changed := new(tls.Config)
			if caErr = now.setCA(changed, from.CA); caErr == nil {
				f.replaced(f.ca != nil, from.CA)
				f.pems.ca, f.ca = now.ca, changed.RootCAs
			}
		}
		f.tell(from.CA, caErr)
	}
	if from.Cert != "" {
		if pairErr == nil && (!bytes.Equal(now.cert, f.pems.cert) || !bytes.Equal(now.key, f.pems.key)) {
			changed := new(tls.Config)
			if pairErr = now.setPair(changed); pairErr == nil {
				f.replaced(f.pair != nil, from.Cert)
				f.pems.cert, f.pems.key, f.pair = now.cert, now.key, changed.Certificates
			}
		}
		f.tell(from.Cert, pairErr)
	}
	if f.ca != nil {
		config.RootCAs = f.ca
	}
	if f.pair != nil {
		config.Certificates = f.pair
	}
	return config
}

func (f *files) replaced(before bool, path string) {
	if before {
		f.options.Logger.Info("a TLS file for redis has changed", "file", path)
	}
}

// tell logs why a file cannot be used, once for each reason in a row.
func (f *files) tell(path string, err error) {
	fault := ""
	if err != nil {
		fault = err.Error()
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			fault = pathErr.Err.Error()
		}
	}
	if fault != "" && f.faults[path] != fault {
		f.options.Logger.Error("a file for redis cannot be used and what it contained stays in use", "file", path, "error", fault)
	}
	f.faults[path] = fault
}
