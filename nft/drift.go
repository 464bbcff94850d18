// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Part tells what of a table a Difference is in.
type Part uint8

// The parts of a table, by what it takes to put them right.
const (
	// PartFlags are the table's flags: only replacing it gives it others.
	PartFlags Part = iota + 1
	// PartTypes are the definitions of maps and sets: a set keeps its own to its end.
	PartTypes
	// PartDormancy is whether the table does anything at all.
	PartDormancy
	// PartSets is which maps and sets there are.
	PartSets
	// PartChains are the chains, and the rules in them.
	PartChains
)

// String returns what it is: "chains".
func (p Part) String() string {
	names := [...]string{PartFlags: "flags", PartTypes: "types", PartDormancy: "dormancy", PartSets: "sets", PartChains: "chains"}
	if p == 0 || int(p) >= len(names) {
		return "invalid"
	}
	return names[p]
}

// Difference is one way in which the kernel's table is not the one that is wanted.
type Difference struct {
	Part Part
	// Text is a line for people.
	Text string
}

// String returns the text.
func (d Difference) String() string { return d.Text }

// Repairable reports whether Repair puts it right in a table that nobody owns, or that had
// its owner when it was turned off.
func (d Difference) Repairable() bool { return d.Part != PartFlags && d.Part != PartTypes }

func differs(part Part, format string, args ...any) Difference {
	return Difference{Part: part, Text: fmt.Sprintf(format, args...)}
}

// Drift reads the table's maps, sets, chains and rules back and tells how they
// differ from t, a line for each difference; none: the kernel holds exactly t.
// Elements and comments do not count. The error is fs.ErrNotExist where there is no
// such table; it is ErrInterrupted if the table kept changing, or, where there are too
// many chains for one datagram, any ruleset of the namespace.
func (c *Conn) Drift(t Table) ([]Difference, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drift(t)
}

