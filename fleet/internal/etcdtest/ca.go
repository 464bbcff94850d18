// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA makes certificates.
type CA struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes an authority that nobody else trusts.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	template := template("etcdtest CA")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	key := newKey(tb)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &CA{certificate: certificate, key: key}
}

// Server returns a certificate for a server at addresses.
func (ca *CA) Server(tb testing.TB, addrs ...netip.Addr) tls.Certificate {
	tb.Helper()
	template := template("etcd")
	for _, a := range addrs {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	// The gateway of etcd for HTTP is a client of the server it is in.
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return ca.sign(tb, template)
}

// Client returns a certificate of a client, whose name is the user's for etcd.
func (ca *CA) Client(tb testing.TB, name string) tls.Certificate {
	tb.Helper()
	return ca.ClientUntil(tb, name, time.Now().Add(time.Hour))
}

// ClientUntil is [CA.Client] with another end, which may have passed.
func (ca *CA) ClientUntil(tb testing.TB, name string, end time.Time) tls.Certificate {
	tb.Helper()
	template := template(name)
	template.NotAfter = end
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return ca.sign(tb, template)
}

// Pool trusts this authority alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	return pool
}

// ClientConfig trusts this authority, and presents the certificates.
func (ca *CA) ClientConfig(certificates ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: ca.Pool(), Certificates: certificates, MinVersion: tls.VersionTLS12}
}

// template is a certificate that began two hours ago, so that it can have ended since.
func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func (ca *CA) sign(tb testing.TB, template *x509.Certificate) tls.Certificate {
	tb.Helper()
	key := newKey(tb)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, &key.PublicKey, ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// files are the paths of what a program of TLS is told.
type files struct{ ca, cert, key string }

// WriteFiles writes the authority's certificate, and a certificate and its key, as PEM into a
// directory of the test, and returns their paths.
func (ca *CA) WriteFiles(tb testing.TB, c tls.Certificate) (caFile, certFile, keyFile string) {
	tb.Helper()
	f := ca.write(tb, tb.TempDir(), "files", c)
	return f.ca, f.cert, f.key
}

func (ca *CA) write(tb testing.TB, dir, name string, c tls.Certificate) files {
	tb.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		tb.Fatal(err)
	}
	put := func(suffix, kind string, der []byte) string {
		path := filepath.Join(dir, name+suffix)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	return files{
		ca:   put("-ca.pem", "CERTIFICATE", ca.certificate.Raw),
		cert: put(".pem", "CERTIFICATE", c.Certificate[0]),
		key:  put("-key.pem", "PRIVATE KEY", key),
	}
}
