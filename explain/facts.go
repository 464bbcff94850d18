// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// facts is what the walk asks of the host. [host.Host] has it.
type facts interface {
	Link(index int) (*host.Link, error)
	Links() ([]*host.Link, error)
	Ports(bridge int) ([]*host.Link, error)
	Address(addr netip.Addr) (*host.Address, error)
	AddressesOf(link int) ([]*host.Address, error)
	AddressType(addr netip.Addr, link int) (host.RouteType, error)

	Lookup(q host.RouteQuery) (*host.Route, *host.RouteFault, error)
	PolicyRules(is4 bool) ([]*host.PolicyRule, error)
	FIB(q host.RouteQuery) (*host.Route, *host.RouteFault, error)
	Routes(is4 bool, table uint32) ([]*host.Route, error)

	Neighbour(addr netip.Addr, link int) (*host.Neighbour, error)
	ProxyNeighbour(addr netip.Addr, link int) (bool, error)
	FDB(bridge int, mac []byte) (*host.FDB, error)

	SysctlInt(name string) (int, error)
	Setting(is4 bool, link int, name string) (value int, from string, err error)
	Counter(group, name string) (uint64, error)
	Conntrack() (*host.Conntrack, error)
	EntriesOf(proto uint8, from netip.Addr, to netip.AddrPort) ([]*host.Entry, error)
	Listener(proto uint8, to netip.AddrPort, iif int) (*host.Socket, error)
	Stopped(pid int) bool
	LeadsLocalhost(pid int, name string) bool
	LeadsPorts(pid int, name string) *host.Process
	LocalPorts() (first, last uint16, err error)
	Owner(pid int) (uid, gid uint32, err error)
	Qdiscs(link int) ([]*host.Qdisc, error)
	Filters(link int, egress bool) ([]*host.TCFilter, error)
	Classify(link int, egress bool, frame []byte, header int, protocol uint16) (host.TCVerdict, *host.TCFilter, error)
	// Peer opens the namespace of a neighbour, and PeerOf that of the other end of a link; nil: it is not
	// on this machine, or cannot be found.
	Peer(neighbour netip.Addr) (peer, error)
	PeerOf(link *host.Link) (peer, error)
	WhoHas(addr netip.Addr, link *host.Link, from netip.Addr, timeout time.Duration) (mac []byte, err error)
	Probe(ctx context.Context, proto uint8, backend netip.AddrPort, timeout time.Duration) host.ProbeResult
	ProbeAll(ctx context.Context, backends []host.Backend, timeout time.Duration) []host.ProbeResult
	// Listeners lists all sockets that take packets of a protocol.
	Listeners(proto uint8) ([]*host.Socket, error)
	FindProcess(s *host.Socket)
	SocketsOf(pid int) (map[uint32]bool, error)
	// XFRM returns the policy of IPsec that drops or encrypts a packet; nil: none. It is not certain if it
	// depends on ports that are not known.
	XFRM(dir host.XFRMDir, q host.RouteQuery) (p *host.XFRMPolicy, certain bool, err error)
	// NFPrograms lists the programs of eBPF at hooks of netfilter, of all namespaces.
	NFPrograms() ([]host.NFProgram, error)
	Unread() []string
}

// peer is the namespace of a neighbour.
type peer interface {
	facts
	evaluator
	// in is the interface by which packets of this host come in.
	in() int
	Close() error
}

// evaluator runs a packet through the chains of a hook.
type evaluator interface {
	run(h eval.Hook, p *eval.Packet) ([]eval.Outcome, error)
	// clamps reports whether some rule lowers the segment size of TCP.
	clamps() bool
	// setName returns the name of a set of ipset by its number; empty: it is not known.
	setName(set uint16) string
	// changed reports whether the rules are others than those that were read.
	changed() (bool, error)
	// tells collects what rules tell packets apart by, but for those of our table. Packets have no other
	// addresses than those of met and those that rules give them. Nil: they are not known.
	tells(a *apart, ours string, met map[netip.Addr]bool)
}