func (c *Conn) drift(t Table) ([]Difference, error) {
	var all []Difference
	_, err := c.readConsistent("list table inet "+t.Name, t.Name, func() error {
		all = nil
		for _, compare := range []func(Table) ([]Difference, error){
			c.driftOfTable, c.driftOfCollections, c.driftOfChains, c.driftOfRules,
		} {
			more, err := compare(t)
			if err != nil {
				return err
			}
			all = append(all, more...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (c *Conn) driftOfTable(t Table) ([]Difference, error) {
	info, err := c.table(t.Name)
	if err != nil {
		return nil, err
	}
	switch {
	case info.Flags&TableDormant != 0:
		return []Difference{differs(PartDormancy, "table %s is dormant", t.Name)}, nil
	case info.Flags != t.Flags:
		return []Difference{differs(PartFlags, "table %s has the flags %q, not %q", t.Name, info.Flags, t.Flags)}, nil
	}
	return nil, nil
}

func (c *Conn) driftOfCollections(t Table) ([]Difference, error) {
	var lines []Difference
	missing := map[string]Set{}
	for _, s := range t.Sets {
		missing[s.Name] = s
	}
	err := c.dump(unix.NFT_MSG_GETSET, "list sets of table inet "+t.Name,
		func(b []byte) []byte { return nlwire.AppendString(b, unix.NFTA_SET_TABLE, t.Name) },
		func(a nlwire.Attrs) error {
			name := unix.ByteSliceToString(nlwire.Find(a.Rest, unix.NFTA_SET_NAME))
			want, ok := missing[name]
			if !ok {
				lines = append(lines, differs(PartSets, "map or set %s should not be there", shown(name)))
				return nil
			}
			delete(missing, name)
			if !want.matches(a) {
				lines = append(lines, differs(PartTypes, "%s %s is of another type", want.Kind(), name))
			}
			return nil
		})
	for _, s := range t.Sets {
		if _, ok := missing[s.Name]; ok {
			lines = append(lines, differs(PartSets, "%s %s is missing", s.Kind(), s.Name))
		}
	}
	return lines, err
}

// shown is a name that others may have given, of any bytes, as it can be shown.
func shown(name string) string {
	if CheckName(name) != nil {
		return strconv.Quote(name)
	}
	return name
}

// matches reports whether the kernel's set is this one. The identifiers of the
// types decide as well as the lengths do: nft(8) lists by them. A time-out of the set
// would be that of each element which has none of its own.
func (c Set) matches(a nlwire.Attrs) bool {
	var flags, key, keyLen, value, valueLen, size uint32
	var timeout uint64
	for a.Next() {
		switch a.Type {
		case unix.NFTA_SET_FLAGS:
			flags = a.BE32()
		case unix.NFTA_SET_KEY_TYPE:
			key = a.BE32()
		case unix.NFTA_SET_KEY_LEN:
			keyLen = a.BE32()
		case unix.NFTA_SET_DATA_TYPE:
			value = a.BE32()
		case unix.NFTA_SET_DATA_LEN:
			valueLen = a.BE32()
		case unix.NFTA_SET_TIMEOUT:
			timeout = a.BE64()
		case unix.NFTA_SET_DESC:
			for d := (nlwire.Attrs{Rest: a.Payload}); d.Next(); {
				if d.Type == unix.NFTA_SET_DESC_SIZE {
					size = d.BE32()
				}
			}
		}
	}
	same := a.Err == nil && timeout == 0 && flags == c.flags() && size == c.Size && key == c.Key.id() && keyLen == uint32(c.Key.size())
	if c.Value == nil {
		return same
	}
	return same && value == c.Value.id() && valueLen == uint32(c.Value.size())
}

func (c *Conn) driftOfChains(t Table) ([]Difference, error) {
	var lines []Difference
	missing := map[string]Chain{}
	for _, ch := range t.Chains {
		missing[ch.Name] = ch
	}
	// Before 6.12 the kernel knows no filter by table here.
	err := c.dump(unix.NFT_MSG_GETCHAIN, "list chains of table inet "+t.Name,
		func(b []byte) []byte { return nlwire.AppendString(b, unix.NFTA_CHAIN_TABLE, t.Name) },
		func(a nlwire.Attrs) error {
			if unix.ByteSliceToString(nlwire.Find(a.Rest, unix.NFTA_CHAIN_TABLE)) != t.Name {
				return nil
			}
			name := unix.ByteSliceToString(nlwire.Find(a.Rest, unix.NFTA_CHAIN_NAME))
			want, ok := missing[name]
			if !ok {
				lines = append(lines, differs(PartChains, "chain %s should not be there", shown(name)))
				return nil
			}
			delete(missing, name)
			if !want.matches(a) {
				lines = append(lines, differs(PartChains, "chain %s is not: %s", name, want.Hook))
			}
			return nil
		})
	for _, ch := range t.Chains {
		if _, ok := missing[ch.Name]; ok {
			lines = append(lines, differs(PartChains, "chain %s is missing", ch.Name))
		}
	}
	return lines, err
}

func (c Chain) matches(a nlwire.Attrs) bool {
	policy := nlwire.Attrs{Payload: nlwire.Find(a.Rest, unix.NFTA_CHAIN_POLICY)}
	return c.hookMatches(a) && (c.Hook == (Hook{}) || policy.BE32() == nfAccept)
}

// hookMatches is matches but for the policy, which a chain that is hooked can change.
func (c Chain) hookMatches(a nlwire.Attrs) bool {
	hook := nlwire.Find(a.Rest, unix.NFTA_CHAIN_HOOK)
	if c.Hook == (Hook{}) {
		return hook == nil
	}
	number, _ := hookNumber(c.Hook.Point)
	at := nlwire.Attrs{Payload: nlwire.Find(hook, unix.NFTA_HOOK_HOOKNUM)}
	priority := nlwire.Attrs{Payload: nlwire.Find(hook, unix.NFTA_HOOK_PRIORITY)}
	return unix.ByteSliceToString(nlwire.Find(a.Rest, unix.NFTA_CHAIN_TYPE)) == c.Hook.Type &&
		at.BE32() == number && int32(priority.BE32()) == c.Hook.Priority
}

func (c *Conn) driftOfRules(t Table) ([]Difference, error) {
	have := map[string][][]byte{} // by chain, in order: the kernel lists them so
	err := c.dump(unix.NFT_MSG_GETRULE, "list rules of table inet "+t.Name,
		func(b []byte) []byte { return nlwire.AppendString(b, unix.NFTA_RULE_TABLE, t.Name) },
		func(a nlwire.Attrs) error {
			chain := unix.ByteSliceToString(nlwire.Find(a.Rest, unix.NFTA_RULE_CHAIN))
			exprs := bytes.Clone(nlwire.Find(a.Rest, unix.NFTA_RULE_EXPRESSIONS))
			have[chain] = append(have[chain], exprs)
			return nil
		})
	if err != nil {
		return nil, err
	}
	var lines []Difference
	for _, ch := range t.Chains {
		rules := have[ch.Name]
		for i, r := range ch.Rules {
			want, err := encodeRule(r)
			if err != nil {
				return nil, err
			}
			if i >= len(rules) || !sameExpressions(want, rules[i]) {
				lines = append(lines, differs(PartChains, "chain %s: rule %d is not: %s", ch.Name, i+1, r))
			}
		}
		for i := len(ch.Rules); i < len(rules); i++ {
			lines = append(lines, differs(PartChains, "chain %s: rule %d should not be there", ch.Name, i+1))
		}
	}
	return lines, nil
}

// sameExpressions reports whether the kernel lists the expressions that were asked
// for: the same, in the same order.
func sameExpressions(want, have []byte) bool {
	w, h := nlwire.Attrs{Rest: want}, nlwire.Attrs{Rest: have}
	afterPresence := false // the expression before is a fib that asks for presence
	for w.Next() {
		if !h.Next() {
			return false
		}
		name := unix.ByteSliceToString(nlwire.Find(w.Payload, unix.NFTA_EXPR_NAME))
		if name != unix.ByteSliceToString(nlwire.Find(h.Payload, unix.NFTA_EXPR_NAME)) {
			return false
		}
		asked, listed := nlwire.Find(w.Payload, unix.NFTA_EXPR_DATA), nlwire.Find(h.Payload, unix.NFTA_EXPR_DATA)
		if !sameExpression(name, asked, listed) && (!afterPresence || !sameAbsence(name, asked, listed)) {
			return false
		}
		afterPresence = asksPresence(name, asked)
	}
	return !h.Next()
}

// sameExpression compares the attributes of one expression. The kernel lists some
// that were left to their defaults, and newer kernels may list more: those that were
// sent must be there, and such as were not must not change the meaning.
func sameExpression(name string, want, have []byte) bool {
	for sent := (nlwire.Attrs{Rest: want}); sent.Next(); {
		if name == "lookup" && sent.Type == unix.NFTA_LOOKUP_SET_ID {
			continue // means something only in the batch that makes the set
		}
		if !sameAttribute(carriesData(name, sent.Type), sent.Payload, nlwire.Find(have, sent.Type)) {
			return false
		}
	}
	for listed := (nlwire.Attrs{Rest: have}); listed.Next(); {
		if nlwire.Find(want, listed.Type) == nil && !isDefault(name, listed, have) {
			return false
		}
	}
	return true
}

// isDefault reports whether an attribute that was not sent says what leaving it out
// says.
func isDefault(expression string, a nlwire.Attrs, all []byte) bool {
	switch expression {
	case "bitwise":
		return a.Type != nftaBitwiseOp || a.BE32() == 0 // NFT_BITWISE_MASK_XOR
	case "lookup":
		return a.Type != unix.NFTA_LOOKUP_FLAGS || a.BE32() == 0 // not NFT_LOOKUP_F_INV
	case "masq":
		return a.Type != unix.NFTA_MASQ_FLAGS && a.Type != unix.NFTA_MASQ_REG_PROTO_MIN
	case "nat":
		switch a.Type {
		case unix.NFTA_NAT_REG_ADDR_MAX:
			return bytes.Equal(a.Payload, nlwire.Find(all, unix.NFTA_NAT_REG_ADDR_MIN))
		case unix.NFTA_NAT_REG_PROTO_MAX:
			return bytes.Equal(a.Payload, nlwire.Find(all, unix.NFTA_NAT_REG_PROTO_MIN))
		case unix.NFTA_NAT_FLAGS:
			return a.BE32()&^(natMapIPs|natProtoSpecified) == 0
		}
	}
	return true
}

// What x/sys does not name: an attribute of include/uapi/linux/netfilter/nf_tables.h,
// and the flags of include/uapi/linux/netfilter/nf_nat.h that the kernel sets by itself
// where there are an address and a port.
const (
	nftaBitwiseOp     = 6
	natMapIPs         = 1
	natProtoSpecified = 2
)

// carriesData reports whether an attribute of an expression is not a number or a
// name but wraps data: enum nft_data_attributes.
func carriesData(expression string, typ uint16) bool {
	switch expression {
	case "cmp":
		return typ == unix.NFTA_CMP_DATA
	case "bitwise":
		return typ == unix.NFTA_BITWISE_MASK || typ == unix.NFTA_BITWISE_XOR
	case "immediate":
		return typ == unix.NFTA_IMMEDIATE_DATA
	}
	return false
}

// sameAttribute compares payloads; one that carries data by what it wraps, because the
// kernel lists that without the flag NLA_F_NESTED with which it may be sent.
func sameAttribute(data bool, want, have []byte) bool {
	if !data {
		return bytes.Equal(want, have)
	}
	verdict := nlwire.Find(want, unix.NFTA_DATA_VERDICT)
	if verdict == nil {
		return bytes.Equal(nlwire.Find(want, unix.NFTA_DATA_VALUE), nlwire.Find(have, unix.NFTA_DATA_VALUE))
	}
	have = nlwire.Find(have, unix.NFTA_DATA_VERDICT)
	return bytes.Equal(nlwire.Find(verdict, unix.NFTA_VERDICT_CODE), nlwire.Find(have, unix.NFTA_VERDICT_CODE)) &&
		unix.ByteSliceToString(nlwire.Find(verdict, unix.NFTA_VERDICT_CHAIN)) == unix.ByteSliceToString(nlwire.Find(have, unix.NFTA_VERDICT_CHAIN))
}
