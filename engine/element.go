// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nftnat/nftnat/nft"
)

// frontend is where one published port listens: the key under which the engine
// keeps a mapping of a single port.
type frontend struct {
	proto Proto
	ap    netip.AddrPort // as Mapping.Frontend
}

// target is what the engine keeps of a single published port beside its frontend.
type target struct {
	backend netip.AddrPort
	name    string
	expires int64 // milliseconds since 1970; zero: never
	noProxy bool
}

func frontendOf(m Mapping) frontend { return frontend{m.Proto, m.Frontend} }

func portOf(m Mapping) port { return port{frontendOf(m), targetOf(m)} }

func targetOf(m Mapping) target {
	t := target{backend: m.Backend, name: m.Name, noProxy: m.NoProxy}
	if !m.Expires.IsZero() {
		t.expires = m.Expires.UnixMilli()
	}
	return t
}

// mapping puts the two together again.
func (f frontend) mapping(t target) Mapping {
	m := Mapping{Proto: f.proto, Frontend: f.ap, Backend: t.backend, Name: t.name, NoProxy: t.noProxy}
	if t.expires != 0 {
		m.Expires = time.UnixMilli(t.expires).UTC()
	}
	return m
}

// host is the one address that the frontend is for, or zero if it is for any.
func (f frontend) host() netip.Addr {
	if a := f.ap.Addr(); !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}

// mapNames are the names of the maps by protocol, family of the backend, and
// whether the frontend has an address of its own.
func mapName(proto Proto, backend netip.Addr, host bool) string {
	name := "tcp4"
	switch {
	case proto == UDP && backend.Is4():
		name = "udp4"
	case proto == TCP && backend.Is6():
		name = "tcp6"
	case proto == UDP && backend.Is6():
		name = "udp6"
	}
	if host {
		name += "_host"
	}
	return name
}

// mapKind is what mapName says of a map.
type mapKind struct {
	proto Proto
	host  bool
}

// mapKinds are the kinds of all maps by name.
func mapKinds() map[string]mapKind {
	kinds := make(map[string]mapKind, 8)
	for _, proto := range []Proto{TCP, UDP} {
		for _, backend := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			for _, host := range []bool{false, true} {
				kinds[mapName(proto, backend, host)] = mapKind{proto, host}
			}
		}
	}
	return kinds
}

// elementOf is the element that publishes one port, at a time from which its
// time-out is counted.
func elementOf(p port, now time.Time) nft.Element {
	e := elementKey(p)
	e.Value = p.backend
	e.Comment = elementComment(p)
	if p.expires != 0 {
		// What is over already ends at once.
		e.Timeout = max(time.UnixMilli(p.expires).Sub(now), time.Millisecond)
	}
	return e
}

// elementKey is as much of an element as deleting it takes.
func elementKey(p port) nft.Element {
	host := p.host()
	e := nft.Element{Set: mapName(p.proto, p.backend.Addr(), host.IsValid())}
	if host.IsValid() {
		e.Key = nft.AddrPortKey(p.ap)
	} else {
		e.Key = nft.PortKey(p.ap.Port())
	}
	return e
}

// published reads an element of one of the maps back. ok is false if no engine can
// have made it: others can write into a table that nobody owns.
func published(e nft.Element, kind mapKind, now time.Time) (p port, ok bool) {
	name, attributes := parseComment(e.Comment)
	p.frontend = frontend{kind.proto, e.Key.AddrPort()}
	p.target = target{backend: e.Value, name: name, noProxy: attributes.noProxy}
	if e.Timeout != 0 {
		p.expires = now.Add(e.Expires).UnixMilli()
	}
	strange := p.ap.Port() == 0 || p.ap.Addr().IsUnspecified()
	if !kind.host && attributes.oneFamily {
		p.frontend = p.ofFamily(e.Value.Addr())
	}
	p.noProxy = p.noProxy && !p.loopback() // Validate says why
	return p, !strange && p.mapping().Validate() == nil
}

// ofFamily is the frontend for any address, narrowed to the family of an address.
func (f frontend) ofFamily(a netip.Addr) frontend {
	any := netip.IPv6Unspecified()
	if a.Is4() {
		any = netip.IPv4Unspecified()
	}
	return frontend{f.proto, netip.AddrPortFrom(any, f.ap.Port())}
}

// loopback reports whether the frontend is an address that netfilter never
// translates: such a mapping is stored in the table, and served by its proxy alone.
func (f frontend) loopback() bool { return f.ap.Addr().IsLoopback() }

// commentAttributes are what the comment of an element says beside the name.
type commentAttributes struct {
	// noProxy is Mapping.NoProxy.
	noProxy bool
	// oneFamily tells 0.0.0.0 and :: from any address: the key of the map is the
	// same, and the other family must not be served by a proxy.
	oneFamily bool
}

const (
	wordNoProxy   = "no-proxy"
	wordOneFamily = "one-family"
)

// elementComment is the name of the mapping, and what a map has no place for in
// brackets behind it: `web [no-proxy]`. A name has no brackets, so that neither can
// be taken for the other. In a comment it is there for the administrator to read,
// and survives nft(8) saving the table and loading it again.
func elementComment(p port) string {
	return commentText(p.name, commentAttributes{
		noProxy:   p.noProxy,
		oneFamily: p.ap.Addr().IsValid() && p.ap.Addr().IsUnspecified(),
	})
}

func commentText(name string, a commentAttributes) string {
	var words []string
	if a.noProxy {
		words = append(words, wordNoProxy)
	}
	if a.oneFamily {
		words = append(words, wordOneFamily)
	}
	if len(words) == 0 {
		return name
	}
	return strings.TrimLeft(name+" ["+strings.Join(words, " ")+"]", " ")
}

// parseComment reads a comment, of which others may have written any.
func parseComment(s string) (name string, a commentAttributes) {
	name = s
	if open := strings.LastIndexByte(s, '['); open >= 0 && strings.HasSuffix(s, "]") {
		name = s[:open]
		for word := range strings.FieldsSeq(s[open+1 : len(s)-1]) {
			a.noProxy = a.noProxy || word == wordNoProxy
			a.oneFamily = a.oneFamily || word == wordOneFamily
		}
	}
	return harmlessName(name), a
}

// harmlessName makes a name of what others may have written: what Validate would
// refuse becomes "?", so that it can be shown, saved and loaded.
func harmlessName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || r == '"' || r == '[' || r == ']' {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.TrimSpace(s)
	for len(s) > maxName {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return strings.TrimRightFunc(s, unicode.IsSpace)
}
