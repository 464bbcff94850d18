// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// compiler reads the expressions of a rule.
type compiler struct {
	reader
	rule  *rules.Rule
	chain *Chain
	// out are the rules so far. Each element of a map is one.
	out []*Rule
}

// state is what is known behind some expressions.
type state struct {
	*condition
	slots    [16]slot
	mapName  string
	mapNamed bool
	key, end []byte
	endIn    bool
	left     uint64 // milliseconds, of the element
}

// compile returns a rule of the kernel as rules of this package.
func (r reader) compile(t *Table, chain *Chain, rule *rules.Rule) ([]*Rule, error) {
	c := &compiler{reader: r, rule: rule, chain: chain}
	s := &state{condition: newCondition(t.classes() & translated(rule.Exprs))}
	if err := c.exprs(s, rule.Exprs); err != nil {
		return nil, err
	}
	if len(c.out) == 0 {
		return nil, nil
	}
	text := r.printer.Rule(rule)
	for _, o := range c.out {
		o.Chain, o.Handle, o.Text, o.Siblings = chain, rule.Handle, text, len(c.out)
	}
	return c.out, nil
}

// translated returns the packets that a rule can translate: with a family, a rule of an inet table does
// nothing to others, and may read addresses without having asked for the family.
func translated(list []rules.Expr) packets.Classes {
	for _, e := range list {
		if e, ok := e.(rules.Nat); ok {
			switch e.Family {
			case unix.NFPROTO_IPV4:
				return packets.IPv4
			case unix.NFPROTO_IPV6:
				return packets.IPv6
			}
		}
	}
	return packets.All
}

func (c *compiler) emit(s *state, action Action, set func(*Rule)) {
	r := &Rule{
		Match: s.boxes, If: s.ifs, Action: action, Map: s.mapName, Key: s.key, KeyEnd: s.end, Left: s.left, mapNamed: s.mapNamed, keyEndInElement: s.endIn,
	}
	if set != nil {
		set(r)
	}
	c.out = append(c.out, r)
}

// exprs reads expressions, and for each element of a map those behind it.
func (c *compiler) exprs(s *state, list []rules.Expr) error {
	for i, e := range list {
		switch e := e.(type) {
		case rules.Counter, rules.Log, rules.Last, rules.Notrack:
		case rules.Limit:
			s.only("a limit")
		case rules.Quota:
			s.only("a quota")
		case rules.ConnLimit:
			s.only("a number of connections")
		case rules.Dynset:
			s.only("what the set " + e.Set + " takes")
		case rules.Objref:
			if e.Map != "" {
				s.only("an object of the map " + e.Map)
			}
			if e.Type != unix.NFT_OBJECT_COUNTER {
				s.only("the object " + e.Name)
			}
		case rules.Immediate:
			if e.Decision == nil {
				s.load(e.Dreg, slot{field: constant, len: max(len(e.Data), 1), data: e.Data})
				continue
			}
			c.decide(s, e.Decision)
			return nil
		case rules.Lookup:
			if done, err := c.lookup(s, e, list[i+1:]); done || err != nil {
				return err
			}
		case rules.Nat:
			c.nat(s, e)
			return nil
		case rules.Redir:
			c.emit(s, Redirect, nil)
			return nil
		case rules.Masq:
			c.emit(s, Hide, nil)
			return nil
		case rules.Match:
			s.match(c.rule.Chain.Table.Family, e)
		case rules.Target:
			c.target(s, e)
			return nil
		default:
			if !s.expr(c, e) {
				s.only("an expression that is not known")
				c.emit(s, Unknown, nil)
				return nil
			}
		}
	}
	return nil
}

func (c *compiler) decide(s *state, d *rules.Decision) {
	switch d.Code {
	case nfAccept:
		c.emit(s, Accept, nil)
	case nfDrop:
		c.emit(s, Drop, nil)
	case unix.NFT_RETURN:
		c.emit(s, Return, nil)
	case unix.NFT_JUMP, unix.NFT_GOTO:
		action := Jump
		if d.Code == unix.NFT_GOTO {
			action = Goto
		}
		c.emit(s, action, func(r *Rule) { r.Target = d.Chain })
	case unix.NFT_CONTINUE, unix.NFT_BREAK:
	default:
		c.emit(s, Unknown, nil)
	}
}

func (c *compiler) nat(s *state, e rules.Nat) {
	if e.Type != unix.NFT_NAT_DNAT {
		c.emit(s, Hide, nil)
		return
	}
	var to Target
	size := 0
	switch e.Family {
	case unix.NFPROTO_IPV4:
		size = 4
		s.keep(false, packets.Of(packets.IPv4))
	case unix.NFPROTO_IPV6:
		size = 16
		s.keep(false, packets.Of(packets.IPv6))
	}
	addr := func(r rules.Register) (a netip.Addr) {
		a, ok := netip.AddrFromSlice(s.data(r, size))
		if !ok {
			to.Fault = "its address is not in the rule"
		}
		return a
	}
	port := func(r rules.Register) uint16 {
		b := s.data(r, 2)
		if b == nil {
			to.Fault = "its port is not in the rule"
			return 0
		}
		return binary.BigEndian.Uint16(b)
	}
	if e.AddrMin != 0 {
		to.Addr = addr(e.AddrMin)
	}
	if e.PortMin != 0 {
		to.First = port(e.PortMin)
		to.Last = to.First
	}
	if e.PortMax != 0 {
		to.Last = port(e.PortMax)
	}
	if e.AddrMax != 0 && to.Fault == "" && addr(e.AddrMax) != to.Addr {
		to.Fault = "it goes to any of several addresses"
	}
	to.flags(e.Flags)
	c.emit(s, Translate, func(r *Rule) { r.To = to })
}

// flags notes those of NF_NAT_RANGE_* that a published port cannot have.
func (t *Target) flags(flags uint32) {
	const random = unix.NF_NAT_RANGE_PROTO_RANDOM | unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY
	switch {
	case t.Fault != "":
	case flags&unix.NF_NAT_RANGE_NETMAP != 0:
		t.Fault = "it translates a network to another one"
	case flags&random != 0 && t.First != t.Last:
		t.Fault = "it goes to random ports"
	case !t.Addr.IsValid():
		t.Fault = "it has no address: it goes to this host itself"
	}
}
