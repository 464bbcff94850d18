// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// preface is how a client of HTTP/2 begins: the server answers with a frame, or ends the connection
// with an alert that says what it has against the client's certificate.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// checkTime is how long an endpoint may take to answer the preface.
const checkTime = 2 * time.Second

// endpoint is where a member listens for clients.
type endpoint struct {
	text string // as the client of etcd has it
	host string // HOST:PORT
	tls  bool
}

// parseEndpoint parses URL or HOST:PORT, which is https if there is a TLS configuration.
func parseEndpoint(text string, secure bool) (endpoint, error) {
	bad := func(reason string) (endpoint, error) {
		return endpoint{}, &nat.InvalidError{What: "endpoint", Input: text, Reason: reason}
	}
	full := text
	if !strings.Contains(text, "://") {
		full = "http://" + text
		if secure {
			full = "https://" + text
		}
	}
	u, err := url.Parse(full)
	switch {
	case err != nil || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.User != nil:
		return bad("it is written as https://HOST:PORT")
	case u.Scheme != "http" && u.Scheme != "https":
		return bad("its scheme is neither http nor https")
	case u.Scheme == "http" && secure:
		return bad("it is http, and certificates are given")
	case u.Scheme == "https" && !secure:
		return bad("it is https, and no certificate of an authority is given")
	}
	port := u.Port()
	if port == "" {
		port = "2379"
	}
	e := endpoint{host: net.JoinHostPort(u.Hostname(), port), tls: u.Scheme == "https"}
	e.text = u.Scheme + "://" + e.host
	return e, nil
}

// check connects to the endpoint and returns what keeps a client from using it. The client of etcd
// says of all that no more than that its deadline has passed.
func (s *Store) check(ctx context.Context, e endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	if err := s.talk(ctx, e); err != nil {
		return fmt.Errorf("%s: %w", e.text, err)
	}
	return nil
}

func (s *Store) talk(ctx context.Context, e endpoint) error {
	conn, err := s.dial(ctx, e.host)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	var asked *presented
	if e.tls {
		c := s.tls.Clone()
		c.NextProtos = []string{"h2"}
		if c.ServerName == "" {
			c.ServerName, _, _ = net.SplitHostPort(e.host)
		}
		asked = presenting(c)
		secure := tls.Client(conn, c)
		if err := secure.HandshakeContext(ctx); err != nil {
			return asked.readable(err)
		}
		conn = secure
	}
	if _, err := io.WriteString(conn, preface); err != nil {
		return asked.readable(err)
	}
	answer := make([]byte, 9)
	if _, err := io.ReadFull(conn, answer); err != nil {
		if !e.tls && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return errors.New("it ends the connection: does it want https?")
		}
		return asked.readable(err)
	}
	if string(answer[:5]) == "HTTP/" || answer[0] == 0x15 {
		return errors.New("it does not speak HTTP/2: does it want https?")
	}
	return nil
}

// presented is the certificate that a client has shown.
type presented struct {
	wanted bool // the server asked for one
	leaf   *x509.Certificate
}

// presenting makes a configuration note what is shown.
func presenting(c *tls.Config) *presented {
	p := &presented{}
	choose, certificates := c.GetClientCertificate, c.Certificates
	c.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		p.wanted = true
		shown := &tls.Certificate{}
		switch {
		case choose != nil:
			var err error
			if shown, err = choose(info); err != nil {
				return nil, err
			}
		case len(certificates) != 0:
			shown = &certificates[0]
		}
		if len(shown.Certificate) != 0 {
			p.leaf, _ = x509.ParseCertificate(shown.Certificate[0]) // nil: the server will say that it is none
		}
		return shown, nil
	}
	return p
}

// readable adds to an error what it is about.
func (p *presented) readable(err error) error {
	text := err.Error()
	what := ""
	switch {
	case strings.Contains(text, "first record does not look"):
		what = "it does not speak TLS: is it http?"
	case p == nil || !p.wanted || !strings.Contains(text, "remote error"):
	case p.leaf == nil:
		what = "it wants a client certificate, and none is given"
	case time.Now().After(p.leaf.NotAfter):
		what = "the client's certificate expired at " + p.leaf.NotAfter.UTC().Format(time.RFC3339)
	case time.Now().Before(p.leaf.NotBefore):
		what = "the client's certificate is not valid before " + p.leaf.NotBefore.UTC().Format(time.RFC3339)
	default:
		what = fmt.Sprintf("it refuses the client's certificate of %q, signed by %q: is that its authority?", p.leaf.Subject.CommonName, p.leaf.Issuer.CommonName)
	}
	if what == "" {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// checkAll checks all endpoints at once and returns what each says; nil: it can be used.
func (s *Store) checkAll(ctx context.Context) []error {
	errs := make([]error, len(s.endpoints))
	var wg sync.WaitGroup
	for i, e := range s.endpoints {
		wg.Go(func() { errs[i] = s.check(ctx, e) })
	}
	wg.Wait()
	return errs
}
