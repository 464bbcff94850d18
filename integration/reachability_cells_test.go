// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"slices"
)

// source is the machine that sends.
type source string

// The sources. The client and the neighbour are on the LAN. The host is the client's router.
// The neighbour has routes to the networks and for loopback addresses; the sibling has the
// latter too.
const (
	fromClient    source = "client"
	fromLinkLocal source = "client, link-local source"
	fromNeighbour source = "neighbour"
	fromHost      source = "host"
	fromBackend   source = "backend"
	fromSibling   source = "sibling"
	fromOther     source = "other network"
)

func sources() []source {
	return []source{fromClient, fromLinkLocal, fromNeighbour, fromHost, fromBackend, fromSibling, fromOther}
}

// inNetwork reports whether the source is an endpoint.
func (s source) inNetwork() bool { return s == fromBackend || s == fromSibling || s == fromOther }

// asked is the address to which a source connects.
type asked string

const (
	byLAN      asked = "LAN address"
	bySecond   asked = "second LAN address"
	byGateway  asked = "gateway address"
	byLoopback asked = "loopback address"
	byBackend  asked = "the backend's address"
	byFar      asked = "a server far away"
	byNear     asked = "a server on the LAN"
)

// byHost are the addresses of the host.
var byHost = []asked{byLAN, bySecond, byGateway, byLoopback}

// target is the port to which a source connects.
type target string

// The targets at an address of the host, at the backend's own, and far away.
const (
	publishedAny      target = "published, any address"
	publishedAcross   target = "published, backend of the other family"
	publishedOne      target = "published, LAN address"
	publishedLoopback target = "published, loopback address"
	unpublished       target = "not published"

	backendPort target = "a published port"
	otherPortOf target = "another port"

	// The way out: where the port is published that the source sends from.
	farPort    target = "from any port"
	fromAny    target = "from a port published on any address"
	fromOne    target = "from one published on the LAN address"
	fromNoLink target = "from one published on an address of no link"
)

func targets(by asked) []target {
	switch by {
	case byBackend:
		return []target{backendPort, otherPortOf}
	case byFar, byNear:
		return []target{farPort, fromAny, fromOne, fromNoLink}
	case byLAN, bySecond, byGateway, byLoopback:
	}
	return []target{publishedAny, publishedAcross, publishedOne, publishedLoopback, unpublished}
}

// isPublishedSource reports whether the source sends from a published port.
func (t target) isPublishedSource() bool { return t == fromAny || t == fromOne || t == fromNoLink }

// addresses returns those that a source can reach: another machine's loopback address needs
// an attacker, and the far server a route.
func addresses(s source) []asked {
	switch s {
	case fromLinkLocal:
		return []asked{byLAN}
	case fromNeighbour:
		return []asked{byLAN, bySecond, byGateway, byLoopback, byBackend}
	case fromHost, fromSibling:
		return []asked{byLAN, bySecond, byGateway, byLoopback, byBackend, byFar}
	case fromBackend:
		return []asked{byLAN, bySecond, byGateway, byBackend, byFar, byNear}
	case fromClient, fromOther:
	}
	return []asked{byLAN, bySecond, byGateway, byBackend, byFar}
}

// cell is one cell of the page.
type cell struct {
	source  source
	asked   asked
	target  target
	bits    int // 32 or 128: the family
	network string
}

func (c cell) String() string {
	return fmt.Sprintf("%s, %s/%d: %s, %s", c.source, c.network, c.bits, c.asked, c.target)
}

// cells returns all cells of a family.
func cells(bits int) (all []cell) {
	for _, s := range sources() {
		if s == fromLinkLocal && bits == 32 {
			continue // no host has link-local addresses only
		}
		for _, by := range addresses(s) {
			for _, to := range targets(by) {
				if to.isPublishedSource() && s != fromBackend {
					continue // it publishes nothing
				}
				for _, network := range []string{"tcp", "udp"} {
					all = append(all, cell{s, by, to, bits, network})
				}
			}
		}
	}
	return all
}

