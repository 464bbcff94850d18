// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nftnat/nftnat/nat"
)

const (
	// maxName is the most bytes of a name that is kept as it is; see [nat.Name].
	maxName = 63
	// nonceDigits are those of a nonce of PCP: 96 bits (RFC 6887 section 11.1).
	nonceDigits = 24
)

// name returns the name of the mapping of a lease: "pmp:", "pcp:" and the nonce, with the
// description after a space, or "igd:" and the description.
func (l *Lease) name() string {
	switch l.Kind {
	case PMP:
	case PCP:
		s := "pcp:" + l.Key
		if l.Text != "" {
			s += " " + l.Text
		}
		return s
	case IGD:
		return "igd:" + l.Key
	}
	return l.Kind.String() + ":"
}

// parseName reads what name returns.
func parseName(name string) (kind Kind, key, text string, ok bool) {
	word, rest, colon := strings.Cut(name, ":")
	switch {
	case !colon:
		return 0, "", "", false
	case word == "pmp":
		return PMP, "", "", rest == ""
	case word == "igd":
		return IGD, rest, "", true
	case word == "pcp":
		key, text, _ = strings.Cut(rest, " ")
		return PCP, key, text, isNonce(key)
	}
	return 0, "", "", false
}

func isNonce(key string) bool {
	return len(key) == nonceDigits && strings.Trim(key, "0123456789abcdef") == ""
}

// clean makes text of a client a part of a name that has so many bytes before it. What a name
// cannot hold becomes a space.
func clean(text string, before int) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r == '"' || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	text = strings.TrimSpace(text)
	if most := maxName - before; len(text) > most {
		for !utf8.RuneStart(text[most]) {
			most--
		}
		text = text[:most]
	}
	// An end such as "[no-proxy]" would be read as something else.
	return strings.TrimSpace(nat.HarmlessName(text))
}

// mapping returns the mapping that a lease is.
func (l *Lease) mapping() (nat.Mapping, error) {
	from, err := nat.SourcesOf(l.From...)
	if err != nil {
		return nat.Mapping{}, ErrSources
	}
	return nat.Mapping{
		Proto:    l.Proto,
		Frontend: netip.AddrPortFrom(netip.IPv4Unspecified(), l.External),
		Backend:  netip.AddrPortFrom(l.Client, l.Internal),
		Name:     l.name(),
		NoProxy:  true, // clients of the WAN and, by the hairpin, of the LAN are netfilter's
		From:     from,
		Expires:  l.Expires,
	}, nil
}

// leaseOf returns the lease that a mapping of one port is, or an operator's mapping as one.
// False: it leads to no port of a client as a lease does.
func leaseOf(m *nat.Mapping) (Lease, bool) {
	addr := m.Frontend.Addr()
	if m.More != 0 || addr.IsValid() && addr != netip.IPv4Unspecified() || !m.Backend.Addr().Is4() {
		return Lease{}, false
	}
	l := Lease{
		Key: m.Name, Client: m.Backend.Addr(), Proto: m.Proto, Internal: m.Backend.Port(), External: m.Frontend.Port(),
		From: m.From.Prefixes(), Expires: m.Expires,
	}
	kind, key, text, ok := parseName(m.Name)
	if ok && addr.IsValid() && m.NoProxy && !m.Masquerade && m.Hold == nat.HoldOwn {
		l.Kind, l.Key, l.Text = kind, key, text
	}
	return l, true
}
