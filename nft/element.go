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
	// Value is what a map gives for the key: an address and a port, or a port alone, which is
	// not zero, or for a RangeKey an address with the port zero. Zero for an element of a set,
	// or of a map of marks.
	Value netip.AddrPort
	// Mark is what a map of marks gives for the key. Zero for other elements.
	Mark uint32
	// Comment is what nft(8) shows with the element: at most 127 bytes,
	// without control characters and double quotes. Other programs may have written
	// any other. Empty: none.
	Comment string
	// Timeout is how long the element lives from the moment it is added. The kernel
	// counts it in ticks of 1 to 10 ms (CONFIG_HZ), by which it may be shorter when it is
	// read. Zero: for ever.
	Timeout time.Duration
	// Expires is how much of the Timeout is left. It is never zero when it is read; zero when
	// an element is added: all of it.
	Expires time.Duration
	// Foreign says why this package cannot write an element that was read: it is a range of
	// addresses but no prefix, a name that no interface can have, or nft(8)'s "*". It has no Key
	// then.
	// Empty: it can be written.
	Foreign string
}

// ElementKey identifies an element in a table.
type ElementKey struct {
	Set string
	Key Key
}

// ElementKey returns what identifies the element.
func (e Element) ElementKey() ElementKey { return ElementKey{e.Set, e.Key} }

// String returns the element as nft(8) would spell it behind "add element inet nftnat".
func (e Element) String() string {
	if e.Foreign != "" {
		return fmt.Sprintf("%s { %s }", e.Set, e.Foreign)
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
	switch {
	case e.Value.IsValid() && e.Key.kind == rangeKey:
		fmt.Fprintf(&b, " : %s", e.Value.Addr())
	case e.Value.IsValid():
		fmt.Fprintf(&b, " : %s . %d", e.Value.Addr(), e.Value.Port())
	case e.Value.Port() != 0:
		fmt.Fprintf(&b, " : %d", e.Value.Port())
	case e.Mark != 0:
		b.WriteString(" : " + markText(e.Mark))
	}
	b.WriteString(" }")
	return b.String()
}

// markText spells a mark as nft(8) lists it.
func markText(mark uint32) string { return fmt.Sprintf("0x%08x", mark) }

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

// quote puts a comment in quotes. nft(8) has no escapes, so a backslash stands for
// itself. A comment that nft(8) cannot write is escaped as in Go, so that it cannot mislead
// its reader.
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

// check reports why the element cannot be one of the map or set.
func (c *Set) check(e *Element) error {
	if err := c.checkKey(&e.Key); err != nil {
		return err
	}
	if err := checkComment(e.Comment); err != nil {
		return err
	}
	switch {
	case c.Value == nil && (e.Value != netip.AddrPort{} || e.Mark != 0):
		return fmt.Errorf("a set has no values")
	case c.Value != nil && !c.takes(e):
		return fmt.Errorf("the value is no %s", c.Value)
	case e.Timeout != 0 && !c.Timeout:
		return fmt.Errorf("%s %s has no time-outs", c.Kind(), c.Name)
	case e.Timeout < 0 || e.Expires < 0 || e.Expires > e.Timeout:
		return fmt.Errorf("time-out %s with %s left", e.Timeout, e.Expires)
	}
	return nil
}

// takes reports whether the map can hold the value of the element.
func (c *Set) takes(e *Element) bool {
	switch {
	case c.Value.isMark():
		return e.Mark != 0 && e.Value == netip.AddrPort{}
	case e.Mark != 0:
		return false
	case c.Value.isPort():
		return !e.Value.Addr().IsValid() && e.Value.Port() != 0
	}
	if c.Value.isAddr() && e.Value.Port() != 0 {
		return false
	}
	return (c.Value.isAddrPort() || c.Value.isAddr()) && fits(c.Value[0], e.Value.Addr())
}
