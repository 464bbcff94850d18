// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// model is an engine and its kernel as plainly as can be: lists that are searched
// from end to end. What it says must come of each call, comes of it in the test of
// random sequences.
type model struct {
	// done is what publishing returns, and sure whether the table was read for the call.
	done []nat.Mapping
	sure bool

	now     func() time.Time
	present bool                   // the table
	made    bool                   // whether the engine knows of a table
	known   []nat.Mapping          // what the engine knows to be published, a port each
	kernel  map[elementKey]element // what is
	// foreign are elements that no engine wrote.
	foreign map[elementKey]bool
	// adopted are mappings that were found in such elements. The routing table was not
	// asked about their backends.
	adopted map[nat.Mapping]bool
	// settled is whether segments are there for what is known, and for no more: what
	// has ended by itself leaves its segment to the next change.
	settled bool
}

// elementKey is the set and the key of an element.
type elementKey struct {
	set string
	key netip.AddrPort
}

// element is what stands there.
type element struct {
	backend netip.AddrPort
	comment string
	expires time.Time
}

func newModel(now func() time.Time) *model {
	return &model{now: now, kernel: map[elementKey]element{}, foreign: map[elementKey]bool{}, adopted: map[nat.Mapping]bool{}}
}

// keyOf and elementAt are how a mapping is written.
func keyOf(m nat.Mapping) elementKey {
	set := m.Proto.String() + "4"
	if m.Backend.Addr().Is6() {
		set = m.Proto.String() + "6"
	}
	host := m.Frontend.Addr()
	if m.ProxyOnly && !crosses(m) {
		frontend := m.Frontend
		if !host.IsValid() {
			frontend = netip.AddrPortFrom(anyOfFamily(m.Backend.Addr()), m.Frontend.Port())
		}
		return elementKey{set + "_to" + set[3:], frontend}
	}
	if crosses(m) {
		return elementKey{map[bool]string{true: m.Proto.String() + "4_to6", false: m.Proto.String() + "6_to4"}[host.Is4()], m.Frontend}
	}
	if !host.IsValid() || host.IsUnspecified() {
		return elementKey{set, netip.AddrPortFrom(netip.Addr{}, m.Frontend.Port())}
	}
	return elementKey{set + "_host", m.Frontend}
}

func anyOfFamily(a netip.Addr) netip.Addr {
	if a.Is4() {
		return any4()
	}
	return any6()
}

// isApart reports whether no packets to the frontend are translated.
func isApart(m nat.Mapping) bool { return crosses(m) || m.ProxyOnly }

// crosses reports whether the mapping leads from one family to the other.
func crosses(m nat.Mapping) bool {
	host := m.Frontend.Addr()
	return host.IsValid() && host.Is4() != m.Backend.Addr().Is4()
}

func elementAt(m nat.Mapping) element {
	oneFamily := m.Frontend.Addr().IsValid() && m.Frontend.Addr().IsUnspecified() && !crosses(m)
	comment := m.Name
	switch {
	case m.ProxyOnly && crosses(m):
		comment += " [proxy-only]"
	case m.NoProxy && oneFamily:
		comment += " [no-proxy one-family]"
	case m.NoProxy:
		comment += " [no-proxy]"
	case oneFamily:
		comment += " [one-family]"
	}
	if m.Name == "" && comment != "" {
		comment = comment[1:]
	}
	return element{m.Backend, comment, m.Expires}
}

// expire drops what is over.
func (m *model) expire() {
	now := m.now()
	over := func(t time.Time) bool { return !t.IsZero() && !t.After(now) }
	before := len(m.known)
	m.known = slices.DeleteFunc(m.known, func(k nat.Mapping) bool { return over(k.Expires) })
	m.settled = m.settled && before == len(m.known)
	for p, e := range m.kernel {
		if over(e.expires) {
			delete(m.kernel, p)
			delete(m.foreign, p)
		}
	}
}

