// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bytes"
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/order"
)

// Bounds of anonymous sets: of what is read, to be sorted, and of what is printed.
const (
	maxRead    = 1024
	maxPrinted = 64
)

// lookup prints a look-up in a set or a map.
func (s *printing) lookup(e Lookup) {
	set := s.table.Sets[e.Set]
	if set == nil {
		s.unreadable("lookup reg %d set %s", e.Sreg, e.Set)
		return
	}
	parts := s.key(e.Sreg, int(set.KeyLen))
	if parts == nil {
		s.unreadable("lookup reg %d set %s", e.Sreg, e.Set)
		return
	}
	switch {
	case e.Map && e.Dreg != Verdict:
		kinds := kindsOf(set.DataType)
		k := kindInteger
		if len(kinds) == 1 {
			k = kinds[0]
		}
		s.load(e.Dreg, &operand{from: parts, kind: k, host: k.isHost(), bits: 8 * int(set.DataLen), set: set})
	case e.Map:
		s.say(s.lookedUp(parts, set, " vmap ", false))
		s.lower = nil
	case e.Not:
		s.match(s.lookedUp(parts, set, " != ", true))
	default:
		s.match(s.lookedUp(parts, set, " ", true))
	}
}

// part is a field of a key in a set.
type part struct {
	kind  *kind
	host  bool
	bits  int
	shift int
}

// lookedUp prints a key, what joins it, and the set.
func (s *printing) lookedUp(key []*operand, set *Set, join string, relational bool) string {
	kinds := kindsOf(set.KeyType)
	parts := make([]part, len(key))
	texts := make([]string, len(key))
	for i, o := range key {
		field, shift := s.fieldOf(o)
		if field.isPayload && len(key) == 1 && set.Anonymous() {
			s.checkICMP(field, set)
		}
		field = s.used(field)
		texts[i] = s.text(field)
		parts[i] = part{field.kind, field.host, o.bits, shift}
		if field.isPayload && field.field != nil {
			parts[i].bits = max(o.bits, field.field.bits)
		}
		if len(kinds) == len(key) && kinds[i] != kindInteger {
			parts[i].kind = kinds[i]
		}
		if len(field.ops) != 0 && len(key) == 1 && relational && join == " " {
			join = " == "
		}
	}
	return strings.Join(texts, " . ") + join + s.set(set, parts)
}

// checkICMP notes the type of ICMP that a set has, which stands for a match of it.
func (s *printing) checkICMP(o *operand, set *Set) {
	h := s.headers[transport]
	if h != headerICMP && h != headerICMPv6 || o.layer != transport || o.off != 0 || o.bits != 8 || s.icmp != 0 {
		return
	}
	elements, _ := s.elements(set, 1)
	if len(elements) == 1 && len(elements[0].Key) == 1 {
		s.icmp = elements[0].Key[0]
	}
}

func (s *printing) elements(set *Set, limit int) (elements []Element, more bool) {
	if s.table.reader == nil {
		return nil, true
	}
	elements, more, err := s.table.reader.Elements(set, limit)
	if err != nil {
		return nil, true
	}
	return elements, more
}

// set prints a set: its name, or the elements of an anonymous one.
func (s *printing) set(set *Set, parts []part) string {
	if !set.Anonymous() {
		return "@" + set.Name
	}
	elements, more := s.elements(set, maxRead)
	elements = slices.Clone(elements)
	var texts []string
	if set.Flags&unix.NFT_SET_INTERVAL != 0 && len(parts) == 1 {
		texts = s.intervals(set, elements, parts[0])
	} else {
		order.Sort(elements, func(a, b Element) int {
			switch {
			case a.CatchAll != b.CatchAll:
				return choose(a.CatchAll, 1, -1)
			case len(parts) > 1 && set.Flags&unix.NFT_SET_INTERVAL != 0:
				return 0
			}
			return cmp.Or(bytes.Compare(orderOf(a.Key, parts), orderOf(b.Key, parts)), bytes.Compare(b.Key, a.Key))
		})
		for _, e := range elements {
			texts = append(texts, s.element(set, e, s.keyText(e, parts)))
		}
	}
	if len(texts) > maxPrinted {
		texts, more = texts[:maxPrinted], true
	}
	if more {
		texts = append(texts, "...")
	}
	return "{ " + strings.Join(texts, ", ") + " }"
}

// orderOf returns a key as nft(8) sorts it: strings and concatenations as numbers in the order of the host,
// bits by the lowest.
func orderOf(key []byte, parts []part) (order []byte) {
	if len(parts) == 1 {
		p := parts[0]
		key = key[:min(p.bits/8, len(key))]
		switch b := significant(key, p.kind, p.host); {
		case p.kind.bitmask && !one(b):
			v := new(big.Int).SetBytes(b)
			return new(big.Int).Lsh(big.NewInt(1), v.TrailingZeroBits()).FillBytes(make([]byte, len(b)))
		case p.kind != kindIfname && p.kind != kindString:
			return b
		}
	}
	for _, p := range parts {
		order = append(order, key[:min(p.bits/8, len(key))]...)
		key = key[min(4*slots(p.bits), len(key)):]
	}
	if littleEndian() {
		slices.Reverse(order)
	}
	return order
}

