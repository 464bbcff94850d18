// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// Daemon is what the page is about; an *api.Client is one.
type Daemon interface {
	Status(ctx context.Context) (api.Status, error)
	Mappings(ctx context.Context) ([]nat.Mapping, error)
	Connections(ctx context.Context) ([]nat.Connections, error)
	Doctor(ctx context.Context) (report.Diagnosis, error)
	Explain(ctx context.Context, q report.Query) (report.Report, error)
	RangeEvents(ctx context.Context) (iter.Seq2[api.Event, error], error)
	Publish(ctx context.Context, how nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error)
	Remove(ctx context.Context, r nat.Removal) ([]nat.Mapping, error)
}

// Gateway has the leases; an *api.Client of its socket is one.
type Gateway interface {
	Gateway(ctx context.Context) (api.Gateway, error)
}

// Options configure Run.
type Options struct {
	// Daemon is not nil.
	Daemon Daemon
	// Gateway has the leases. Nil: there is none.
	Gateway Gateway
	// Listener is where clients connect; Run closes it. It is not nil.
	Listener net.Listener
	// Names are the names that requests may have in Host, besides the address that the client has
	// connected to, and localhost; see ParseName. A page of another site, whose name leads to this
	// address (DNS rebinding), has another one. Nil: none.
	Names []string
	// Token lets clients change what is published. Empty: none can.
	Token string
	// Title is what the page calls this host. Empty: nothing.
	Title string
	// Log has changes, and what could not be read. Nil: nothing is logged.
	Log *slog.Logger

	// now is the time. Nil: time.Now.
	now func() time.Time
}

// ParseName reads a name of this host, or an address, as a request has it in Host: without a port.
func ParseName(s string) (string, error) {
	name := normal(s)
	if _, err := netip.ParseAddr(name); err == nil {
		return name, nil
	}
	bad := func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	}
	if name == "" || len(name) > 253 || strings.ContainsFunc(name, bad) {
		return "", &nat.InvalidError{What: "host", Input: s, Reason: "it is not a name or an address, without a port"}
	}
	return name, nil
}

// normal is the one form of a host.
func normal(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if in, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(in, "]")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return host
}

const (
	// minToken is the fewest bytes of a token.
	minToken = 16
	maxToken = 4096
)

// ReadToken reads a token from a file that others than its owner and group cannot read.
func ReadToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token, err := readToken(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("read token %s: %w", path, err)
	}
	return token, nil
}

func readToken(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", errors.New("all users may read or change it")
	}
	b := make([]byte, maxToken+1)
	n, err := f.Read(b)
	if err != nil && n == 0 {
		return "", errors.New("it is empty")
	}
	token := strings.TrimSpace(string(b[:n]))
	switch {
	case n > maxToken:
		return "", fmt.Errorf("it has more than %d bytes", maxToken)
	case len(token) < minToken:
		return "", fmt.Errorf("it has fewer than %d characters", minToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("it has other characters than printable ASCII, or blanks")
	}
	return token, nil
}