// adopt makes known what is in the kernel.
func (m *model) adopt() {
	if !m.present {
		return
	}
	before := m.known
	m.known = nil
	// What proxies alone serve goes where packets follow another, or another is served.
	repaired := false
	for p, e := range maps.Clone(m.kernel) {
		k := m.read(p, e)
		if isApart(k) && (m.isFollowed(k.Proto, k.Frontend) || m.isServed(p, k)) {
			delete(m.kernel, p)
			delete(m.foreign, p)
			repaired = true
		}
	}
	// So does what is limited to nobody.
	read := map[elementKey]nat.Mapping{}
	for p, e := range m.kernel {
		read[p] = m.read(p, e)
	}
	for p, k := range read {
		k, limited := withOptions(k, before, read)
		if read[p] = k; limited && k.From.IsZero() {
			delete(m.kernel, p)
			delete(m.foreign, p)
			delete(read, p)
			repaired = true
		}
	}
	// And an option of which a part is missing is made whole.
	for _, line := range optionLines(slices.Collect(maps.Values(read))) {
		repaired = repaired || !slices.Contains(optionLines(before), line)
	}
	if repaired { // and with it the comments that others wrote
		for p, e := range m.kernel {
			e.comment = nat.CommentText(nat.ParseComment(e.comment))
			m.kernel[p] = e
		}
	}
	for p := range m.kernel {
		k := read[p]
		m.known = append(m.known, k)
		if m.foreign[p] {
			m.adopted[k] = true
		}
	}
	slices.SortFunc(m.known, nat.Compare)
	m.settled = m.settled && slices.Equal(before, m.known)
}

// isFollowed reports whether packets to the frontend are translated.
func (m *model) isFollowed(proto nat.Proto, frontend netip.AddrPort) bool {
	for p, e := range m.kernel {
		if k := m.read(p, e); k.Proto == proto && k.Frontend == frontend && !isApart(k) {
			return true
		}
	}
	return false
}

func (m *model) read(p elementKey, e element) nat.Mapping {
	name, a := nat.ParseComment(e.comment)
	got := nat.Mapping{Proto: nat.TCP, Frontend: p.key, Backend: e.backend, Name: name, NoProxy: a.NoProxy, Expires: e.expires}
	if p.set[0] == 'u' {
		got.Proto = nat.UDP
	}
	got.ProxyOnly = len(p.set) == len("tcp4_to4") && p.set[3] == p.set[7]
	if got.ProxyOnly && p.key.Addr().IsUnspecified() && !a.OneFamily {
		got.Frontend = netip.AddrPortFrom(netip.Addr{}, p.key.Port())
	}
	got.ProxyOnly = got.ProxyOnly || a.ProxyOnly && crosses(got)
	got.NoProxy = got.NoProxy && !p.key.Addr().IsLoopback() && !isApart(got)
	// The same port in the maps of both families is two mappings.
	twin := p
	twin.set = twin.set[:3] + map[byte]string{'4': "6", '6': "4"}[twin.set[3]] + twin.set[4:]
	other, ok := m.kernel[twin]
	_, b := nat.ParseComment(other.comment)
	if !p.key.Addr().IsValid() && (a.OneFamily || ok && !b.OneFamily) {
		wild := any6()
		if e.backend.Addr().Is4() {
			wild = any4()
		}
		got.Frontend = netip.AddrPortFrom(wild, p.key.Port())
	}
	return got
}

// flush is "nft flush ruleset".
func (m *model) flush() {
	m.present = false
	clear(m.kernel)
	clear(m.foreign)
}

// reopen is a new engine, the old one being dead.
func (m *model) reopen() {
	if m.made = m.present; !m.made {
		m.known, m.settled = nil, true
	}
	m.adopt()
}