// hostCells returns those that are by an address of the host.
func hostCells(bits int) []cell {
	return slices.DeleteFunc(cells(bits), func(c cell) bool { return !slices.Contains(byHost, c.asked) })
}

// outcome is the server that answers and the client's address that it sees, or why none does.
type outcome struct {
	server string // "backend:80"; empty: nobody
	seen   string // the client as the server sees it: a machine, or an address of the host
	none   string // "refused" or "dropped"
}

func (o outcome) String() string {
	switch {
	case o.server == "":
		return o.none
	case o.seen == "":
		return o.server
	}
	return o.server + " sees " + o.seen
}

var (
	refused = outcome{none: "refused"}
	dropped = outcome{none: "dropped"}
)

// The names of the servers.
const (
	serverPublished = "backend:80" // the backend of all frontends
	serverOther     = "backend:81" // not published
	serverLoopback  = "backend:82" // the backend of loopback frontends
	serverFar       = "far"
	serverNear      = "near"
)

// want is the outcome by design.
func (c cell) want() outcome {
	switch c.asked {
	case byFar, byNear:
		return c.wantOfFar()
	case byBackend:
		return c.wantDirectly()
	case byLoopback:
		if c.source != fromHost { // other sources cannot
			return dropped
		}
	case byLAN, bySecond, byGateway:
	}
	server := serverPublished
	switch c.target {
	case publishedAny, publishedAcross:
	case publishedOne:
		if c.asked != byLAN {
			return refused
		}
	case publishedLoopback:
		if c.asked != byLoopback {
			return refused
		}
		server = serverLoopback
	case unpublished, backendPort, otherPortOf, farPort, fromAny, fromOne, fromNoLink:
		return refused
	}
	return outcome{server: server, seen: c.seenBehindFrontend()}
}

// seenBehindFrontend is the source as the backend sees it, if it connects to the host.
func (c cell) seenBehindFrontend() string {
	const (
		proxy   = "gateway" // the host's address towards the backend
		hairpin = "gateway" // so that the answer returns through the host
	)
	switch {
	case c.asked == byLoopback, c.target == publishedAcross, c.source == fromLinkLocal:
		return proxy
	case c.source == fromBackend, c.source == fromSibling:
		return hairpin
	case c.source == fromHost && c.asked == byGateway:
		return "gateway" // the host uses an address of its own to connect to it
	case c.source == fromHost && c.asked == bySecond && c.bits == 128:
		return "host (second)" // over IPv4, from the first address of the prefix
	}
	return string(c.source)
}

// wantDirectly is the outcome at the backend's own address: the guard lets only siblings in;
// the host's own packets are not forwarded.
func (c cell) wantDirectly() outcome {
	server := map[target]string{backendPort: serverPublished, otherPortOf: serverOther}[c.target]
	switch c.source {
	case fromBackend, fromSibling:
		return outcome{server: server, seen: string(c.source)}
	case fromHost:
		return outcome{server: server, seen: "gateway"}
	case fromClient, fromLinkLocal, fromNeighbour, fromOther:
	}
	return dropped
}

// byItsPort is added to a source that is seen with the port of its frontend.
const byItsPort = ", its port"

// wantOfFar is the outcome far away: networks are masqueraded, the LAN is not.
// From a published port a backend leaves by the frontend, where the interface has its address.
func (c cell) wantOfFar() outcome {
	server, here := serverFar, "host (far)"
	if c.asked == byNear {
		server, here = serverNear, "host"
		if c.bits == 128 {
			here = "host (second)" // which the kernel chooses for the client's address
		}
	}
	switch {
	case c.target == fromOne && c.asked == byNear:
		return outcome{server: server, seen: "host" + byItsPort}
	case c.target == fromNoLink:
		return outcome{server: server, seen: "host (no link)" + byItsPort}
	case c.target == fromAny:
		return outcome{server: server, seen: here + byItsPort}
	case c.asked == byNear:
		return outcome{server: server, seen: here}
	}
	if c.source.inNetwork() || c.source == fromHost {
		return outcome{server: serverFar, seen: "host (far)"}
	}
	return outcome{server: serverFar, seen: string(c.source)}
}
