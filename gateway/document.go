// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/internal/httpd"
	"github.com/nftnat/nftnat/internal/printable"
)

// drainTime is for what is under way at the end.
const drainTime = time.Second

// serve answers on the gateway's own socket.
func (s *server) serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/gateway", func(w http.ResponseWriter, _ *http.Request) {
		s.asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.document())
	})
	h := httpd.New(httpd.Options{Handler: mux, WriteTimeout: 30 * time.Second, MaxConns: 32, Log: s.log})
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	err := h.Serve(s.listener)
	if ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", s.listener.Addr(), errors.Join(err, s.listener.Close()))
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if h.Shutdown(last) != nil {
		h.Close()
	}
	return nil
}

// document is what GET /v1/gateway answers.
func (s *server) document() api.Gateway {
	g := api.Gateway{
		Version: buildinfo.Version, Started: s.started.UTC(), Epoch: s.leases.Epoch(), WAN: s.WAN, Devices: s.LAN,
		Leases: []api.GatewayLease{}, Refusals: []api.GatewayRefusal{}, Warnings: s.warnings(), Drops: s.lan.Drops(),
	}
	if a, ok := s.leases.Address(); ok {
		g.Address = a.String()
	}
	for _, l := range s.leases.All() {
		g.Leases = append(g.Leases, leaseDocument(&l))
	}
	for _, r := range s.leases.Refusals() {
		g.Refusals = append(g.Refusals, api.GatewayRefusal{
			Time: r.Time.UTC(), Count: r.Count, Kind: r.Kind.String(), Client: r.Client.String(),
			Request: printable.Line(r.Request), Reason: printable.Line(r.Reason),
		})
	}
	return g
}

func leaseDocument(l *lease.Lease) api.GatewayLease {
	doc := api.GatewayLease{
		Kind: l.Kind.String(), Client: l.Client.String(), Proto: l.Proto.String(), Internal: l.Internal, External: l.External,
		Description: l.Text,
	}
	if l.Kind == lease.IGD {
		doc.Description = l.Key
	}
	for _, p := range l.From {
		doc.From = append(doc.From, p.String())
	}
	if !l.Expires.IsZero() {
		doc.Expires = &l.Expires
	}
	return doc
}

// warnings are what somebody should look into.
func (s *server) warnings() []string {
	warnings := []string{}
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	if since, cause := s.leases.Down(); !since.IsZero() {
		warn("the daemon has not answered since %s: %s", since.UTC().Format(time.RFC3339), printable.Line(cause.Error()))
	}
	select {
	case <-s.leases.Ready():
	default:
		warn("the daemon's mappings are not read yet: clients get no answer")
	}
	for _, name := range s.LAN {
		switch d, ok := s.lan.Device(name); {
		case !ok:
			warn("%s is not there", name)
		case !d.Up:
			warn("%s is down", name)
		case !d.Addr4().IsValid():
			warn("%s has no IPv4 address: its hosts cannot ask", name)
		}
	}
	a, ok := s.leases.Address()
	switch wan, there := s.lan.WAN(); {
	case !there:
		warn("%s is not there: clients get no new ports", s.WAN)
	case !wan.Up:
		warn("%s is down: clients get no new ports", s.WAN)
	case !ok:
		warn("%s has no IPv4 address: clients get no new ports", s.WAN)
	default:
		if kind := shared(a); kind != "" {
			warn("the address of %s, %s, is %s: hosts of the Internet reach its ports only if the router before it passes them on", s.WAN, a, kind)
		}
	}
	return warnings
}

// shared says why an address is not one of the Internet's; empty: it is.
func shared(a netip.Addr) string {
	switch {
	case a.IsPrivate():
		return "private (RFC 1918)"
	case a.IsLinkLocalUnicast():
		return "link-local (RFC 3927)"
	case netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10).Contains(a):
		return "shared by customers of the provider (RFC 6598)"
	}
	return ""
}