// write makes a change, or finds that the kernel is not as it is known to be.
func (m *model) write(removed, added []nat.Mapping) (drift bool) {
	after := slices.DeleteFunc(slices.Clone(m.known), func(k nat.Mapping) bool {
		return slices.ContainsFunc(removed, func(r nat.Mapping) bool { return r.Proto == k.Proto && r.Frontend == k.Frontend })
	})
	after = append(after, added...)
	kernel := map[elementKey]element{}
	if m.present {
		kernel = maps.Clone(m.kernel)
		for _, r := range removed {
			if _, ok := kernel[keyOf(r)]; !ok {
				return true
			}
			delete(kernel, keyOf(r))
		}
		for _, a := range added {
			if _, ok := kernel[keyOf(a)]; ok {
				return true
			}
			kernel[keyOf(a)] = elementAt(a)
		}
	} else {
		for _, k := range after {
			kernel[keyOf(k)] = elementAt(k)
		}
	}
	for p := range m.foreign {
		if kernel[p] != m.kernel[p] {
			delete(m.foreign, p)
		}
	}
	for _, a := range added {
		delete(m.adopted, a)
	}
	// A table that is made again has the segments that were left.
	m.settled = m.settled || len(removed)+len(added) != 0
	m.known, m.kernel, m.present, m.made = after, kernel, true, true
	slices.SortFunc(m.known, nat.Compare)
	return false
}

// isTaken reports whether something excludes a mapping.
func (m *model) isTaken(want nat.Mapping) bool {
	return slices.ContainsFunc(m.known, func(k nat.Mapping) bool { return excludes(k, want) })
}

func excludes(a, b nat.Mapping) bool {
	return a.Proto == b.Proto && a.Frontend.Port() == b.Frontend.Port() && exclude(a.Frontend.Addr(), b.Frontend.Addr())
}

func (m *model) find(f nat.Mapping) (nat.Mapping, bool) {
	i := slices.IndexFunc(m.known, func(k nat.Mapping) bool { return k.Proto == f.Proto && k.Frontend == f.Frontend })
	if i < 0 {
		return nat.Mapping{}, false
	}
	return m.known[i], true
}

func (m *model) knownAt(p elementKey) (nat.Mapping, bool) {
	i := slices.IndexFunc(m.known, func(k nat.Mapping) bool { return keyOf(k) == p })
	if i < 0 {
		return nat.Mapping{}, false
	}
	return m.known[i], true
}

// Outcomes of a call.
const (
	isDone      = "done"
	isInvalid   = "invalid"
	isConflict  = "conflict"
	isNotFound  = "not found"
	isExhausted = "exhausted"
	hasDrifted  = "drifted" // to be decided anew
	isSame      = "same"    // the table is that of an engine without history
)

// disagrees reports whether of what is there after a change one mapping that is added is
// masqueraded, and another that netfilter cannot tell from it is not, or the reverse.
func (m *model) disagrees(removed, added []nat.Mapping) bool {
	after := slices.DeleteFunc(slices.Clone(m.known), func(k nat.Mapping) bool { return slices.Contains(removed, k) })
	after = append(after, added...)
	return slices.ContainsFunc(added, func(a nat.Mapping) bool {
		return slices.ContainsFunc(after, func(b nat.Mapping) bool { return disagreeing(a, b) })
	})
}

// publish is one attempt; frontends of port 0 have been chosen by the engine.
func (m *model) publish(ms []nat.Mapping, how nat.PublishOptions) string {
	var removed, added []nat.Mapping
	m.done = m.named(ms, how)
	for _, one := range singles(m.done) {
		have, ok := m.find(one)
		if ok && have == one && !how.Kill {
			continue // it is there already
		}
		renewed := have
		renewed.Expires = one.Expires
		if ok && (how.Replace || !have.Expires.IsZero() && renewed == one) {
			// Others may have written the element that it would need.
			if _, known := m.knownAt(keyOf(one)); known && keyOf(have) != keyOf(one) {
				return isConflict
			}
			removed = append(removed, have)
		} else if m.isTaken(one) {
			return isConflict
		}
		added = append(added, one)
	}
	switch {
	case m.disagrees(removed, added):
		return isConflict
	case len(removed)+len(added) != 0:
	case m.sure:
		if !m.present {
			m.write(nil, nil) // it was made again
		}
		return isDone
	default:
		return hasDrifted // nothing tells the engine that the table is as it was
	}
	if m.write(removed, added) {
		return hasDrifted
	}
	return isDone
}