// keyText prints the key of an element of a set without intervals, or of a concatenation.
func (s *printing) keyText(e Element, parts []part) string {
	if e.CatchAll {
		return "*"
	}
	texts := make([]string, 0, len(parts))
	low, high := e.Key, e.End
	for _, p := range parts {
		n, padded := min(p.bits/8, len(low)), min(4*slots(p.bits), len(low))
		if high == nil {
			texts = append(texts, s.keyPart(low[:n], p))
		} else {
			texts = append(texts, s.span(significant(low[:n], p.kind, p.host), significant(high[:n], p.kind, p.host), p))
			high = high[padded:]
		}
		low = low[padded:]
	}
	return strings.Join(texts, " . ")
}

func (s *printing) keyPart(b []byte, p part) string {
	return s.shifted(significant(b, p.kind, p.host), p, false)
}

// shifted prints a value of which the lowest bits are not of the field.
func (s *printing) shifted(b []byte, p part, numeric bool) string {
	if p.shift != 0 {
		v := new(big.Int).SetBytes(b)
		b = v.Rsh(v, uint(p.shift)).FillBytes(make([]byte, len(b)))
	}
	if p.kind.bitmask && !one(b) && !numeric {
		return strings.Join(p.kind.bitNames(s, b), " | ")
	}
	return p.kind.format(s, b, numeric)
}

// span prints an interval of values: one, a prefix, or from the first to the last.
func (s *printing) span(low, high []byte, p part) string {
	if bytes.Equal(low, high) {
		return s.shifted(low, p, false)
	}
	if p.kind == kindIfname || p.kind == kindString {
		name := bytes.TrimRight(low, "\x00")
		return `"` + string(name) + `*"`
	}
	if n, ok := prefixOf(low, high); ok && p.kind.prefix {
		return fmt.Sprintf("%s/%d", s.shifted(low, p, false), n)
	}
	return s.shifted(low, p, true) + "-" + s.shifted(high, p, true)
}

// intervals prints the elements of a set of intervals, of which some only end others.
func (s *printing) intervals(set *Set, elements []Element, p part) (texts []string) {
	order.Sort(elements, func(a, b Element) int {
		switch {
		case a.CatchAll != b.CatchAll:
			return choose(a.CatchAll, 1, -1)
		case bytes.Equal(a.Key, b.Key):
			return choose(a.IntervalEnd, -1, choose(b.IntervalEnd, 1, 0))
		}
		return bytes.Compare(significant(a.Key, p.kind, p.host), significant(b.Key, p.kind, p.host))
	})
	for i, e := range elements {
		if e.IntervalEnd {
			continue
		}
		if e.CatchAll {
			texts = append(texts, s.element(set, e, "*"))
			continue
		}
		low := significant(e.Key, p.kind, p.host)
		high := bytes.Repeat([]byte{0xff}, len(low))
		if i+1 < len(elements) && !elements[i+1].CatchAll {
			next := new(big.Int).SetBytes(significant(elements[i+1].Key, p.kind, p.host))
			if next.Sign() > 0 {
				high = next.Sub(next, big.NewInt(1)).FillBytes(make([]byte, len(low)))
			}
		}
		texts = append(texts, s.element(set, e, s.span(low, high, p)))
	}
	return texts
}

// element prints an element with what it has besides its key.
func (s *printing) element(set *Set, e Element, key string) string {
	for _, x := range e.Exprs {
		if text, ok := s.stateful(x, s.Counters); ok {
			key += " " + text
		}
	}
	if e.Timeout != 0 {
		key += " timeout " + duration(e.Timeout)
	}
	if e.Expires != 0 && s.Counters {
		key += " expires " + duration(e.Expires)
	}
	if e.Comment != "" {
		key += ` comment "` + e.Comment + `"`
	}
	switch {
	case e.Decision != nil:
		return key + " : " + s.decision(e.Decision)
	case e.Object != "":
		return key + ` : "` + e.Object + `"`
	case e.Data != nil:
		return key + " : " + s.dataText(set, e.Data)
	}
	return key
}

// dataText prints the data of a map.
func (s *printing) dataText(set *Set, data []byte) string {
	parts := []part{}
	length := 0
	for _, k := range kindsOf(set.DataType) {
		width := k.width
		if width == 0 {
			width = len(data)
		}
		parts = append(parts, part{kind: k, host: k.isHost(), bits: 8 * width})
		length += 4 * slots(8*width)
	}
	if len(data) >= 2*length && length != 0 { // an interval
		return s.keyText(Element{Key: data[:length], End: data[length : 2*length]}, parts)
	}
	return s.keyText(Element{Key: data}, parts)
}
