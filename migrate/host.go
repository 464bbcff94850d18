// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/internal/process"
	"github.com/nftnat/nftnat/migrate/internal/chains"
	"github.com/nftnat/nftnat/migrate/internal/packets"
	"github.com/nftnat/nftnat/nat"
)

// host is what is known of the host of which a source is.
type host struct {
	// live is set if it is this one: a file may be of another one.
	live      bool
	path      string
	addrs     []netip.Addr
	networks  []netip.Prefix // of addrs
	sockets   map[portKey][]socket
	published []nat.Mapping
	// prerouting and postrouting are what rules do to packets, if rules were read.
	prerouting, postrouting []chains.Claim
}

// socket has a port.
type socket struct {
	addr  netip.Addr
	inode uint32
}

func asInvalid(err error, to **nat.InvalidError) bool { return errors.As(err, to) }

// openHost reads what is known of the host, unless what is read is a file.
func openHost(o Options) (*host, error) {
	h := &host{live: o.File == "", path: o.NetNS, published: o.Published, sockets: map[portKey][]socket{}}
	if !h.live {
		return h, nil
	}
	return h, h.do(h.read)
}

// do calls a function in the network namespace.
func (h *host) do(f func() error) (err error) {
	if h.path == "" {
		return f()
	}
	ns, err := os.Open(h.path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }() // nothing was written
	return netns.Do(int(ns.Fd()), f)
}

func (h *host) read() error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				bits, _ := n.Mask.Size()
				h.addrs = append(h.addrs, addr.Unmap())
				h.networks = append(h.networks, netip.PrefixFrom(addr.Unmap(), bits).Masked())
			}
		}
	}
	for _, file := range []string{"tcp", "tcp6", "udp", "udp6"} {
		proto := nat.TCP
		if strings.HasPrefix(file, "udp") {
			proto = nat.UDP
		}
		// Each thread has those of its namespace (proc(5)).
		text, err := os.ReadFile("/proc/thread-self/net/" + file)
		if errors.Is(err, os.ErrNotExist) { // without IPv6
			continue
		}
		if err != nil {
			return fmt.Errorf("list sockets: %w", err)
		}
		h.parseSockets(proto, string(text))
	}
	return nil
}

// parseSockets reads a list of sockets as in /proc/net/tcp, of which those that have a peer have
// no port for themselves.
func (h *host) parseSockets(proto nat.Proto, text string) {
	const local, peer, state, inode, fields = 1, 2, 3, 9, 10
	scan := bufio.NewScanner(strings.NewReader(text))
	for scan.Scan() {
		f := strings.Fields(scan.Text())
		if len(f) < fields {
			continue
		}
		at, ok := parseHexAddr(f[local])
		to, okPeer := parseHexAddr(f[peer])
		if !ok || !okPeer || to.Port() != 0 || proto == nat.TCP && f[state] != "0A" { // TCP_LISTEN
			continue
		}
		n, _ := strconv.ParseUint(f[inode], 10, 32)
		k := portKey{proto, at.Port()}
		h.sockets[k] = append(h.sockets[k], socket{at.Addr(), uint32(n)})
	}
}

// parseHexAddr reads 0100007F:1F90, of which each four bytes are in the order of the host.
func parseHexAddr(text string) (netip.AddrPort, bool) {
	addr, port, ok := strings.Cut(text, ":")
	b, err := hex.DecodeString(addr)
	n, errPort := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || errPort != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(n)), ok
}

// unfit says why a mapping cannot be published on the host; empty: it can.
func (h *host) unfit(m nat.Mapping) string {
	if !h.live {
		return ""
	}
	switch front := m.Frontend.Addr(); {
	case front.IsValid() && !front.IsUnspecified() && !front.IsLoopback() && !slices.Contains(h.addrs, front):
		return front.String() + " is not an address of this host: it is of packets that pass through"
	case slices.Contains(h.addrs, m.Backend.Addr()):
		return m.Backend.Addr().String() + " is this host itself"
	}
	return ""
}

// complete adds to an entry what only the host tells.
func (h *host) complete(e *Entry) {
	if always, sometimes := h.masquerades(e.Mapping); always != "" && !e.Mapping.ProxyOnly {
		e.Mapping.Masquerade = true
		e.Notes = append(e.Notes, "masqueraded by "+always)
		if e.Mapping.Validate() != nil {
			e.Mapping.Masquerade = false
		}
	} else if sometimes != "" {
		e.Notes = append(e.Notes, "masqueraded sometimes, which is not kept, by "+sometimes)
	}
	if p, ok := h.publishedIn(e.Mapping); ok { // it stays as it is
		e.Mapping.Frontend = netip.AddrPortFrom(p.Frontend.Addr(), e.Mapping.Frontend.Port())
		e.Mapping.Hold, e.Mapping.Name = p.Hold, p.Name
		if e.Mapping.Expires.IsZero() {
			e.Mapping.Expires = p.Expires
		}
		return
	}
	if !h.live {
		return
	}
	if text := h.holder(e.Mapping); text != "" {
		e.Mapping.Hold = nat.HoldShared
		e.Notes = append(e.Notes, "held by "+text)
	}
}

