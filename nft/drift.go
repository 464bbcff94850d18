// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Difference is one difference between the kernel's table and the one that is wanted.
type Difference struct {
	Text string // a line for people
	// Recreate is whether only another table in its place corrects it: the flags of a table and
	// the types of its sets and maps cannot be changed. Repair corrects the others if the table
	// has no owner or was made dormant by its owner.
	Recreate bool
	// Empty is whether a set or map of ranges is missing, which packets find empty for a moment when
	// it is added: see Conn.Replace.
	Empty bool
}

// String returns the text.
func (d Difference) String() string { return d.Text }

// Drift returns how the kernel's maps, sets, chains and rules differ from t; none: the kernel
// holds exactly t. Elements and comments do not count. The error is fs.ErrNotExist if there
// is no such table, and ErrInterrupted if the table kept changing, or, if its chains do not
// fit one datagram, any ruleset of the namespace.
func (c *Conn) Drift(t Table) ([]Difference, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drift(t)
}

func (c *Conn) drift(t Table) (lines []Difference, err error) {
	_, err = c.readConsistent("list table inet "+t.Name, t.Name, func() error {
		found, err := c.load(t)
		if err != nil {
			return err
		}
		lines = found.drift(t)
		rules, err := c.driftOfRules(t)
		lines = append(lines, rules...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return lines, nil
}

func (l loaded) drift(t Table) (lines []Difference) {
	add := func(recreate bool, format string, args ...any) {
		lines = append(lines, Difference{Text: fmt.Sprintf(format, args...), Recreate: recreate})
	}
	switch flags := l.info.Flags; {
	case flags&TableDormant != 0:
		add(false, "table %s is dormant", t.Name)
	case flags != t.Flags:
		add(true, "table %s has the flags %q, not %q", t.Name, flags, t.Flags)
	}
	there := map[string]bool{}
	for _, s := range l.sets {
		there[s.name] = true
		switch want, _ := t.Set(s.name); {
		case !s.wanted:
			add(false, "map or set %s should not be there", shown(s.name))
		case !s.right:
			add(true, "%s %s is of another type", want.Kind(), s.name)
		}
	}
	for _, s := range t.Sets {
		if !there[s.Name] {
			lines = append(lines, Difference{Text: fmt.Sprintf("%s %s is missing", s.Kind(), s.Name), Empty: s.Interval})
		}
	}
	clear(there)
	for _, ch := range l.chains {
		there[ch.name] = true
		switch want, _ := t.Chain(ch.name); {
		case !ch.wanted:
			add(false, "chain %s should not be there", shown(ch.name))
		case !ch.right:
			add(false, "chain %s is not: %s", ch.name, want.Hook)
		}
	}
	for _, ch := range t.Chains {
		if !there[ch.Name] {
			add(false, "chain %s is missing", ch.Name)
		}
	}
	return lines
}

// shown quotes a name that nft(8) cannot read.
func shown(name string) string {
	if CheckName(name) != nil {
		return strconv.Quote(name)
	}
	return name
}

// matches reports whether the kernel's set is this one, by lengths and by the identifiers of
// types, by which nft(8) lists. A time-out of the set would be that of elements which have
// none.
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
			for d := (nlwire.Attrs{Data: a.Payload}); d.Next(); {
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

func (c Chain) matches(a nlwire.Attrs) bool {
	policy, _ := nlwire.FindBE32(a.Data, unix.NFTA_CHAIN_POLICY)
	return c.hookMatches(a) && (c.Hook == (Hook{}) || policy == nfAccept)
}

// hookMatches is matches but for the policy, which a chain that is hooked can change.
func (c Chain) hookMatches(a nlwire.Attrs) bool {
	hook := nlwire.Find(a.Data, unix.NFTA_CHAIN_HOOK)
	if c.Hook == (Hook{}) {
		return hook == nil
	}
	number, _ := nlwire.FindBE32(hook, unix.NFTA_HOOK_HOOKNUM)
	priority, _ := nlwire.FindBE32(hook, unix.NFTA_HOOK_PRIORITY)
	return nlwire.FindString(a.Data, unix.NFTA_CHAIN_TYPE) == c.Hook.Type && number == hookNumbers[c.Hook.Point] && int32(priority) == c.Hook.Priority
}

func (c *Conn) driftOfRules(t Table) ([]Difference, error) {
	have := make([][]bool, len(t.Chains)) // by chain, in order: whether the rule is the wanted one
	var want []byte
	err := c.dump(unix.NFT_MSG_GETRULE, "list rules of table inet "+t.Name, func(a nlwire.Attrs) (err error) {
		name := nlwire.Find(a.Data, unix.NFTA_RULE_CHAIN)
		i := slices.IndexFunc(t.Chains, func(ch Chain) bool { return isString(name, ch.Name) })
		if i < 0 {
			return nil // the chain is one difference
		}
		rules, same := t.Chains[i].Rules, false
		if n := len(have[i]); n < len(rules) {
			if want, err = appendRule(want[:0], rules[n]); err != nil {
				return err
			}
			same = sameExpressions(want, nlwire.Find(a.Data, unix.NFTA_RULE_EXPRESSIONS))
		}
		have[i] = append(have[i], same)
		return nil
	}, t.Name)
	if err != nil {
		return nil, err
	}
	var lines []Difference
	for k, ch := range t.Chains {
		for i, r := range ch.Rules {
			if i >= len(have[k]) || !have[k][i] {
				lines = append(lines, Difference{Text: fmt.Sprintf("chain %s: rule %d is not: %s", ch.Name, i+1, r)})
			}
		}
		for i := len(ch.Rules); i < len(have[k]); i++ {
			lines = append(lines, Difference{Text: fmt.Sprintf("chain %s: rule %d should not be there", ch.Name, i+1)})
		}
	}
	return lines, nil
}

// isString reports whether an attribute is a text, which ends with NUL.
func isString(attr []byte, text string) bool {
	return len(attr) == len(text)+1 && attr[len(text)] == 0 && string(attr[:len(text)]) == text
}

// sameExpressions reports whether the kernel has the wanted expressions in their order.
func sameExpressions(want, have []byte) bool {
	w, h := nlwire.Attrs{Data: want}, nlwire.Attrs{Data: have}
	afterPresence := false // the expression before is a fib that asks for presence
	for w.Next() {
		if !nextMeaningful(&h) {
			return false
		}
		known := nlwire.Find(w.Payload, unix.NFTA_EXPR_NAME)
		if !bytes.Equal(known, nlwire.Find(h.Payload, unix.NFTA_EXPR_NAME)) {
			return false
		}
		name := nameOf(known)
		asked, listed := nlwire.Find(w.Payload, unix.NFTA_EXPR_DATA), nlwire.Find(h.Payload, unix.NFTA_EXPR_DATA)
		if !sameExpression(name, asked, listed) && (!afterPresence || !sameAbsence(name, asked, listed)) {
			return false
		}
		afterPresence = asksPresence(name, asked)
	}
	return !nextMeaningful(&h)
}

// nameOf is the name of an expression that rules here have.
func nameOf(attr []byte) string {
	for _, name := range [...]string{"meta", "cmp", "payload", "lookup", "immediate", "nat", "masq", "redir", "fib", "ct", "bitwise"} {
		if isString(attr, name) {
			return name
		}
	}
	return ""
}

// nextMeaningful is Next without what nft(8) 1.0.6 puts behind fields of one byte in keys of
// intervals: it changes the order of bytes, of which there is one.
func nextMeaningful(a *nlwire.Attrs) bool {
	for a.Next() {
		if !isString(nlwire.Find(a.Payload, unix.NFTA_EXPR_NAME), "byteorder") {
			return true
		}
		if n, ok := nlwire.FindBE32(nlwire.Find(a.Payload, unix.NFTA_EXPR_DATA), unix.NFTA_BYTEORDER_LEN); !ok || n != 1 {
			return true
		}
	}
	return false
}

// sameExpression compares the attributes of one expression. The kernel also lists attributes
// that were not sent, newer kernels more of them: those must have their defaults.
func sameExpression(name string, want, have []byte) bool {
	for sent := (nlwire.Attrs{Data: want}); sent.Next(); {
		if !sameAttribute(carriesData(name, sent.Type), sent.Payload, nlwire.Find(have, sent.Type)) {
			return false
		}
	}
	for listed := (nlwire.Attrs{Data: have}); listed.Next(); {
		if nlwire.Find(want, listed.Type) == nil && !isDefault(name, listed, have) {
			return false
		}
	}
	return true
}

// isDefault reports whether an attribute that was not sent means the same as without it.
func isDefault(expression string, a nlwire.Attrs, all []byte) bool {
	switch expression {
	case "bitwise":
		return a.Type != nftaBitwiseOp || a.BE32() == 0 // NFT_BITWISE_MASK_XOR
	case "lookup":
		return a.Type != unix.NFTA_LOOKUP_FLAGS || a.BE32() == 0 // not NFT_LOOKUP_F_INV
	case "masq":
		switch a.Type {
		case unix.NFTA_MASQ_FLAGS, unix.NFTA_MASQ_REG_PROTO_MIN:
			return false
		case unix.NFTA_MASQ_REG_PROTO_MAX:
			return bytes.Equal(a.Payload, nlwire.Find(all, unix.NFTA_MASQ_REG_PROTO_MIN))
		}
	case "redir":
		return a.Type == unix.NFTA_REDIR_REG_PROTO_MAX && bytes.Equal(a.Payload, nlwire.Find(all, unix.NFTA_REDIR_REG_PROTO_MIN))
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
	nftaBitwiseOp       = 6
	natMapIPs           = 1
	natProtoSpecified   = 2
	natProtoRandomFully = 16
)

// carriesData reports whether an attribute of an expression wraps data (enum
// nft_data_attributes).
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

// sameAttribute compares payloads, or the data in them, which the kernel lists without the
// flag NLA_F_NESTED that was sent.
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
		nlwire.FindString(verdict, unix.NFTA_VERDICT_CHAIN) == nlwire.FindString(have, unix.NFTA_VERDICT_CHAIN)
}

// "fib ... missing" is loaded in two ways: nft(8) 1.1.3 and earlier compare the whole
// register with zero, and so do we; nft(8) 1.1.7 compares its first byte. The kernel
// zeroes the register before it stores 0 or 1 in that byte (nft_reg_store8), so both
// match the same packets.

// asksPresence reports whether the expression stores only whether there is a result.
func asksPresence(name string, data []byte) bool {
	flags, _ := nlwire.FindBE32(data, unix.NFTA_FIB_FLAGS)
	return name == "fib" && flags&unix.NFTA_FIB_F_PRESENT != 0
}

// sameAbsence reports whether both expressions compare the same register with zero, in
// the same way, over one byte or all four.
func sameAbsence(name string, want, have []byte) bool {
	if name != "cmp" {
		return false
	}
	for _, typ := range []uint16{unix.NFTA_CMP_SREG, unix.NFTA_CMP_OP} {
		if !bytes.Equal(nlwire.Find(want, typ), nlwire.Find(have, typ)) {
			return false
		}
	}
	return comparesWithZero(want) && comparesWithZero(have)
}

func comparesWithZero(cmp []byte) bool {
	value := nlwire.Find(nlwire.Find(cmp, unix.NFTA_CMP_DATA), unix.NFTA_DATA_VALUE)
	return (len(value) == 1 || len(value) == 4) && bytes.Count(value, []byte{0}) == len(value)
}