// named are the mappings with the names that they keep.
func (m *model) named(ms []nat.Mapping, how nat.PublishOptions) (all []nat.Mapping) {
	for _, one := range ms {
		if !how.Replace || one.Name != "" || one.Frontend.Port() == 0 {
			all = append(all, one)
			continue
		}
		ports := slices.Collect(nat.Expand(one))
		for i, port := range ports {
			if have, _ := m.find(port); how.IfName != "" || !strings.Contains(have.Name, ":") {
				ports[i].Name = have.Name
			}
		}
		all = append(all, nat.Collapse(ports)...)
	}
	return all
}

func (m *model) unpublish(ms []nat.Mapping) string {
	var removed []nat.Mapping
	for _, one := range singles(ms) {
		have, ok := m.find(one)
		if !ok {
			return isNotFound
		}
		if !slices.Contains(removed, have) {
			removed = append(removed, have)
		}
	}
	if m.write(removed, nil) {
		return hasDrifted
	}
	return isDone
}

func (m *model) apply(ms []nat.Mapping) string {
	var removed, added []nat.Mapping
	var wanted []nat.Mapping
	for _, one := range singles(ms) {
		if one.Expires.IsZero() || one.Expires.After(m.now()) {
			wanted = append(wanted, one)
		}
	}
	for _, have := range m.known {
		if !slices.ContainsFunc(wanted, func(w nat.Mapping) bool { return have.Proto == w.Proto && have.Frontend == w.Frontend }) {
			removed = append(removed, have)
		}
	}
	for _, w := range wanted {
		have, ok := m.find(w)
		switch {
		case !ok:
			added = append(added, w)
		case have != w:
			removed, added = append(removed, have), append(added, w)
		}
	}
	switch {
	case m.disagrees(removed, added):
		return isConflict
	case len(removed)+len(added) != 0:
	case m.sure:
		if !m.present && m.made {
			m.write(nil, nil) // it was made again
		}
		return isDone
	default:
		return hasDrifted
	}
	if m.write(removed, added) {
		return hasDrifted
	}
	return isDone
}

// overlapping is ValidateAll as plainly as can be.
func overlapping(ms []nat.Mapping) bool {
	ones := singles(ms)
	for i, a := range ones {
		if slices.ContainsFunc(ones[i+1:], func(b nat.Mapping) bool { return excludes(a, b) }) {
			return true
		}
	}
	return false
}

// singles are the single ports of all that have one.
func singles(ms []nat.Mapping) (ones []nat.Mapping) {
	for _, m := range ms {
		if m.Frontend.Port() != 0 {
			ones = slices.AppendSeq(ones, nat.Expand(m))
		}
	}
	return ones
}

// elements are those of the kernel's maps as a dump has them, in order.
func (m *model) elements() []string {
	var lines []string
	for p, e := range m.kernel {
		line := fmt.Sprintf("%s { %d", p.set, p.key.Port())
		if p.key.Addr().IsValid() {
			line = fmt.Sprintf("%s { %s . %d", p.set, p.key.Addr(), p.key.Port())
		}
		if !e.expires.IsZero() {
			line += " timeout"
		}
		if e.comment != "" {
			comment := `"` + e.comment + `"` // nft(8) knows no escapes
			if strings.ContainsAny(e.comment, "\"\n") {
				comment = strconv.Quote(e.comment)
			}
			line += " comment " + comment
		}
		lines = append(lines, fmt.Sprintf("%s : %s . %d }", line, e.backend.Addr(), e.backend.Port()))
	}
	slices.Sort(lines)
	return lines
}

// isPlain reports whether all that is known was published by an engine.
func (m *model) isPlain() bool {
	return len(m.foreign) == 0 && !slices.ContainsFunc(m.known, func(k nat.Mapping) bool { return m.adopted[k] })
}

// isKnown reports whether the kernel holds what is known, written as engines do.
func (m *model) isKnown() bool {
	written := map[elementKey]element{}
	for _, k := range m.known {
		written[keyOf(k)] = elementAt(k)
	}
	return maps.Equal(written, m.kernel)
}
