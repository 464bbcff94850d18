// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Validate returns what Conn.Replace would refuse without asking the kernel: names that
// nft(8) cannot read back, references to missing objects, rules whose fields do not
// make the key of their set, base chains that do not exist, impossible jumps.
func (t Table) Validate() error {
	if err := t.validate(); err != nil {
		return fmt.Errorf("validate table %s: %w", t.Name, err)
	}
	return nil
}

// validateWith checks a table, and a change of its elements.
func (t Table) validateWith(ch Change) error {
	if err := t.Validate(); err != nil {
		return err
	}
	return ch.validateListed(t)
}

// maxTag is the longest tag: user data has 256 bytes at most (NFT_USERDATA_MAXLEN).
const maxTag = 64

func (t Table) validate() error {
	if err := CheckName(t.Name); err != nil {
		return err
	}
	if err := checkComment(t.Comment); err != nil {
		return err
	}
	if len(t.Tag) > maxTag {
		return fmt.Errorf("its tag has %d bytes; there may be %d", len(t.Tag), maxTag)
	}
	if t.Flags != 0 && t.Flags != TableOwned && t.Flags != TableOwner {
		return fmt.Errorf("it has the flags %q; there are %q, %q or none", t.Flags, TableOwned, TableOwner)
	}
	seen := map[string]bool{}
	for _, c := range t.Sets {
		if err := c.validate(); err != nil {
			return fmt.Errorf("%s %s: %w", c.Kind(), c.Name, err)
		}
		if seen[c.Name] {
			return fmt.Errorf("%s %s: a map or set of that name is there already", c.Kind(), c.Name)
		}
		seen[c.Name] = true
	}
	chains := map[string]Chain{}
	for _, c := range t.Chains {
		if _, ok := chains[c.Name]; ok {
			return fmt.Errorf("chain %s: it is there already", c.Name)
		}
		if err := c.validate(); err != nil {
			return fmt.Errorf("chain %s: %w", c.Name, err)
		}
		for i, r := range c.Rules {
			if err := t.validateRule(r, chains); err != nil {
				return fmt.Errorf("chain %s: rule %d: %w", c.Name, i+1, err)
			}
		}
		// A chain may jump only to those before it: one pass can create them, and there
		// can be no loop.
		chains[c.Name] = c
	}
	return nil
}

func (c Set) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if err := c.Key.validate(); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if c.Value == nil {
		return nil
	}
	if err := c.Value.validate(); err != nil {
		return fmt.Errorf("value: %w", err)
	}
	if c.Interval && (c.holds() != rangeKey || !c.Value.isAddr()) {
		return fmt.Errorf("a map of intervals has ranges of ports for keys, and addresses for values")
	}
	return nil
}

// maxFields is how many identifiers of fields fit the 32 bits by which nft(8) lists the type
// of a concatenation (concat_type_alloc in nftables' src/datatype.c).
const maxFields = 32 / typeBits

func (t Type) validate() error {
	if len(t) == 0 || len(t) > maxFields {
		return fmt.Errorf("a type has 1 to %d fields, not %d", maxFields, len(t))
	}
	for _, d := range t {
		if d == 0 || int(d) >= len(dataTypes) {
			return fmt.Errorf("there is no data type %d", d)
		}
	}
	if t.size() > registerWords*4 {
		return fmt.Errorf("%s needs %d bytes of registers, the kernel has %d", t, t.size(), registerWords*4)
	}
	return nil
}

func (c Chain) validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if err := checkComment(c.Comment); err != nil {
		return err
	}
	if c.Hook == (Hook{}) {
		return nil
	}
	if _, ok := hookNumbers[c.Hook.Point]; !ok {
		return fmt.Errorf("there is no hook %q", c.Hook.Point)
	}
	switch c.Hook.Type {
	case "filter":
	case "nat":
		// nf_nat_register_fn has no forward hook; below -200 conntrack has not seen
		// the packet yet (NF_IP_PRI_CONNTRACK).
		if c.Hook.Point == "forward" || c.Hook.Priority <= -200 {
			return fmt.Errorf("the kernel does no nat at hook %s priority %d", c.Hook.Point, c.Hook.Priority)
		}
	default:
		return fmt.Errorf("there is no chain type %q", c.Hook.Type)
	}
	return nil
}

