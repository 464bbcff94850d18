// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lan"
	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

// leases is what a server needs of [lease.Leases].
type leases interface {
	Ready() <-chan struct{}
	Grant(ctx context.Context, want lease.Request) (lease.Lease, error)
	Release(ctx context.Context, kind lease.Kind, key string, client netip.Addr, proto nat.Proto, internal uint16) error
	ReleaseAll(ctx context.Context, kind lease.Kind, client netip.Addr, proto nat.Proto) error
	Find(client netip.Addr, proto nat.Proto, internal uint16) (lease.Lease, bool)
	All() []lease.Lease
	Address() (netip.Addr, bool)
	Epoch() uint32
	Changed() <-chan struct{}
	Refuse(kind lease.Kind, client netip.Addr, request, reason string)
}

// socket is what a server needs of [lan.Socket].
type socket interface {
	Read(buf []byte) (lan.Packet, error)
	Reply(p lan.Packet, data []byte) error
	Send(device string, to netip.AddrPort, data []byte) error
	Close() error
}

// Options are those of [Open].
type Options struct {
	// Leases decide what is granted; required.
	Leases *lease.Leases
	// LAN has the devices of the clients; required.
	LAN *lan.LAN
	// Log takes what cannot be sent. Nil: nothing is logged.
	Log *slog.Logger
}

// Server answers NAT-PMP and PCP. [Open] makes one.
type Server struct {
	leases  leases
	devices func() []lan.Device
	socket  socket
	log     *slog.Logger
	now     func() time.Time
	clients clients
}

// Open opens the sockets of a server, on which nothing is read before [Server.Run].
func Open(o Options) (*Server, error) {
	sock, err := o.LAN.Listen(serverPort, true)
	if err != nil {
		return nil, fmt.Errorf("listen for NAT-PMP and PCP: %w", err)
	}
	s := newServer(o.Leases)
	s.devices, s.socket = o.LAN.Devices, sock
	if o.Log != nil {
		s.log = o.Log
	}
	return s, nil
}

// newServer returns a server without sockets.
func newServer(l leases) *Server {
	return &Server{leases: l, now: time.Now, log: slog.New(slog.DiscardHandler)}
}

// Answer appends the answer to a datagram to b, or nothing if that has none. A client with an IPv6
// address has no NAT-PMP, which knows IPv4 alone: its version is one that is not supported there.
func (s *Server) Answer(ctx context.Context, b, q []byte, client netip.Addr) []byte {
	client = client.Unmap().WithZone("")
	switch {
	case len(q) < minMessage:
		return b
	case q[0] == pmpVersion && client.Is4():
		if len(q) > maxMessage {
			return b
		}
		return s.pmp(ctx, b, q, client)
	default:
		return s.pcp(ctx, b, q, client)
	}
}

// pcp answers a request of PCP. The order of the checks is that of section 8.2.
func (s *Server) pcp(ctx context.Context, b, q []byte, client netip.Addr) []byte {
	if q[1]&response != 0 {
		return b
	}
	if q[0] != pcpVersion {
		return s.refuse(b, q, client, unsuppVersion)
	}
	if len(q) < headerLen {
		return b
	}
	op := q[1]
	if len(q) > maxMessage || len(q)%4 != 0 || op == opMap && len(q) < headerLen+mapLen {
		return s.refuse(b, q, client, malformedRequest)
	}
	if address(q[atClient:]) != client {
		return s.refuse(b, q, client, addressMismatch)
	}
	switch op {
	case opAnnounce:
		return s.announced(b, q, client)
	case opMap:
		return s.mapping(ctx, b, q, client)
	default: // PEER too: what it would make, connection tracking makes by itself
		return s.refuse(b, q, client, unsuppOpcode)
	}
}

// refuse appends the answer of an error that was found without the leases, and records it.
func (s *Server) refuse(b, q []byte, client netip.Addr, r result) []byte {
	s.leases.Refuse(lease.PCP, client, "", r.String())
	return s.fail(b, q, r, r.lifetime())
}

// fail appends the answer of an error.
func (s *Server) fail(b, q []byte, r result, lifetime time.Duration) []byte {
	return appendError(b, q, r, lifetime, s.leases.Epoch())
}

// announced answers ANNOUNCE (section 14.1.2), for which no option is defined.
func (s *Server) announced(b, q []byte, client netip.Addr) []byte {
	rest := q[headerLen:]
	if !wellFormed(rest) {
		return s.refuse(b, q, client, malformedOption)
	}
	for len(rest) > 0 {
		var o option
		if o, rest, _ = cutOption(rest); o.code < optional {
			return s.refuse(b, q, client, unsuppOption)
		}
	}
	return appendAnnounce(b, s.leases.Epoch())
}

// mapping answers MAP.
func (s *Server) mapping(ctx context.Context, b, q []byte, client netip.Addr) []byte {
	m := parseMap(q, client)
	if r := m.fault(); r != success {
		return s.refuse(b, q, client, r)
	}
	if m.lifetime == 0 {
		return s.release(ctx, b, &m)
	}
	return s.renew(ctx, b, &m)
}

