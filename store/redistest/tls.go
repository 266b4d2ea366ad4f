package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TLSFiles holds the paths of PEM files for a server and its clients.
type TLSFiles struct {
	// CA is the certificate that signed the others.
	CA string
	// Cert and Key are the server's, for 127.0.0.1 and localhost.
	Cert, Key string
	// ClientCert and ClientKey are a client's.
	ClientCert, ClientKey string
	// RequireClientCert makes the server turn away clients without a
	// certificate of the CA.
	RequireClientCert bool
}

// GenerateTLS writes a CA, a server's and a client's certificate to a
// directory that is removed when the test ends.
func GenerateTLS(tb testing.TB) *TLSFiles {
	tb.Helper()
	f, err := generateTLS(tb.TempDir(), true)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// GenerateTLSWithoutSAN is GenerateTLS with a server's certificate that has no
// subject alternative name but the common name localhost alone.
func GenerateTLSWithoutSAN(tb testing.TB) *TLSFiles {
	tb.Helper()
	f, err := generateTLS(tb.TempDir(), false)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func generateTLS(dir string, san bool) (*TLSFiles, error) {
	f := &TLSFiles{
		CA:         filepath.Join(dir, "ca.crt"),
		Cert:       filepath.Join(dir, "server.crt"),
		Key:        filepath.Join(dir, "server.key"),
		ClientCert: filepath.Join(dir, "client.crt"),
		ClientKey:  filepath.Join(dir, "client.key"),
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := template("redistest CA")
	ca.IsCA = true
	ca.BasicConstraintsValid = true
	ca.KeyUsage = x509.KeyUsageCertSign
	if err := writeCert(f.CA, ca, ca, caKey, caKey); err != nil {
		return nil, err
	}
	server := template("localhost")
	if san {
		server.DNSNames = []string{"localhost"}
		server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	client := template("client")
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return f, errors.Join(
		writePair(f.Cert, f.Key, server, ca, caKey),
		writePair(f.ClientCert, f.ClientKey, client, ca, caKey),
	)
}

func template(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// writePair writes a new key and its certificate.
func writePair(certPath, keyPath string, cert, ca *x509.Certificate, caKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(keyPath, "PRIVATE KEY", der); err != nil {
		return err
	}
	return writeCert(certPath, cert, ca, key, caKey)
}

func writeCert(path string, cert, ca *x509.Certificate, key, caKey *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	return writePEM(path, "CERTIFICATE", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// ClientConfig returns the configuration of a client that trusts the server
// and has the client certificate, if there is one.
func (f *TLSFiles) ClientConfig(tb testing.TB) *tls.Config {
	tb.Helper()
	config, err := f.clientConfig()
	if err != nil {
		tb.Fatal(err)
	}
	return config
}

// clientConfig is what a client with the client certificate uses.
func (f *TLSFiles) clientConfig() (*tls.Config, error) {
	pemCA, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pemCA) {
		return nil, errors.New("no certificate in " + f.CA)
	}
	config := &tls.Config{RootCAs: roots}
	if f.ClientCert != "" {
		pair, err := tls.LoadX509KeyPair(f.ClientCert, f.ClientKey)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
