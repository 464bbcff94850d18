// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"bytes"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// entry is one entry of a table: a rule, the end of a chain, or the name of one that follows.
type entry struct {
	at, next int
	data     blob // of the entry alone
	target   int  // offset in data
}

var errMalformedTable = errors.New("malformed table")

// parse makes chains of entries.
func (f *legacyFamily) parse(name string, info, data []byte) (*rules.Table, error) {
	count := &blob{data: info}
	entries, err := f.entries(data, int(count.u32(len(info)-8)))
	if err != nil {
		return nil, err
	}
	p := parser{legacyFamily: f, starts: map[int]string{}, names: map[string]string{}, verdicts: map[rules.Decision]rules.Expr{}}
	t := &rules.Table{Family: f.family, Name: name, Legacy: true}
	for i := range entries[:max(len(entries)-1, 0)] {
		if e := &entries[i]; e.isError() {
			p.starts[e.next] = e.data.text(e.target+targetHeader, 30)
		}
	}
	g := &blob{data: info}
	valid := g.u32(tableNameLen)
	for h, chain := range f.chains {
		if valid&(1<<h) == 0 {
			continue
		}
		first, last := int(g.u32(tableNameLen+4+4*h)), int(g.u32(tableNameLen+4+4*f.hooks+4*h))
		i, ok := find(entries, first)
		j, ok2 := find(entries, last)
		if !ok || !ok2 || i > j {
			return nil, errMalformedTable
		}
		policy, _ := entries[j].verdict()
		c := &rules.Chain{Table: t, Name: chain, Base: f.base(name, h, -policy-1)}
		t.Chains = append(t.Chains, c)
		if err := p.fill(c, entries[i:j]); err != nil {
			return nil, err
		}
	}
	for i := range entries {
		chain, ok := p.starts[entries[i].at]
		if !ok {
			continue
		}
		// The chain ends before the next name; its last entry is the RETURN that iptables does not print.
		j := i
		for j < len(entries) && !entries[j].isError() {
			j++
		}
		c := &rules.Chain{Table: t, Name: chain}
		t.Chains = append(t.Chains, c)
		if err := p.fill(c, entries[i:max(j-1, i)]); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// xtReturn is the verdict XT_RETURN.
const xtReturn = -5

// targetHeader is the length of struct xt_entry_target, and of xt_entry_match.
const targetHeader = 32

// parser makes the rules of one table.
type parser struct {
	*legacyFamily
	starts map[int]string    // names of user chains by the offset of their first rule
	names  map[string]string // of matches and targets
	// verdicts are the expressions of rules that end alike.
	verdicts map[rules.Decision]rules.Expr
}

// find returns the entry at an offset.
func find(entries []entry, at int) (int, bool) {
	return slices.BinarySearchFunc(entries, at, func(e entry, at int) int { return e.at - at })
}

// entries finds the entries, of which there are so many.
func (f *legacyFamily) entries(data []byte, count int) (list []entry, err error) {
	least := f.counters + 16 + targetHeader
	list = make([]entry, 0, max(min(count, len(data)/least), 0))
	for at := 0; at < len(data); {
		b := blob{data: data[at:]}
		target, next := int(b.u16(f.fields)), int(b.u16(f.fields+2))
		if b.short || target < f.counters+16 || next < target+targetHeader || next > len(b.data) {
			return nil, errMalformedTable
		}
		list = append(list, entry{at: at, next: at + next, data: blob{data: b.data[:next]}, target: target})
		at += next
	}
	return list, nil
}

// isError reports whether the entry names a chain, or ends the table.
func (e *entry) isError() bool {
	return bytes.HasPrefix(e.data.at(e.target+2, 29), []byte("ERROR\x00"))
}

// verdict returns that of a standard target, and whether it is one.
func (e *entry) verdict() (int32, bool) {
	if e.data.u8(e.target+2) != 0 {
		return 0, false
	}
	return int32(e.data.u32(e.target + targetHeader)), true //nolint:gosec // a signed number of the kernel
}

// base says when the kernel calls a chain.
func (f *legacyFamily) base(table string, hook int, policy int32) *rules.Base {
	b := &rules.Base{Type: "filter", Hook: uint32(hook), Policy: policy}
	if f.family == unix.NFPROTO_ARP {
		return b
	}
	switch table {
	case "raw":
		b.Priority = -300
	case "mangle":
		b.Priority = -150
		if hook == unix.NF_INET_LOCAL_OUT {
			b.Type = "route"
		}
	case "nat":
		b.Type, b.Priority = "nat", -100
		if hook == unix.NF_INET_POST_ROUTING || hook == unix.NF_INET_LOCAL_IN {
			b.Priority = 100
		}
	case "security":
		b.Priority = 50
	}
	return b
}

// fill makes rules of entries.
func (p *parser) fill(c *rules.Chain, entries []entry) error {
	list := make([]rules.Rule, len(entries))
	c.Rules = make([]*rules.Rule, len(entries))
	for i := range entries {
		r := &list[i]
		r.Chain, r.Index = c, i
		if err := p.rule(r, &entries[i]); err != nil {
			return err
		}
		c.Rules[i] = r
	}
	return nil
}

// rule decodes an entry: the header if it asks for anything, matches, a counter, and a verdict or target.
func (p *parser) rule(r *rules.Rule, e *entry) error {
	const usual = 4
	r.Exprs = make([]rules.Expr, 0, usual)
	header := e.data.at(0, p.header)
	if asks(header, p.flags) {
		r.Exprs = append(r.Exprs, rules.Match{Name: HeaderName, Info: header})
	}
	for at := p.counters + 16; at < e.target; {
		size := int(e.data.u16(at))
		if size < targetHeader || at+size > e.target {
			return errMalformedTable
		}
		m := rules.Match{
			Name: p.name(e, at), Rev: uint32(e.data.u8(at + 31)), Info: e.data.at(at+targetHeader, size-targetHeader),
		}
		if m.Name == "comment" {
			r.Comment = unix.ByteSliceToString(m.Info)
		}
		r.Exprs = append(r.Exprs, m)
		at += size
	}
	r.Exprs = append(r.Exprs, rules.Counter{Packets: e.data.u64(p.counters), Bytes: e.data.u64(p.counters + 8)})
	verdict, standard := e.verdict()
	if !standard {
		size := int(e.data.u16(e.target))
		if size < targetHeader || e.target+size > len(e.data.data) {
			return errMalformedTable
		}
		r.Exprs = append(r.Exprs, rules.Target{
			Name: p.name(e, e.target), Rev: uint32(e.data.u8(e.target + 31)), Info: e.data.at(e.target+targetHeader, size-targetHeader),
		})
		return nil
	}
	d := rules.Decision{}
	switch {
	case verdict == xtReturn:
		d.Code = unix.NFT_RETURN
	case verdict < 0:
		d.Code = -verdict - 1
	case int(verdict) == e.next: // no target
		return nil
	default:
		name, ok := p.starts[int(verdict)]
		if !ok {
			return errMalformedTable
		}
		d.Code, d.Chain = unix.NFT_JUMP, name
		if p.goes != 0 && header[p.flags]&p.goes != 0 {
			d.Code = unix.NFT_GOTO
		}
	}
	x, ok := p.verdicts[d]
	if !ok {
		own := d
		x = rules.Immediate{Dreg: rules.Verdict, Decision: &own}
		p.verdicts[d] = x
	}
	r.Exprs = append(r.Exprs, x)
	return nil
}

// asks reports whether a header compares anything: all of it is zero, but for the flag of a goto.
func asks(header []byte, flags int) bool {
	for i, b := range header {
		if b != 0 && i != flags {
			return true
		}
	}
	return flags != 0 && header[flags]&ipFragment != 0
}

// name is that of a match or target.
func (p *parser) name(e *entry, at int) string {
	b := e.data.at(at+2, 29)
	if n := bytes.IndexByte(b, 0); n >= 0 {
		b = b[:n]
	}
	name, ok := p.names[string(b)]
	if !ok {
		name = string(b)
		p.names[name] = name
	}
	return name
}