// hookNumbers are the hook points of the inet family (enum nf_inet_hooks in
// include/uapi/linux/netfilter.h).
var hookNumbers = map[string]uint32{
	"prerouting": unix.NF_INET_PRE_ROUTING, "forward": unix.NF_INET_FORWARD,
	"output": unix.NF_INET_LOCAL_OUT, "postrouting": unix.NF_INET_POST_ROUTING,
}

func (t Table) validateRule(r Rule, chains map[string]Chain) error {
	if len(r) == 0 {
		return fmt.Errorf("it has no statement")
	}
	var p protocols
	for i, s := range r {
		if s == nil {
			return fmt.Errorf("statement %d is nil", i+1)
		}
		if err := t.validateStmt(s, chains); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		if err := p.add(s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		if terminal(s) && i < len(r)-1 {
			return fmt.Errorf("%s: nothing behind it would be run", s)
		}
	}
	return nil
}

// terminal reports whether nft(8) takes no statement behind this one.
func terminal(s Stmt) bool {
	switch s.(type) {
	case translation, masquerade, masqueradeTo, redirectTo, samePort, verdict:
		return true
	}
	return false
}

// protocols are those that a rule asks for. A rule that asks for two of a layer matches
// nothing, and nft(8) does not load it.
type protocols struct {
	nfproto, l4proto byte
	// family and over are whether the rule says which they are in statements of their own.
	family, over bool
	anyL4        bool // the rule has fields of whichever protocol of that layer
}

var errNoProtocol = errors.New("a port is translated only behind a match of tcp or udp")

func (p *protocols) add(s Stmt) error {
	switch s := s.(type) {
	case within:
		return p.addFields(s.selector)
	case in:
		return p.addFields(s.fields...)
	case markFrom:
		return p.addFields(s.fields...)
	case over:
		if p.l4proto != 0 || p.anyL4 {
			return fmt.Errorf("the rule says already which protocol it is about")
		}
		p.l4proto, p.over = s.l4proto, true
	case overFamily:
		if p.nfproto != 0 {
			return fmt.Errorf("the rule says already which family it is about")
		}
		p.nfproto, p.family = s.nfproto, true
	case masquerade:
		if s.toPorts() && p.l4proto == 0 {
			return errNoProtocol
		}
	case samePort:
		if p.l4proto == 0 {
			return errNoProtocol
		}
		return p.addFields(s.port)
	case masqueradeTo:
		return p.toMap(s.fields, p.family)
	case redirectTo:
		return p.toMap(s.fields, p.family || p.nfproto == 0)
	case translation:
		if err := p.addFields(s.fields...); err != nil {
			return err
		}
		if p.l4proto == 0 {
			return errNoProtocol
		}
		if s.port != 0 {
			if err := p.addFields(s.port); err != nil {
				return err
			}
		}
		if family := s.family(); p.nfproto != 0 && p.nfproto != family {
			return fmt.Errorf("the rule matches packets of the other family")
		}
	}
	return nil
}

// toMap checks the fields of a statement that gives a port from a map. saysFamily is whether the rule
// says as much of the family as it must.
func (p *protocols) toMap(of []Selector, saysFamily bool) error {
	var fields protocols
	if err := fields.addFields(of...); err != nil {
		return err
	}
	if !saysFamily || !p.over || fields.nfproto != p.nfproto || fields.l4proto != p.l4proto {
		return fmt.Errorf("the rule must say first which protocols its fields are of")
	}
	return nil
}

func (p *protocols) addFields(fields ...Selector) error {
	for _, f := range fields {
		d := selectors[f]
		// The kernel needs no test for these, but nft(8) infers the family.
		switch f { //nolint:exhaustive // the others have it
		case CTOriginalIPDaddr:
			d.nfproto = unix.NFPROTO_IPV4
		case CTOriginalIP6Daddr:
			d.nfproto = unix.NFPROTO_IPV6
		}
		if d.nfproto != 0 && p.nfproto != 0 && d.nfproto != p.nfproto ||
			d.l4proto != 0 && p.l4proto != 0 && d.l4proto != p.l4proto {
			return fmt.Errorf("no packet has both %s and an earlier field of the rule", f)
		}
		anyL4 := f == L4Proto || f == THDport || f == THSport
		if anyL4 && p.l4proto != 0 || d.l4proto != 0 && p.anyL4 || f == NFProto && p.nfproto != 0 {
			return fmt.Errorf("%s is not for a rule that says which protocol it is about", f)
		}
		p.anyL4 = p.anyL4 || anyL4
		if d.l4proto != 0 && p.over {
			return fmt.Errorf("%s says which protocol it is about, and nft(8) says it once", f)
		}
		if d.nfproto != 0 && p.family {
			return fmt.Errorf("%s says which family it is about, and nft(8) says it once", f)
		}
		p.nfproto, p.l4proto = max(p.nfproto, d.nfproto), max(p.l4proto, d.l4proto)
	}
	return nil
}

func (t Table) validateStmt(s Stmt, chains map[string]Chain) error {
	switch s := s.(type) {
	case within:
		if !s.selector.valid() || !s.selector.inPacket() || !s.prefix.IsValid() {
			return fmt.Errorf("it lacks a selector or a prefix")
		}
		if want := dataTypes[selectors[s.selector].typ].size * 8; s.prefix.Addr().BitLen() != want {
			return fmt.Errorf("%s has %d bits, not %d", s.selector, want, s.prefix.Addr().BitLen())
		}
		if selectors[s.selector].base != expr.PayloadBaseNetworkHeader {
			return fmt.Errorf("%s is not compared with a prefix", s.selector)
		}
	case in:
		return t.validateLookup(s.set, s.fields, nil)
	case translation:
		if err := checkPort(s.port); s.port != 0 && err != nil {
			return err
		}
		return t.validateLookup(s.m, s.fields, s.valueType())
	case samePort:
		return checkPort(s.port)
	case masqueradeTo:
		return t.validateLookup(s.m, s.fields, Type{InetService})
	case redirectTo:
		return t.validateLookup(s.m, s.fields, Type{InetService})
	case markFrom:
		return t.validateLookup(s.m, s.fields, Type{Mark})
	case masquerade:
		return s.validate()
	case notFromInterface:
		if !interfaceName(s.name) {
			return fmt.Errorf("it is no interface name")
		}
	case verdict:
		if s.word != "jump" {
			return nil
		}
		to, ok := chains[s.chain]
		if !ok {
			return fmt.Errorf("no chain of that name stands before this one")
		}
		if to.Hook != (Hook{}) {
			return fmt.Errorf("%s is a base chain", s.chain)
		}
	}
	return nil
}

// checkPort returns an error for a selector that is no source port.
func checkPort(s Selector) error {
	if s != TCPSport && s != UDPSport {
		return fmt.Errorf("%s is no source port", s)
	}
	return nil
}

// interfaceName reports whether an interface can have the name (dev_valid_name in
// net/core/dev.c) and nft(8) can read it, where " * and \ have a meaning.
func interfaceName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) >= unix.IFNAMSIZ {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || strings.IndexByte(`/:"*\`, c) >= 0 {
			return false
		}
	}
	return true
}

func (t Table) validateLookup(name string, fields concatenation, value Type) error {
	c, ok := t.Set(name)
	if !ok {
		return fmt.Errorf("there is no map or set %s", name)
	}
	if key := fields.keyType(); !slices.Equal(key, c.Key) {
		return fmt.Errorf("the fields make a key of type %s, %s %s has %s", key, c.Kind(), name, c.Key)
	}
	if !slices.Equal(value, c.Value) {
		return fmt.Errorf("it needs a value of type %q, %s %s has %q", value, c.Kind(), name, c.Value)
	}
	return nil
}
