// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// disagreeing reports whether netfilter cannot tell the flows of two mappings apart, and one is
// masqueraded.
func disagreeing(a, b nat.Mapping) bool {
	for _, m := range []nat.Mapping{a, b} {
		if isApart(m) || m.Frontend.Addr().IsLoopback() {
			return false
		}
	}
	x, y := calledAt(a), calledAt(b)
	return a.Masquerade != b.Masquerade && a.Proto == b.Proto && a.Backend == b.Backend && (x == "" || y == "" || x == y)
}

// calledAt is the one address that clients of a mapping call; "": there are several.
func calledAt(m nat.Mapping) string {
	if host := m.Frontend.Addr(); host.IsValid() && !host.IsUnspecified() {
		return host.String()
	}
	return ""
}

// limitsOf are the frontends of a mapping in the sets of limits, one for each family.
func limitsOf(m nat.Mapping) []netip.AddrPort {
	if m.Frontend.Addr().IsValid() {
		return []netip.AddrPort{m.Frontend}
	}
	return []netip.AddrPort{netip.AddrPortFrom(any4(), m.Frontend.Port()), netip.AddrPortFrom(any6(), m.Frontend.Port())}
}

// withOptions is a mapping with the options that are in the table because of others, which had
// its place before.
func withOptions(m nat.Mapping, before []nat.Mapping, read map[elementKey]nat.Mapping) (with nat.Mapping, limited bool) {
	var clients []netip.Prefix
	for _, at := range limitsOf(m) {
		exact := m.Frontend == at
		taken := !exact && slices.ContainsFunc(slices.Collect(valuesOf(read)), func(o nat.Mapping) bool {
			return o.Proto == m.Proto && o.Frontend == at
		})
		for _, o := range before {
			if taken || o.Proto != m.Proto || o.From.IsZero() || !slices.Contains(limitsOf(o), at) {
				continue
			}
			limited = true
			for _, p := range o.From.Prefixes() {
				if p.Addr().Is4() == at.Addr().Is4() {
					clients = append(clients, p)
				}
			}
		}
	}
	m.From, _ = nat.SourcesOf(clients...)
	for _, o := range before {
		at := calledAt(o)
		same := o.Proto == m.Proto && o.Backend == m.Backend && (at == "" || at == calledAt(m))
		m.Masquerade = m.Masquerade || o.Masquerade && same && !isApart(m) && !m.Frontend.Addr().IsLoopback()
	}
	return m, limited
}

func valuesOf(read map[elementKey]nat.Mapping) func(func(nat.Mapping) bool) {
	return func(yield func(nat.Mapping) bool) {
		for _, m := range read {
			if !yield(m) {
				return
			}
		}
	}
}

// isServed reports whether a mapping for proxies alone that is read later has the frontend of
// another.
func (m *model) isServed(p elementKey, k nat.Mapping) bool {
	for o, e := range m.kernel {
		if o.set != p.set && strings.Compare(o.set, p.set) > 0 {
			if other := m.read(o, e); isApart(other) && other.Proto == k.Proto && other.Frontend == k.Frontend {
				return true
			}
		}
	}
	return false
}

// optionLines are the elements of the options of mappings as a dump has them, in order.
func optionLines(ms []nat.Mapping) []string {
	var lines []string
	for _, m := range ms {
		text := func(p netip.Prefix) string {
			if p.IsSingleIP() {
				return p.Addr().String()
			}
			return p.String()
		}
		digit := map[bool]string{true: "4", false: "6"}
		for _, at := range limitsOf(m) {
			if m.From.IsZero() {
				break
			}
			timeout, four, front := "", digit[at.Addr().Is4()], at.Addr().String()
			if !m.Expires.IsZero() {
				timeout = " timeout"
			}
			if at.Addr().IsUnspecified() {
				lines = append(lines, fmt.Sprintf("limited { ipv%s . %s . %d%s }", four, m.Proto, at.Port(), timeout))
				front += "/0"
			} else {
				lines = append(lines, fmt.Sprintf("limited%s_host { %s . %s . %d%s }", four, m.Proto, front, at.Port(), timeout))
			}
			for _, p := range m.From.Prefixes() {
				if p.Addr().Is4() == at.Addr().Is4() {
					lines = append(lines, fmt.Sprintf("%s%s_from { %s . %d . %s }", m.Proto, four, front, at.Port(), text(p)))
				}
			}
		}
		if m.Masquerade {
			set, to := "masquerade_to"+digit[m.Backend.Addr().Is4()], fmt.Sprintf("%s . %s . %d", m.Proto, m.Backend.Addr(), m.Backend.Port())
			if at := calledAt(m); at != "" {
				set, to = set+"_host", to+" . "+at
			}
			lines = append(lines, set+" { "+to+" }")
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// isOptionLine reports whether an element of a dump says an option.
func isOptionLine(line string) bool {
	set, _, _ := strings.Cut(line, " ")
	return strings.HasPrefix(set, "limited") || strings.HasPrefix(set, "masquerade_to") || strings.HasSuffix(set, "_from")
}

// inOrder sorts lines, without time-outs: of mappings that overlap, which others have made, two
// can have one element, which has the time-out of either.
func inOrder(lines []string) []string {
	lines = append([]string{}, lines...)
	for i := range lines {
		lines[i] = strings.Replace(lines[i], " timeout", "", 1)
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// withoutLimitsOf returns a dump without time-outs, those of limits left out altogether, as
// inOrder does.
func withoutLimitsOf(dump string) string {
	lines := strings.Split(withoutTimeouts(dump), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "add element inet nftnat limited") {
			lines[i] = strings.Replace(line, " timeout", "", 1)
		}
	}
	return strings.Join(lines, "\n")
}