// fault says what is wrong with a request whoever sends it (sections 11.3 and 15.1).
func (m *mapRequest) fault() result {
	rest := m.raw[headerLen+mapLen:]
	switch {
	case !wellFormed(rest):
		return malformedOption
	case m.proto == 0 && m.internal != 0:
		return malformedRequest
	case m.lifetime != 0 && !m.ofPort():
		return unsuppProtocol
	default:
		return m.options.read(rest, m)
	}
}

// ofPort is whether the request is of one port of TCP or UDP. All ports of a protocol, or of all
// protocols, go to no client.
func (m *mapRequest) ofPort() bool {
	p := nat.Proto(m.proto)
	return (p == nat.TCP || p == nat.UDP) && m.internal != 0
}

// key is the nonce, as leases have it.
func (m *mapRequest) key() string { return hex.EncodeToString(m.nonce[:]) }

// reserved are ports of the WAN that no client may have: those of NAT-PMP and PCP themselves
// (section 11.3).
func reserved(p nat.Proto, port uint16) bool { return p == nat.UDP && (port == 5350 || port == 5351) }

// release ends a mapping (section 15.1). What is not there is released with success; all that
// cannot be asked for is not there.
func (s *Server) release(ctx context.Context, b []byte, m *mapRequest) []byte {
	if m.ofPort() && m.client.Is4() {
		err := s.leases.Release(ctx, lease.PCP, m.key(), m.client, nat.Proto(m.proto), m.internal)
		if err != nil {
			return s.denied(b, m, resultOf(err, false))
		}
	}
	asked := netip.AddrPortFrom(m.suggested, m.external)
	return appendMap(b, m, asked, 0, s.leases.Epoch(), nil)
}

// renew makes or renews a mapping (section 11.3).
func (s *Server) renew(ctx context.Context, b []byte, m *mapRequest) []byte {
	if !m.client.Is4() { // an IPv6 host has no NAT before it
		return s.refuse(b, m.raw, m.client, notAuthorized)
	}
	wan, ok := s.leases.Address()
	if !ok {
		return s.refuse(b, m.raw, m.client, networkFailure)
	}
	proto := nat.Proto(m.proto)
	exact, filtered := m.options.preferFailure, m.options.removeFilters || m.options.filters != nil
	switch have, ok := s.leases.Find(m.client, proto, m.internal); {
	case ok && !m.owns(&have):
		s.leases.Refuse(lease.PCP, m.client, "", lease.ErrKey.Error())
		return s.denied(b, m, notAuthorized)
	case exact && (m.elsewhere(wan) || reserved(proto, m.external)):
		return s.refuse(b, m.raw, m.client, cannotProvideExternal)
	case ok && filtered && !ours(&have):
		return s.refuse(b, m.raw, m.client, excessiveRemotePeers)
	}
	want := lease.Request{
		Kind: lease.PCP, Key: m.key(), Client: m.client, Proto: proto, Internal: m.internal,
		External: m.external, Exact: exact, Lifetime: m.lifetime,
		From: m.options.filters, AddFrom: !m.options.removeFilters,
		Text: m.options.description, SetText: m.options.valid,
	}
	if reserved(proto, want.External) {
		want.External = 0
	}
	l, err := s.leases.Grant(ctx, want)
	if err != nil {
		return s.denied(b, m, resultOf(err, exact))
	}
	lifetime := time.Duration(seconds(&l, s.now())) * time.Second
	opts := m.options.processed
	if m.options.valid && l.Kind == lease.PCP {
		opts = appendOption(opts, option{code: optDescription, data: []byte(l.Text)})
	}
	return appendMap(b, m, netip.AddrPortFrom(wan, l.External), lifetime, s.leases.Epoch(), opts)
}

// owns is whether the request may change a lease: that has its nonce, or none.
func (m *mapRequest) owns(l *lease.Lease) bool { return l.Kind != lease.PCP || l.Key == m.key() }

// elsewhere is whether another address than the WAN's is asked for.
func (m *mapRequest) elsewhere(wan netip.Addr) bool {
	return !m.suggested.IsUnspecified() && m.suggested != wan
}

// ours is whether PCP may change a lease. What was made otherwise is answered with as it is.
func ours(l *lease.Lease) bool { return l.Kind == lease.PCP || l.Kind == lease.PMP }

// denied appends the answer to a request that the leases do not allow. What another nonce holds is
// denied for as long as that is so (section 11.3).
func (s *Server) denied(b []byte, m *mapRequest, r result) []byte {
	lifetime := r.lifetime()
	if r == notAuthorized {
		l, ok := s.leases.Find(m.client, nat.Proto(m.proto), m.internal)
		if ok && !m.owns(&l) {
			lifetime = time.Duration(seconds(&l, s.now())) * time.Second
		}
	}
	return s.fail(b, m.raw, r, lifetime)
}

// forever is the lifetime of what was not made by PCP (section 11.3).
const forever = 1<<32 - 1

// seconds is for how many seconds a lease lasts.
func seconds(l *lease.Lease, now time.Time) uint32 {
	if l.Expires.IsZero() {
		return forever
	}
	return uint32(min(max(l.Remaining(now)/time.Second, 1), forever))
}
