// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"iter"
	"math"
	"slices"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// The rules of NAT see the first packet of each connection that is tracked. Of one that the kernel comes to know in its
// midst, because tracking has begun with the table or because it was idle for longer than it is remembered, that is any
// packet of the client: the program on this host that serves the connection would lose it to a backend, which resets it. So such
// connections are made known before their port leads elsewhere.

// translatedTCP yields the ports over TCP from which packets are led elsewhere.
func translatedTCP(ports iter.Seq[portset.Port]) iter.Seq[portset.Port] {
	return func(yield func(portset.Port) bool) {
		for p := range ports {
			if p.Proto == nat.TCP && (!p.ProxiedOnly() || p.Hold == nat.HoldShared) && !yield(p) {
				return
			}
		}
	}
}

// servedByOthers yields the ports of these over TCP that another program serves.
func (e *core) servedByOthers(ports []portset.Port) (served []portset.Port) {
	for i := range ports { // by index: a port has some 100 bytes
		if p := &ports[i]; p.Proto == nat.TCP && (p.Hold == nat.HoldShared || slices.Contains(e.given, p.Frontend)) {
			served = append(served, *p)
		}
	}
	return served
}

// hasConnections reports whether this host has connections that ports would lead elsewhere, or may have some in a
// moment.
func (e *core) hasConnections(ports []portset.Port) bool {
	if len(e.servedByOthers(ports)) != 0 {
		return true
	}
	connections, err := e.connectionsAt(translatedTCP(slices.Values(ports)))
	e.warnOfUntracked(err)
	return len(connections) != 0
}

// trackConnections has the connections tracked that this host has at ports which are about to be published. A failure
// is no reason not to publish.
func (e *core) trackConnections(ports iter.Seq[portset.Port]) {
	connections, err := e.connectionsAt(ports)
	if err == nil && len(connections) != 0 {
		_, err = e.flows.Create(connections)
	}
	e.warnOfUntracked(err)
}

func (e *core) warnOfUntracked(err error) {
	if err != nil {
		e.log.Warn("connections that this host serves at published ports may be reset", "table", e.opts.Table, "error", err)
	}
}

// connectionsAt lists the connections of this host that ports lead elsewhere.
func (e *core) connectionsAt(ports iter.Seq[portset.Port]) (found []conntrack.Connection, err error) {
	of := hostnet.PortRange{First: math.MaxUint16}
	for p := range ports {
		of.First, of.Last = min(of.First, p.First()), max(of.Last, p.Last())
	}
	if of.First > of.Last {
		return nil, nil
	}
	at := map[uint16][]hostnet.Connection{}
	if err := e.listConnections(of, func(c hostnet.Connection) {
		at[c.Local.Port()] = append(at[c.Local.Port()], c)
	}); err != nil || len(at) == 0 {
		return nil, err
	}
	add := func(p *portset.Port, connections []hostnet.Connection) {
		for _, c := range connections {
			if leads(p, &c) {
				found = append(found, untracked(c))
			}
		}
	}
	for p := range ports {
		if p.Len() < len(at) {
			for i := range p.Len() {
				add(&p, at[p.First()+uint16(i)])
			}
			continue
		}
		for port, connections := range at {
			if port >= p.First() && port <= p.Last() {
				add(&p, connections)
			}
		}
	}
	return found, nil
}

// leads reports whether a port, of which a connection has the number, would lead its packets elsewhere. Those to loopback
// addresses are left alone, except for shared ports.
func leads(p *portset.Port, c *hostnet.Connection) bool {
	host, local := p.AddrPort.Addr(), c.Local.Addr()
	switch {
	case p.Hold == nat.HoldShared:
	case local.IsLoopback() || local.Is4() != p.Backend.Addr().Is4():
		return false
	}
	if host.IsUnspecified() {
		return host.Is4() == local.Is4()
	}
	return !host.IsValid() || host == local
}

// untracked returns a connection as one of a client elsewhere, whether or not this host has begun it: so the kernel would take it by
// the first packet that comes.
func untracked(c hostnet.Connection) conntrack.Connection {
	t := conntrack.Connection{Client: c.Peer, Server: c.Local, State: conntrack.TCPEstablished}
	switch {
	case c.Opening:
		t.State = conntrack.TCPSynRecv
	case c.Closing:
		t.State = conntrack.TCPFinWait
	}
	return t
}
