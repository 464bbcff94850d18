// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Element is one element of a map or a set.
type Element struct {
	// Set is the name of the map or set that holds it.
	Set string
	Key Key
	// Value is what a map gives for the key: an address and a port. Zero for an
	// element of a set.
	Value netip.AddrPort
	// Comment stands with the element, readable with nft(8): at most 127 bytes,
	// without control characters and double quotes. What is read back may be
	// anything, for others can write it. Empty: none.
	Comment string
	// Timeout is the element's whole life, from the moment it is added. The kernel
	// counts it in ticks of 1 to 10 ms (CONFIG_HZ), so that what is read back can be
	// that much shorter. Zero: for ever.
	Timeout time.Duration
	// Expires is how much of the Timeout is left: of what is read back never zero.
	// Zero when adding: all of it.
	Expires time.Duration
	// Strange says why an element that was read is none that this package can write: a
	// range that is no prefix, or nft(8)'s "*". It then has no Key. Empty: it is one.
	Strange string
}

// Key is the key of an element. It is comparable. Its zero value is no key.
type Key struct {
	addr netip.Addr
	port uint16
	// length is the prefix length plus one of a segment, zero of other keys.
	length uint8
}

// PortKey is the key of a set whose type is inet_service.
func PortKey(port uint16) Key { return Key{port: port} }

// AddrPortKey is the key of a set whose type is an address and an inet_service.
func AddrPortKey(ap netip.AddrPort) Key { return Key{addr: ap.Addr(), port: ap.Port()} }

// SegmentKey is the key of an interval set whose type is two addresses. It is
// matched when both lie within the prefix: by a packet that stays on one segment.
//
// Segments of one set must not overlap. The kernel refuses one whose first or last
// address lies in another (unix.EEXIST), but not one around others; and asked to delete
// one, it deletes the oldest that holds its first address, whichever that is
// (nft_pipapo_insert and nft_pipapo_deactivate in net/netfilter/nft_set_pipapo.c).
func SegmentKey(p netip.Prefix) Key {
	p = p.Masked()
	return Key{addr: p.Addr(), length: uint8(p.Bits() + 1)}
}

// AddrPort returns the address, which is zero for a PortKey, and the port.
func (k Key) AddrPort() netip.AddrPort { return netip.AddrPortFrom(k.addr, k.port) }

// Segment returns the prefix of a SegmentKey, and whether it is one.
func (k Key) Segment() (netip.Prefix, bool) {
	if k.length == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(k.addr, int(k.length)-1), true
}

// String returns the key as nft(8) spells it.
func (k Key) String() string {
	switch {
	case k.length != 0:
		p, _ := k.Segment()
		return fmt.Sprintf("%s . %s", p, p)
	case k.addr.IsValid():
		return fmt.Sprintf("%s . %d", k.addr, k.port)
	}
	return fmt.Sprint(k.port)
}

// String returns the element as nft(8) would spell it behind "add element inet nftnat".
func (e Element) String() string {
	if e.Strange != "" {
		return fmt.Sprintf("%s { %s }", e.Set, e.Strange)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s { %s", e.Set, e.Key)
	if e.Timeout != 0 {
		b.WriteString(" timeout ")
		b.WriteString(duration(e.Timeout))
	}
	if e.Comment != "" {
		b.WriteString(" comment ")
		b.WriteString(quote(e.Comment))
	}
	if e.Value.IsValid() {
		fmt.Fprintf(&b, " : %s . %d", e.Value.Addr(), e.Value.Port())
	}
	b.WriteString(" }")
	return b.String()
}

// duration spells a time-out as nft(8) reads it, in whole milliseconds (timestring of
// nftables' src/scanner.l).
func duration(d time.Duration) string {
	ms := milliseconds(d)
	var b strings.Builder
	for _, unit := range []struct {
		name string
		ms   uint64
	}{{"d", 86_400_000}, {"h", 3_600_000}, {"m", 60_000}, {"s", 1000}, {"ms", 1}} {
		if n := ms / unit.ms; n != 0 {
			fmt.Fprintf(&b, "%d%s", n, unit.name)
		}
		ms %= unit.ms
	}
	return b.String()
}

// quote puts a comment in quotes. nft(8) knows no escapes, so a backslash stands for
// itself; a comment that nft(8) cannot write, which only others can have made, is
// escaped as in Go, so that it cannot mislead who reads it.
func quote(s string) string {
	if checkComment(s) != nil {
		return fmt.Sprintf("%q", s)
	}
	return `"` + s + `"`
}

// maxComment is the longest comment that nft(8) reads, without its final NUL
// (NFTNL_UDATA_COMMENT_MAXLEN in libnftnl's include/libnftnl/udata.h).
const maxComment = 127

func checkComment(s string) error {
	if len(s) > maxComment {
		return fmt.Errorf("comment: it has %d bytes, nft(8) reads %d", len(s), maxComment)
	}
	for i := range len(s) {
		// nft(8) has no way to write a quote inside quotes.
		if c := s[i]; c < ' ' || c == 0x7f || c == '"' {
			return fmt.Errorf("comment %q: byte %d cannot be written in nft(8)", s, i+1)
		}
	}
	return nil
}

// check reports why the element cannot be one of the collection.
func (c collection) check(e Element) error {
	if err := c.checkKey(e.Key); err != nil {
		return err
	}
	if err := checkComment(e.Comment); err != nil {
		return err
	}
	switch {
	case c.value == nil && e.Value.IsValid():
		return fmt.Errorf("a set has no values")
	case c.value != nil && (!c.value.isAddrPort() || !fits(c.value[0], e.Value.Addr())):
		return fmt.Errorf("the value is no %s", c.value)
	case e.Timeout != 0 && !c.timeout:
		return fmt.Errorf("%s %s has no time-outs", c.kind(), c.name)
	case e.Timeout < 0 || e.Expires < 0 || e.Expires > e.Timeout:
		return fmt.Errorf("time-out %s with %s left", e.Timeout, e.Expires)
	}
	return nil
}

func (c collection) checkKey(k Key) error {
	var ok bool
	switch {
	case k.length != 0:
		ok = c.interval && c.key.isSegment() && fits(c.key[0], k.addr)
	case k.addr.IsValid():
		ok = !c.interval && c.key.isAddrPort() && fits(c.key[0], k.addr)
	default:
		ok = !c.interval && c.key.isPort()
	}
	if !ok {
		return fmt.Errorf("the key is no %s", c.key)
	}
	return nil
}

// The types of which there are keys and values.

func (t Type) isPort() bool { return len(t) == 1 && t[0] == InetService }

func (t Type) isAddrPort() bool { return len(t) == 2 && t[0] != InetService && t[1] == InetService }

func (t Type) isSegment() bool { return len(t) == 2 && t[0] != InetService && t[0] == t[1] }

// fits reports whether the address is one of the data type.
func fits(d DataType, a netip.Addr) bool {
	return d == IPv4Addr && a.Is4() || d == IPv6Addr && a.Is6() && !a.Is4In6() && a.Zone() == ""
}
