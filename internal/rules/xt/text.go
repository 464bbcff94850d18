// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// words are the options of a match or target, as `iptables -S` prints them.
type words struct{ b strings.Builder }

func (w *words) String() string { return w.b.String() }

// add appends a word and its values.
func (w *words) add(word string, values ...any) {
	if w.b.Len() > 0 {
		w.b.WriteByte(' ')
	}
	w.b.WriteString(word)
	for _, v := range values {
		w.b.WriteByte(' ')
		fmt.Fprint(&w.b, v)
	}
}

// not is add behind an exclamation mark if the option is inverted.
func (w *words) not(inverted bool, word string, values ...any) {
	if inverted {
		w.add("!")
	}
	w.add(word, values...)
}

// on appends a word if a flag is set.
func (w *words) on(set bool, word string) {
	if set {
		w.add(word)
	}
}

// span is a range of numbers, or one.
func span[T uint8 | uint16 | uint32](from, to T) string {
	if from == to {
		return strconv.FormatUint(uint64(from), 10)
	}
	return fmt.Sprintf("%d:%d", from, to)
}

// hex is a value with a mask, which is left out if it is all ones.
func hex(value, mask uint32) string {
	if mask == 1<<32-1 {
		return fmt.Sprintf("%#x", value)
	}
	return fmt.Sprintf("%#x/%#x", value, mask)
}

// masked is an address with a mask, as a length if the mask is one.
func masked(addr, mask netip.Addr) string {
	n, ok := prefixLen(mask)
	if !ok {
		return addr.String() + "/" + mask.String()
	}
	return addr.String() + "/" + strconv.Itoa(n)
}

// hostOr is an address with its mask, which is left out if it is all ones.
func hostOr(a, mask netip.Addr) string {
	if n, ok := prefixLen(mask); ok && n == mask.BitLen() {
		return a.String()
	}
	return masked(a, mask)
}

// prefixLen returns how many ones a mask begins with, and whether there are no others.
func prefixLen(mask netip.Addr) (n int, ok bool) {
	octets := mask.AsSlice()
	for _, b := range octets {
		n += bits.LeadingZeros8(^b)
		if b != 0xff {
			break
		}
	}
	whole, err := mask.Prefix(n)
	return n, err == nil && whole.Addr() == mask
}

// In reports whether an address is one of them.
func (m AddrMask) In(a netip.Addr) bool {
	if a.BitLen() != m.Addr.BitLen() || a.BitLen() != m.Mask.BitLen() {
		return false
	}
	x, y, mask := a.AsSlice(), m.Addr.AsSlice(), m.Mask.AsSlice()
	for i := range x {
		if (x[i]^y[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}

// quoted is a string as iptables writes it, in quotes unless it has letters, digits, - and _ alone.
func quoted(s string) string {
	plain := s != ""
	for i := range len(s) {
		c := s[i]
		plain = plain && (c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z')
	}
	if plain {
		return s
	}
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`, `'`, `\'`).Replace(s) + `"`
}

// joined are the names of the bits that are set.
func joined(set uint32, names []bitName) string {
	var out []string
	for _, n := range names {
		if set&n.bit != 0 {
			out = append(out, n.name)
		}
	}
	return strings.Join(out, ",")
}

// bitName is the name of a bit.
type bitName struct {
	bit  uint32
	name string
}
