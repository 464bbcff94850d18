// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lan"
	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

var (
	gateway4 = netip.MustParseAddr("192.168.77.1")
	gateway6 = netip.MustParseAddr("fe80::1")
	client   = netip.MustParseAddr("192.168.77.2")
	other    = netip.MustParseAddr("192.168.77.3")
	wan      = netip.MustParseAddr("45.0.0.1")
	began    = time.Date(2026, 11, 30, 13, 0, 0, 0, time.UTC)
)

// fakeLeases is a small lease store. External ports below 1024 are denied, 2000 is an operator's, 2001 no
// daemon answers for; a client has ten leases at most.
type fakeLeases struct {
	mu       sync.Mutex
	leases   map[fakeKey]lease.Lease
	revision uint32
	address  netip.Addr
	changed  chan struct{}
	refused  []string
}

type fakeKey struct {
	proto    nat.Proto
	external uint16
}

func newFakeLeases() *fakeLeases {
	return &fakeLeases{leases: make(map[fakeKey]lease.Lease), address: wan, changed: make(chan struct{})}
}

func (f *fakeLeases) Grant(_ context.Context, r lease.Request) (lease.Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Kind != lease.IGD || !r.Client.Is4() || r.Internal == 0 {
		return lease.Lease{}, lease.ErrInvalid
	}
	if r.External == 0 {
		r.External = r.Internal
	}
	l := lease.Lease{
		Kind: r.Kind, Key: r.Key, Client: r.Client, Proto: r.Proto, Internal: r.Internal, External: r.External, From: r.From,
	}
	if r.Lifetime != 0 {
		l.Expires = began.Add(r.Lifetime)
	}
	n := 0
	for _, held := range f.leases {
		if held.Client == r.Client {
			n++
		}
	}
	held, taken := f.leases[fakeKey{r.Proto, r.External}]
	switch {
	case r.External < 1024:
		return l, lease.ErrDenied
	case r.External == 2000:
		return l, &lease.TakenError{Proto: r.Proto, Port: 2000, Holder: "mapping web", Other: true}
	case r.External == 2001:
		return l, fmt.Errorf("%w: no such file", lease.ErrDaemon)
	case taken && (held.Client != r.Client || held.Kind != lease.IGD):
		if r.Exact {
			return l, &lease.TakenError{Proto: r.Proto, Port: r.External, Holder: held.Client.String()}
		}
		l.External = 40000 + uint16(len(f.leases)) //nolint:gosec // a few
	case !taken && n >= 10:
		return l, lease.ErrQuota
	}
	f.put(l)
	return l, nil
}

func (f *fakeLeases) put(l lease.Lease) {
	f.leases[fakeKey{l.Proto, l.External}] = l
	f.revision++
}

func (f *fakeLeases) ReleaseExternal(_ context.Context, client netip.Addr, p nat.Proto, external uint16) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.leases[fakeKey{p, external}]
	switch {
	case !ok:
		return lease.ErrNone
	case l.Client != client || l.Kind != lease.IGD:
		return lease.ErrOther
	}
	delete(f.leases, fakeKey{p, external})
	f.revision++
	return nil
}

func (f *fakeLeases) External(p nat.Proto, external uint16) (lease.Lease, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.leases[fakeKey{p, external}]
	return l, ok
}

func (f *fakeLeases) All() []lease.Lease {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.leases), func(a, b lease.Lease) int {
		return int(a.Proto)<<16 + int(a.External) - int(b.Proto)<<16 - int(b.External)
	})
}

func (f *fakeLeases) At(i int) (lease.Lease, bool) {
	all := f.All()
	if i >= len(all) {
		return lease.Lease{}, false
	}
	return all[i], true
}

func (f *fakeLeases) Len() int { return len(f.All()) }

func (f *fakeLeases) Revision() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revision
}

func (f *fakeLeases) Address() (netip.Addr, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.address, f.address.IsValid()
}

func (f *fakeLeases) setAddress(a netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.address = a
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeLeases) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (*fakeLeases) Ready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (f *fakeLeases) Refuse(_ lease.Kind, client netip.Addr, request, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = append(f.refused, client.String()+" "+request+": "+reason)
}

// fakeLAN is a device with an address of each kind.
type fakeLAN struct {
	mu      sync.Mutex
	changed chan struct{}
}

func newFakeLAN() *fakeLAN { return &fakeLAN{changed: make(chan struct{})} }

func (*fakeLAN) Devices() []lan.Device {
	return []lan.Device{{
		Name: "lan0", Index: 2, Up: true,
		Addrs: []netip.Prefix{netip.PrefixFrom(gateway4, 24), netip.PrefixFrom(gateway6, 64), netip.MustParsePrefix("fd00::1/64")},
	}}
}

func (f *fakeLAN) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeLAN) change() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.changed)
	f.changed = make(chan struct{})
}

// newTestServer is a gateway without sockets.
func newTestServer(tb testing.TB, v Version) (*Server, *fakeLeases) {
	tb.Helper()
	f := newFakeLeases()
	s := newServer(f, newFakeLAN(), settings{version: v, port: 1900, presentation: "http://192.168.77.1:8081/?a&b", name: "router", seed: "02:00:00:00:00:01"})
	s.traffic = func() (Traffic, error) {
		return Traffic{BytesSent: 1<<32 + 5, BytesReceived: 6, PacketsSent: 7, PacketsReceived: 8, Up: true}, nil
	}
	s.now = func() time.Time { return began }
	return s, f
}

// request asks a gateway: a method and a path, fields "NAME: value" and a body.
func request(s http.Handler, from netip.Addr, line string, body string, fields ...string) *httptest.ResponseRecorder {
	method, path, _ := strings.Cut(line, " ")
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "192.168.77.1:1900"
	r.RemoteAddr = netip.AddrPortFrom(from, 54321).String()
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey,
		net.Addr(net.TCPAddrFromAddrPort(netip.AddrPortFrom(gateway4, 1900)))))
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// envelope is a request for an action, with arguments "Name=value".
func envelope(space, name string, args ...string) string {
	doc := newDocument()
	openEnvelope(doc)
	doc.WriteString(`<u:` + name + ` xmlns:u="` + space + `">`)
	for _, a := range args {
		n, v, _ := strings.Cut(a, "=")
		doc.text(n, v)
	}
	doc.close("u:" + name)
	closeEnvelope(doc)
	return doc.String()
}

// services are the paths and namespaces by a short name.
var services = map[string][2]string{
	"l3f": {"/l3f", serviceURN + "Layer3Forwarding:1"},
	"cif": {"/cif", serviceURN + "WANCommonInterfaceConfig:1"},
	"ip1": {"/ip", serviceURN + "WANIPConnection:1"},
	"ip2": {"/ip", serviceURN + "WANIPConnection:2"},
}

// do asks for an action: a service, a name, and arguments.
func do(s *Server, from netip.Addr, service, name string, args ...string) *httptest.ResponseRecorder {
	path, space := services[service][0], services[service][1]
	return request(s, from, "POST "+path, envelope(space, name, args...),
		`Content-Type: text/xml; charset="utf-8"`, `SOAPACTION: "`+space+"#"+name+`"`)
}
