// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import "net/netip"

// RouteQuery is a packet that is to be routed.
type RouteQuery struct {
	Dst netip.Addr
	// Src is its source; invalid: the host's own packet, which has none yet.
	Src netip.Addr
	// Iif is the interface by which it came. Zero: the host sends it.
	Iif int
	// Oif is the interface to which its sender is bound. Zero: none.
	Oif              int
	Mark             uint32
	Proto            uint8 // zero: not known
	SrcPort, DstPort uint16
	UID              uint32 // of the sender of the host's own packet
	TOS              uint8
}

// RouteType is RTN_*.
type RouteType uint8

// String returns the type as ip-route(8) names it: "unicast", "local".
func (t RouteType) String() string { return "" }

// Route is a route, and, of several next hops, the one that the kernel has chosen.
type Route struct {
	Type  RouteType
	Table uint32
	Dst   netip.Prefix // of length zero: default
	// Src is that of a route of IPv6 for a source; else of length zero or invalid.
	Src      netip.Prefix
	Oif      int
	Gateway  netip.Addr // invalid: the destination is on link
	PrefSrc  netip.Addr // the source of packets of the host; invalid: the interface's
	MTU      int        // as the route says; zero: that of the interface
	Metric   uint32
	TOS      uint8
	Scope    uint8  // RT_SCOPE_*, of IPv4
	Protocol uint8  // RTPROT_*
	Flags    uint32 // RTNH_F_*
	NextHop  uint32 // the id of a nexthop object; zero: none
	Hops     []Hop  // all next hops; more than one: by a hash
	// Text is the route as ip-route(8) prints it and its table:
	// "default via 192.0.2.254 dev eth0 in table main".
	Text string
}

// Hop is a next hop.
type Hop struct {
	Oif     int
	Gateway netip.Addr
	Weight  int
	Flags   uint32 // RTNH_F_*
}

// RouteFault is why a packet is not routed.
type RouteFault struct {
	// Kind is one of the constants.
	Kind FaultKind
	// Thing is it as its own tool names it: "blackhole 172.30.0.2 in table main", "rule 32000: from
	// 172.30.0.2 blackhole", "net.ipv4.ip_forward = 0".
	Thing string
	// What says what it does, in some words: "discards packets to 172.30.0.2".
	What string
	// Remedy is a command that would mend it: "ip route del blackhole 172.30.0.2".
	Remedy string
	// Silent is false if the sender gets an ICMP error.
	Silent bool
	Route  *Route      // nil: none
	Rule   *PolicyRule // nil: none
}

// FaultKind is a kind of RouteFault.
type FaultKind string

// The kinds.
const (
	FaultRoute      FaultKind = "route"      // a route of type blackhole, unreachable or prohibit
	FaultRule       FaultKind = "rule"       // a policy rule that does so
	FaultNoRoute    FaultKind = "no route"   // none matches
	FaultForwarding FaultKind = "forwarding" // of the interface or the host
	FaultRPFilter   FaultKind = "rp_filter"
	FaultSource     FaultKind = "source"      // an address that no packet may come from
	FaultDest       FaultKind = "destination" // an address that no packet may go to
	FaultUnknown    FaultKind = "unknown"     // the kernel refuses, and the cause was not found
)

// Lookup asks the kernel for the route of a packet: by its policy rules, forwarding switches and
// reverse path filter. One of route and fault is nil. An error says that it could not be asked.
func (h *Host) Lookup(q RouteQuery) (route *Route, fault *RouteFault, err error) {
	return nil, nil, errTODO
}

// FIB evaluates policy rules and routes alone, as the fib expressions of nft do: without forwarding
// switches and the reverse path filter. It reads the tables that it comes to.
func (h *Host) FIB(q RouteQuery) (route *Route, fault *RouteFault, err error) {
	return nil, nil, errTODO
}

// AddressType returns what an address is to the host, as fib expressions and the match addrtype ask:
// RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST or RTN_UNICAST. A link that is not zero limits it to
// addresses of that interface.
func (h *Host) AddressType(addr netip.Addr, link int) (RouteType, error) { return 0, errTODO }

// ReversePath reports whether the reverse path filter and the checks of the source let a packet of
// IPv4 in by q.Iif from q.Src. If not, fault says why. For IPv6, which has none, it does.
func (h *Host) ReversePath(q RouteQuery) (fault *RouteFault, err error) { return nil, errTODO }

// Forwarding reports whether the host forwards packets of the family that come in by an interface.
// If not, fault says which switch is off.
func (h *Host) Forwarding(is4 bool, iif int) (fault *RouteFault, err error) { return nil, errTODO }

// PolicyRule is a rule of ip-rule(8).
type PolicyRule struct {
	Is4                      bool
	Priority                 uint32
	Not                      bool
	From, To                 netip.Prefix // invalid: any
	Iif, Oif                 string       // empty: any
	IifDetached, OifDetached bool         // there is no such interface
	Mark, Mask               uint32       // Mask zero: any
	TOS                      uint8        // of IPv4 and IPv6; TOSMask zero: any
	TOSMask                  uint8
	Proto                    uint8 // zero: any
	SrcPorts, DstPorts       PortMatch
	UIDFirst, UIDLast        uint32
	HasUID                   bool
	TunID                    uint64
	L3MDev                   bool
	// Action is FR_ACT_*. Table and Goto belong to it.
	Action      uint8
	Table, Goto uint32
	// SuppressLength has routes ignored whose prefixes are not longer; -1: none.
	SuppressLength int
	// SuppressGroup has routes ignored by interfaces of that group; -1: none.
	SuppressGroup int64
	// Unread is set if it has attributes that are not read here.
	Unread bool
}

// PortMatch is a range of ports, or a value in the bits of a mask.
type PortMatch struct{ First, Last, Mask uint16 }

// String returns the rule about as ip-rule(8) prints it: "32765: from 172.30.0.2 lookup 99".
func (r *PolicyRule) String() string { return "" }

// PolicyRules lists the policy rules of a family in the order in which the kernel asks them. Those
// of a kernel without policy routing are the three that it is as if it had.
func (h *Host) PolicyRules(is4 bool) ([]*PolicyRule, error) { return nil, errTODO }

// Routes lists the routes of a table.
func (h *Host) Routes(is4 bool, table uint32) ([]*Route, error) { return nil, errTODO }