// publishedIn returns the published mapping that does what a mapping does, for its ports and addresses at
// least: what was published port by port is read back as a range, and what one source publishes at all addresses
// another one has at some.
func (h *host) publishedIn(m nat.Mapping) (nat.Mapping, bool) {
	for _, p := range h.published {
		by := int(m.Frontend.Port()) - int(p.Frontend.Port())
		if by < 0 || by+int(m.More) > int(p.More) || int(m.Backend.Port())-int(p.Backend.Port()) != by {
			continue
		}
		if p.Proto == m.Proto && covers(p.Frontend.Addr(), m.Frontend.Addr()) && p.Backend.Addr() == m.Backend.Addr() && p.From == m.From {
			return p, true
		}
	}
	return nat.Mapping{}, false
}

// holder names the process that has a port of a mapping; empty: none has.
func (h *host) holder(m nat.Mapping) string {
	for port := int(m.Frontend.Port()); port <= int(m.Frontend.Port())+int(m.More); port++ {
		for _, s := range h.sockets[portKey{m.Proto, uint16(port)}] {
			// A socket for any address of IPv6 may have the port of IPv4 too.
			if !meet(s.addr, m.Frontend.Addr()) && (!s.addr.Is6() || !s.addr.IsUnspecified()) {
				continue
			}
			pid, command, _ := process.Find(s.inode)
			if pid == 0 {
				return "another process"
			}
			return fmt.Sprintf("%s (pid %d)", command, pid)
		}
	}
	return ""
}

// behind reports whether a backend is on the other side of an interface: the route says so, or a
// rule masquerades what leaves the backend's network by other interfaces.
func (h *host) behind(backend netip.Addr, link string) (is bool) {
	for _, c := range h.postrouting {
		if c.Rule.Action == chains.Hide && c.Src.Has(backend) && !c.Src.Any() && c.LeavesElsewhere(link) {
			return true
		}
	}
	if !h.live {
		return false
	}
	err := h.do(func() error {
		routes, err := netlink.RouteGet(backend.AsSlice())
		if err != nil || len(routes) == 0 {
			return err
		}
		l, err := net.InterfaceByIndex(routes[0].LinkIndex)
		is = err == nil && l.Name == link
		return err
	})
	return is && err == nil
}

// isMarked reports whether packets of a claim have a mark that is lost once nftnat translates them. What localhost and
// the backend's own network send is marked to be masqueraded, which nftnat does without a mark.
func (h *host) isMarked(c chains.Claim) bool {
	if c.Mark == "" || c.Src.Any() {
		return c.Mark != ""
	}
	if c.Src.First.IsLoopback() && c.Src.Last.IsLoopback() {
		return false
	}
	backend := c.Rule.To.Addr
	if !h.knows(backend) {
		return !c.Src.Has(backend)
	}
	return !slices.ContainsFunc(h.networks, func(p netip.Prefix) bool {
		return p.Contains(backend) && p.Contains(c.Src.First) && p.Contains(c.Src.Last)
	})
}

// knows reports whether the backend's network is known: neither that of a file is, nor one of which each container has
// a link of its own.
func (h *host) knows(backend netip.Addr) bool {
	return slices.ContainsFunc(h.networks, func(p netip.Prefix) bool { return p.Contains(backend) })
}

// marks returns the rule that marks packets which other rules send where a mapping does; empty: none does.
func (h *host) marks(m nat.Mapping) string {
	for _, c := range h.prerouting {
		if c.Rule.Action == chains.Translate && c.Rule.To.Addr == m.Backend.Addr() && isTo(c, m) && h.isMarked(c) {
			return c.Mark
		}
	}
	return ""
}

// isTo reports whether a claim has packets to the frontend of a mapping.
func isTo(c chains.Claim, m nat.Mapping) bool {
	front := m.Frontend.Addr()
	return !packets.Others.Has(c.Class) && protoOf(c.Class) == m.Proto && (!front.IsValid() || c.Class.Is6() == front.Is6()) &&
		c.First <= m.Frontend.Port()+m.More && c.Last >= m.Frontend.Port() &&
		(!front.IsValid() || front.IsUnspecified() || c.Dst.Has(front))
}

// masquerades returns the rule that gives all clients of a backend another address, and else one
// that does it for some.
func (h *host) masquerades(m nat.Mapping) (always, sometimes string) {
	class := packets.TCP4
	switch {
	case m.Proto == nat.UDP && m.Backend.Addr().Is6():
		class = packets.UDP6
	case m.Proto == nat.UDP:
		class = packets.UDP4
	case m.Backend.Addr().Is6():
		class = packets.TCP6
	}
	first, last := m.Backend.Port(), m.Backend.Port()+m.More
	var sources []packets.Span
	for _, c := range h.postrouting {
		if c.Rule.Action != chains.Hide || c.Class != class || c.First > first || c.Last < last || !c.Dst.Has(m.Backend.Addr()) {
			continue
		}
		if _, one := c.Dst.One(); len(c.If) != 0 {
			if one && c.Src.Any() && sometimes == "" {
				sometimes = c.Rule.Origin()
			}
			continue
		}
		sources = append(sources, c.Src)
		if always == "" || !c.Dst.Any() {
			always = c.Rule.Origin()
		}
	}
	if !packets.Everyone(sources, m.Backend.Addr().Is6()) {
		always = ""
	}
	return always, sometimes
}
