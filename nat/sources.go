// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unique"
)

// MaxSources is the most prefixes that [Sources] can have, after those within another are
// left out.
const MaxSources = 64

// Sources are the addresses from which clients may reach a mapping. It is comparable: equal
// sets of prefixes are equal values. Zero: anyone.
type Sources struct {
	// text is what String returns. A handle has 8 bytes and is compared as a pointer, because
	// engines keep one for each port.
	text unique.Handle[string]
}

const (
	whatSource      = "source"
	sourceSeparator = ","
)

// ParseSources reads prefixes and addresses such as 192.0.2.0/24, 2001:db8::/32 and
// 192.0.2.7. It clears the bits after the prefix, and leaves out what is within another
// prefix. None at all is anyone. Errors are [*InvalidError].
func ParseSources(texts ...string) (Sources, error) {
	ps := make([]netip.Prefix, 0, len(texts))
	for _, s := range texts {
		p, reason := parseSource(s)
		if reason != "" {
			return Sources{}, &InvalidError{What: whatSource, Input: s, Reason: reason}
		}
		ps = append(ps, p)
	}
	return SourcesOf(ps...)
}

// SourcesOf is [ParseSources] of prefixes.
func SourcesOf(prefixes ...netip.Prefix) (Sources, error) {
	if len(prefixes) == 0 {
		return Sources{}, nil
	}
	sorted := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if reason := sourceFault(p); reason != "" {
			return Sources{}, &InvalidError{What: whatSource, Input: p.String(), Reason: reason}
		}
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	kept := sorted[:0]
	for _, p := range sorted { // a wider one is before those within it
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	if len(kept) > MaxSources {
		return Sources{}, &InvalidError{What: whatSource, Input: kept[MaxSources].String(),
			Reason: fmt.Sprintf("there are %d prefixes, more than %d", len(kept), MaxSources)}
	}
	words := make([]string, len(kept))
	for i, p := range kept {
		words[i] = p.String()
	}
	return Sources{unique.Make(strings.Join(words, sourceSeparator))}, nil
}

// parseSource returns the reason of an error, or "".
func parseSource(s string) (p netip.Prefix, reason string) {
	if s == "" {
		return p, "it is empty"
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return p, "it is not written like 192.0.2.0/24, 2001:db8::/32 or 192.0.2.7"
		}
		return p, sourceFault(p)
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return p, "it is not written like 192.0.2.0/24, 2001:db8::/32 or 192.0.2.7"
	case a.Zone() != "":
		return p, "an address with a zone means different hosts on different links"
	}
	p = netip.PrefixFrom(a, a.BitLen())
	return p, sourceFault(p)
}

// sourceFault returns the reason why no clients can be told by p, or "".
func sourceFault(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "it is no prefix"
	case p.Addr().Is4In6():
		return "an IPv4 address written as IPv6; packets have the IPv4 address"
	}
	return ""
}

// IsZero reports whether s is anyone.
func (s Sources) IsZero() bool { return s == Sources{} }

// String returns the prefixes in order, with commas between them; "" for anyone.
func (s Sources) String() string {
	if s.IsZero() {
		return ""
	}
	return s.text.Value()
}

// MarshalBinary returns the text, so that package gob can have mappings.
func (s Sources) MarshalBinary() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalBinary reads what MarshalBinary returned.
func (s *Sources) UnmarshalBinary(b []byte) (err error) {
	*s = Sources{}
	if len(b) != 0 {
		*s, err = ParseSources(strings.Split(string(b), sourceSeparator)...)
	}
	return err
}

// Texts returns the text of each prefix, in order; nil for anyone. [ParseSources] reads them.
func (s Sources) Texts() []string {
	if s.IsZero() {
		return nil
	}
	return strings.Split(s.text.Value(), sourceSeparator)
}

// Prefixes returns the prefixes, those of IPv4 first, in order and disjoint; nil for anyone.
func (s Sources) Prefixes() []netip.Prefix {
	texts := s.Texts()
	if texts == nil {
		return nil
	}
	ps := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		ps[i] = netip.MustParsePrefix(text)
	}
	return ps
}

// Allow reports whether a client may reach the mapping from an address.
func (s Sources) Allow(a netip.Addr) bool {
	return s.IsZero() || slices.ContainsFunc(s.Prefixes(), func(p netip.Prefix) bool { return p.Contains(a) })
}
