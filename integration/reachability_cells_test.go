// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import "fmt"

// source is who asks.
type source string

// The sources. The client and the neighbour are on the LAN: the one knows the host as
// its router, the other the way to the networks as well, and sends the host what is for
// loopback addresses. So does the sibling, from within.
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

// inNetwork is whether the source is an endpoint.
func (s source) inNetwork() bool { return s == fromBackend || s == fromSibling || s == fromOther }

// asked is the address that a source asks.
type asked string

const (
	byLAN      asked = "LAN address"
	bySecond   asked = "second LAN address"
	byGateway  asked = "gateway address"
	byLoopback asked = "loopback address"
	byBackend  asked = "the backend's address"
	byFar      asked = "a server far away"
)

// target is the port that a source asks for.
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

	farPort target = "any port"
)

func targets(by asked) []target {
	switch by {
	case byBackend:
		return []target{backendPort, otherPortOf}
	case byFar:
		return []target{farPort}
	case byLAN, bySecond, byGateway, byLoopback:
	}
	return []target{publishedAny, publishedAcross, publishedOne, publishedLoopback, unpublished}
}

// addresses are those that a source can ask: another one's loopback address takes an
// attacker to ask for, and the far server a route.
func addresses(s source) []asked {
	switch s {
	case fromLinkLocal:
		return []asked{byLAN}
	case fromNeighbour:
		return []asked{byLAN, bySecond, byGateway, byLoopback, byBackend}
	case fromHost, fromSibling:
		return []asked{byLAN, bySecond, byGateway, byLoopback, byBackend, byFar}
	case fromClient, fromBackend, fromOther:
	}
	return []asked{byLAN, bySecond, byGateway, byBackend, byFar}
}

// cell is one question.
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

// cells are all questions of a family.
func cells(bits int) (all []cell) {
	for _, s := range sources() {
		if s == fromLinkLocal && bits == 32 {
			continue // no host of today has link-local addresses only
		}
		for _, by := range addresses(s) {
			for _, to := range targets(by) {
				for _, network := range []string{"tcp", "udp"} {
					all = append(all, cell{s, by, to, bits, network})
				}
			}
		}
	}
	return all
}

// outcome is an answer: who answers, whom he sees asking; or why nobody does.
type outcome struct {
	server string // "backend:80"; empty: nobody
	seen   string // as who the client is seen: a machine, or an address of the host's
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

// The servers, which are called by what they are.
const (
	serverPublished = "backend:80" // which all frontends lead to
	serverOther     = "backend:81" // but this, which is not published
	serverLoopback  = "backend:82" // and this, for loopback frontends
	serverFar       = "far"
)

// want is the outcome by design.
func (c cell) want() outcome {
	switch c.asked {
	case byFar:
		return c.wantOfFar()
	case byBackend:
		return c.wantDirectly()
	case byLoopback:
		if c.source != fromHost { // nobody else asks a host for those
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
	case unpublished, backendPort, otherPortOf, farPort:
		return refused
	}
	return outcome{server: server, seen: c.seenBehindFrontend()}
}

// seenBehindFrontend is as whom the backend sees the source that has asked the host.
func (c cell) seenBehindFrontend() string {
	const (
		proxy   = "gateway" // by whose address the host reaches the backend
		hairpin = "gateway" // so that the answer comes back the same way
	)
	switch {
	case c.asked == byLoopback, c.target == publishedAcross, c.source == fromLinkLocal:
		return proxy
	case c.source == fromBackend, c.source == fromSibling:
		return hairpin
	case c.source == fromHost && c.asked == byGateway:
		return "gateway" // it speaks to an address of its own from the same
	case c.source == fromHost && c.asked == bySecond && c.bits == 128:
		return "host (second)" // over IPv4 from the first of the prefix
	}
	return string(c.source)
}

// wantDirectly is the outcome at the backend's own address: the guard lets nobody in
// but siblings, and the host itself is not forwarded.
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

// wantOfFar is the outcome far away: networks are masqueraded, the LAN is not.
func (c cell) wantOfFar() outcome {
	if c.source.inNetwork() || c.source == fromHost {
		return outcome{server: serverFar, seen: "host (far)"}
	}
	return outcome{server: serverFar, seen: string(c.source)}
}
