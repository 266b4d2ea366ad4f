package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
)

// Errors of connections that are encrypted at one end only.
var (
	errNotTLS     = errors.New("it does not answer in TLS, as a port without TLS")
	errTLSPort    = errors.New("it answers in TLS, and the connection is without")
	errNoAnswerIn = errors.New("the TLS handshake was not answered, as by a port without TLS")
)

// secure encrypts a connection to a host, with the files as they are now.
func (n *network) secure(ctx context.Context, conn net.Conn, base *tls.Config, host string) (net.Conn, error) {
	config := n.files.renew(base)
	if config.ServerName == "" {
		config.ServerName = host
	}
	if n.options.TLSCommonName {
		acceptCommonName(config)
	}
	secured := new(securedConn)
	if len(config.Certificates) == 0 && config.GetClientCertificate == nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			secured.asked.Store(true)
			return new(tls.Certificate), nil
		}
	}
	secured.Conn = tls.Client(conn, config)
	err := secured.HandshakeContext(ctx)
	if err == nil {
		return secured, nil
	}
	_ = conn.Close() // it is given up
	var notTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &notTLS):
		return nil, errNotTLS
	case ctx.Err() != nil:
		return nil, errNoAnswerIn
	}
	return nil, err
}

// A securedConn remembers whether the server has asked for a certificate that there is none of. A server that needs one ends
// the connection after the handshake, and its reason is often lost.
type securedConn struct {
	*tls.Conn
	asked atomic.Bool
}

// explain adds to the error of a connection that was not greeted what is likely its cause.
func explain(conn net.Conn, err error) error {
	if secured, ok := conn.(*securedConn); ok && secured.asked.Load() {
		return fmt.Errorf("it asks for a client certificate and none is set: %w", err)
	}
	return err
}

// acceptCommonName lets a certificate that has no subject alternative name (SAN) be one of the host that its common name says.
// Go has not looked at common names since 1.15, as RFC 6125 asks for.
func acceptCommonName(config *tls.Config) {
	host, roots := config.ServerName, config.RootCAs
	config.InsecureSkipVerify = true // VerifyConnection verifies instead
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errors.New("tls: there is no certificate")
		}
		cert, chain := state.PeerCertificates[0], x509.NewCertPool()
		for _, c := range state.PeerCertificates[1:] {
			chain.AddCert(c)
		}
		o := x509.VerifyOptions{Roots: roots, Intermediates: chain}
		named := hasSAN(cert)
		if named {
			o.DNSName = host
		}
		if _, err := cert.Verify(o); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		if !named && !commonNameMatches(cert.Subject.CommonName, host) {
			return fmt.Errorf("x509: certificate is valid for the common name %q, not %s", cert.Subject.CommonName, host)
		}
		return nil
	}
}

func hasSAN(cert *x509.Certificate) bool {
	return len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.URIs)+len(cert.EmailAddresses) > 0
}

// commonNameMatches reports whether a name, of which the first label may be an asterisk, is that of a host.
func commonNameMatches(name, host string) bool {
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		_, domain, _ := strings.Cut(host, ".")
		return net.ParseIP(host) == nil && strings.Contains(rest, ".") && strings.EqualFold(domain, rest)
	}
	return name != "" && strings.EqualFold(name, host)
}
