// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"sync"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lan"
	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

// When the WAN's address has changed, clients of PCP are told so for each mapping, at the address and port
// that the last answer went to (RFC 6887 section 14.2). What is remembered for that is lost when the
// process ends; announcements reach those clients then.

const (
	updatesEach = 3 // how often an update is sent, with the first announcements
	burst       = 64
	// sweepAt is at how many clients it is first looked for those that have no lease any more.
	sweepAt = 1024
)

// port is a port of a client.
type port struct {
	client   [4]byte
	proto    nat.Proto
	internal uint16
}

// origin is from where a client is answered.
type origin struct {
	device string
	local  netip.Addr
}

// client is where the last answer about a mapping went, and what was asked for.
type client struct {
	from     *origin
	port     uint16 // source port of the request
	left     uint8  // how often an update is still to be sent
	exact    bool   // PREFER_FAILURE was asked for
	external [4]byte
}

// clients are those of the mappings. The zero value has none.
type clients struct {
	mu      sync.Mutex
	of      map[port]client
	origins map[origin]*origin
	sweep   int // how many are too many
}

// note remembers where an answer to MAP goes. It ends the updates of that mapping, as the client knows
// now what it is.
func (s *Server) note(p lan.Packet, answer []byte) {
	if len(answer) < headerLen+mapLen || answer[0] != pcpVersion || answer[1] != opMap|response || answer[atResult] != byte(success) {
		return
	}
	a := p.From.Addr().Unmap()
	if !a.Is4() {
		return
	}
	m := answer[headerLen:]
	key := port{client: a.As4(), proto: nat.Proto(m[atProto]), internal: binary.BigEndian.Uint16(m[atInternal:])}
	c := &s.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	if binary.BigEndian.Uint32(answer[atLifetime:]) == 0 {
		delete(c.of, key)
		return
	}
	if c.of == nil {
		c.of, c.origins, c.sweep = make(map[port]client), make(map[origin]*origin), sweepAt
	}
	if len(c.of) >= c.sweep {
		s.forget()
	}
	from := origin{device: p.Device, local: p.Local}
	if c.origins[from] == nil {
		c.origins[from] = &from
	}
	v := client{from: c.origins[from], port: p.From.Port()}
	// An answer of success has the options that were processed: PREFER_FAILURE was if it is there.
	for rest := m[mapLen:]; len(rest) > 0; {
		var o option
		var ok bool
		if o, rest, ok = cutOption(rest); !ok {
			break
		}
		v.exact = v.exact || o.code == optPreferFailure
	}
	if asked := address(p.Data[headerLen+atSuggested:]); v.exact && asked.Is4() {
		v.external = asked.As4()
	}
	c.of[key] = v
}

// forget removes clients without a lease. The lock is held.
func (s *Server) forget() {
	c := &s.clients
	kept := make(map[port]client)
	for _, l := range s.leases.All() {
		key := portOf(&l)
		if v, ok := c.of[key]; ok && l.Kind == lease.PCP {
			kept[key] = v
		}
	}
	c.of, c.sweep = kept, max(sweepAt, 2*len(kept))
}

// portOf is the port of a lease's client, which has an IPv4 address.
func portOf(l *lease.Lease) port {
	return port{client: l.Client.As4(), proto: l.Proto, internal: l.Internal}
}

// beginUpdates has all clients told.
func (s *Server) beginUpdates() {
	c := &s.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, v := range c.of {
		v.left = updatesEach
		c.of[key] = v
	}
}

// sendUpdates tells those clients that have not been told often enough. Between bursts it waits a
// little, for the queues of the devices.
func (s *Server) sendUpdates(ctx context.Context) {
	wan, ok := s.leases.Address()
	if !ok || !s.updating() {
		return
	}
	sent := 0
	for _, l := range s.leases.All() {
		if l.Kind != lease.PCP {
			continue
		}
		v, ok := s.takeUpdate(portOf(&l))
		if !ok {
			continue
		}
		to := lan.Packet{From: netip.AddrPortFrom(l.Client, v.port), Local: v.from.local, Device: v.from.device}
		_ = s.socket.Reply(to, s.update(&l, &v, wan)) // as good as lost: there are more
		if sent++; sent%burst == 0 && !pause(ctx, time.Millisecond) {
			return
		}
	}
}

// updating is whether a client is still to be told.
func (s *Server) updating() bool {
	c := &s.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range c.of {
		if v.left > 0 {
			return true
		}
	}
	return false
}

// takeUpdate counts an update, and is false if none is left.
func (s *Server) takeUpdate(key port) (client, bool) {
	c := &s.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.of[key]
	if v.left == 0 {
		return client{}, false
	}
	v.left--
	c.of[key] = v
	return v, true
}

// update is the message for a lease. Who wanted another address of the WAN and nothing else is told that it
// is not to be had.
func (s *Server) update(l *lease.Lease, v *client, wan netip.Addr) []byte {
	m := mapRequest{proto: byte(l.Proto), internal: l.Internal}
	_, _ = hex.Decode(m.nonce[:], []byte(l.Key)) // 24 digits, as the lease says
	var opts []byte
	if v.exact {
		opts = appendOption(opts, option{code: optPreferFailure})
	}
	for _, p := range l.From {
		if headerLen+mapLen+len(opts)+optionHeaderLen+filterLen <= maxMessage {
			opts = appendOption(opts, option{code: optFilter, data: filter(p)})
		}
	}
	lifetime := time.Duration(seconds(l, s.now())) * time.Second
	asked := netip.AddrFrom4(v.external)
	if v.exact && !asked.IsUnspecified() && asked != wan {
		b := appendMap(nil, &m, netip.AddrPortFrom(asked, l.External), 0, 0, opts)
		putHeader(b, cannotProvideExternal, cannotProvideExternal.lifetime(), s.leases.Epoch())
		return b
	}
	return appendMap(nil, &m, netip.AddrPortFrom(wan, l.External), lifetime, s.leases.Epoch(), opts)
}

// filter is the contents of a FILTER option.
func filter(p netip.Prefix) []byte {
	return appendAddress([]byte{0, byte(mappedBits + p.Bits()), 0, 0}, p.Addr())
}
