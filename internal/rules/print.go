// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Printer prints rules as nft(8) lists them, and those that iptables made as `iptables -S` does. The
// zero value prints without counters, and numbers of interfaces.
type Printer struct {
	// Counters prints what counters have counted.
	Counters bool
	// Link returns the name of an interface; nil or "": its number is printed.
	Link func(index uint32) string
	// XT prints matches and targets of iptables, and so rules that iptables made in its syntax, as
	// "-A FORWARD -i eth0 -j DROP"; nil: only names of matches and targets are printed.
	XT XT
}

// String returns the rule as a zero Printer prints it.
func (r *Rule) String() string { return new(Printer).Rule(r) }

// String returns the table as nft(8) begins it: "table inet filter".
func (t *Table) String() string { return "table " + t.Family.String() + " " + t.Name }

// Rule returns a rule in one line, without its handle.
func (p *Printer) Rule(r *Rule) string {
	switch {
	case p.XT == nil:
	case r.Chain.Table.Legacy:
		return p.XT.Rule(r)
	case r.Chain.Table.IPTables():
		if text, ok := p.iptables(r); ok {
			return text
		}
	}
	s := newPrinting(p, r.Chain.Table)
	for _, e := range r.Exprs {
		s.expr(e)
	}
	var words []string
	for _, st := range s.statements {
		if !st.removed {
			words = append(words, st.text)
		}
	}
	if r.Comment != "" {
		words = append(words, `comment "`+r.Comment+`"`)
	}
	return strings.Join(words, " ")
}

// statement is a part of a rule's text.
type statement struct {
	text    string
	removed bool // what follows says it
}

// printing is what is known behind the expressions of a rule so far.
type printing struct {
	*Printer
	table      *Table
	registers  [20]*operand
	statements []statement
	headers    [inner + 1]*header
	stacked    []*header // of the link layer, below the present one
	icmp       uint8     // type of ICMP that is matched; zero: none
	deps       [inner + 1]*dependency
	lower      *bound // of a range, if it is the statement before
}

// bound is a comparison that may be the lower end of a range.
type bound struct {
	statement int
	left      string
	op        uint32
	value     string
}

func newPrinting(p *Printer, t *Table) *printing {
	s := &printing{Printer: p, table: t}
	switch t.Family {
	case unix.NFPROTO_IPV4:
		s.headers[network] = headerIP
	case unix.NFPROTO_IPV6:
		s.headers[network] = headerIP6
	case unix.NFPROTO_ARP:
		s.headers[network] = headerARP
	case unix.NFPROTO_INET:
		s.headers[link] = headerInet
	case unix.NFPROTO_BRIDGE:
		s.headers[link] = headerEther
	case unix.NFPROTO_NETDEV:
		s.headers[link] = headerNetdev
	}
	return s
}

// match adds a condition, say adds something that is done. nft(8) does not remove what is said before
// such a thing.
func (s *printing) match(text string) int {
	s.lower = nil
	s.statements = append(s.statements, statement{text: text})
	return len(s.statements) - 1
}

func (s *printing) say(text string) {
	s.match(text)
	s.deps = [inner + 1]*dependency{}
}

// unreadable adds an expression that this cannot print otherwise.
func (s *printing) unreadable(what string, args ...any) {
	s.say("[ " + fmt.Sprintf(what, args...) + " ]")
}

func (s *printing) expr(e Expr) {
	switch e := e.(type) {
	case Immediate:
		if e.Decision != nil {
			s.say(s.decision(e.Decision))
			return
		}
		s.load(e.Dreg, &operand{data: e.Data, kind: kindInteger, bits: 8 * len(e.Data), constant: true})
	case Meta:
		if e.Set {
			s.metaSet(e)
			return
		}
		s.load(e.Dreg, metaOperand(e.Key))
	case CT:
		if e.Set {
			s.ctSet(e)
			return
		}
		s.load(e.Dreg, ctOperand(e))
	case Payload:
		if e.Set {
			s.payloadSet(e)
			return
		}
		s.load(e.Dreg, payloadOperand(e.Base, 8*e.Offset, 8*e.Len))
	case Exthdr:
		s.exthdr(e)
	case Fib:
		s.load(e.Dreg, fibOperand(e))
	case Rt:
		s.load(e.Dreg, rtOperand(e.Key))
	case Socket:
		s.load(e.Dreg, socketOperand(e))
	case Numgen:
		s.load(e.Dreg, numgenOperand(e))
	case Hash:
		s.load(e.Dreg, s.hashOperand(e))
	case OSF:
		s.load(e.Dreg, osfOperand(e))
	case Xfrm:
		s.load(e.Dreg, xfrmOperand(e))
	case Tunnel:
		s.load(e.Dreg, &operand{text: "tunnel " + choose(e.Key == 0, "path", "id"), kind: kindInteger, bits: 32, host: true})
	case Bitwise:
		s.bitwise(e)
	case Byteorder:
		o := s.at(e.Sreg)
		if o == nil {
			s.unreadable("byteorder reg %d", e.Sreg)
			return
		}
		turned := *o
		turned.host = e.Op == unix.NFT_BYTEORDER_NTOH
		s.load(e.Dreg, &turned)
	case Cmp:
		s.cmp(e)
	case Range:
		s.inRange(e)
	case Lookup:
		s.lookup(e)
	case Inner:
		s.unreadable("inner type %d", e.Type)
	default:
		s.action(e)
	}
}

func choose[T any](condition bool, yes, no T) T {
	if condition {
		return yes
	}
	return no
}

func (s *printing) decision(d *Decision) string {
	switch d.Code {
	case unix.NFT_CONTINUE:
		return "continue"
	case unix.NFT_BREAK:
		return "break"
	case unix.NFT_JUMP:
		return "jump " + s.target(d.Chain)
	case unix.NFT_GOTO:
		return "goto " + s.target(d.Chain)
	case unix.NFT_RETURN:
		return "return"
	}
	const codeMask = 0xff
	names := [...]string{"drop", "accept", "stolen", "queue"}
	if d.Code < 0 || int(d.Code&codeMask) >= len(names) {
		return fmt.Sprintf("verdict %d", d.Code)
	}
	return names[d.Code&codeMask]
}

// target prints a chain that is gone to: its name, or the rules of one that has none.
func (s *printing) target(name string) string {
	c := s.table.Chain(name)
	if c == nil || c.Flags&chainBinding == 0 || s.table.reader == nil {
		return name
	}
	const maxPrinted = 8
	rules, err := s.table.reader.Rules(c)
	if err != nil {
		return name
	}
	var text strings.Builder
	for i, r := range rules {
		if i == maxPrinted {
			text.WriteString(" ...")
			break
		}
		text.WriteString(" " + s.Rule(r) + ";")
	}
	return "{" + text.String() + " }"
}

func (s *printing) load(r Register, o *operand) {
	if int(r) > 0 && int(r) < len(s.registers) {
		s.registers[r] = o
	}
}

func (s *printing) at(r Register) *operand {
	if int(r) < 0 || int(r) >= len(s.registers) {
		return nil
	}
	return s.registers[r]
}

// littleEndian reports whether the host keeps the least significant byte first.
func littleEndian() bool { return binary.NativeEndian.Uint16([]byte{1, 0}) == 1 }

// significant returns the bytes of a register with the most significant first.
func significant(b []byte, k *kind, host bool) []byte {
	if host && littleEndian() && k != kindIfname && k != kindString {
		return reversed(b)
	}
	return b
}

// slots returns how many registers of 4 bytes so many bits take.
func slots(bits int) int { return (bits + 31) / 32 }

// key returns what registers from one on hold, together so many bytes.
func (s *printing) key(r Register, length int) (parts []*operand) {
	for n := 0; n < length; {
		o := s.at(r)
		if o == nil || slots(o.bits) == 0 {
			return nil
		}
		parts = append(parts, o)
		n += 4 * slots(o.bits)
		r += Register(slots(o.bits))
	}
	return parts
}

// used returns a copy of what a register holds, with its text: of a field, by the protocols that are
// matched so far.
func (s *printing) used(o *operand) *operand {
	c := *o
	if c.isPayload {
		s.complete(&c)
		s.kill(&c)
	}
	if c.option != nil {
		s.killBelow(c.option)
	}
	if c.ct {
		s.completeCT(&c)
	}
	if c.set != nil {
		c.text = s.lookedUp(c.from, c.set, " map ", false)
	}
	return &c
}

// text returns an operand with the operations on it.
func (s *printing) text(o *operand) string {
	if o.constant {
		return s.value(o.data, o.kind, o.host)
	}
	text, precedence := o.text, 0
	for _, op := range o.ops {
		if op.precedence < precedence {
			text = "(" + text + ")"
		}
		right := op.text
		if right == "" {
			k := o.kind
			data := significant(op.data, k, o.host)
			right = k.format(s, data, false)
			if k.bitmask && !one(data) {
				right = strings.Join(k.bitNames(s, data), " | ")
				if op.precedence < precedenceOr {
					right = "(" + right + ")"
				}
			}
		}
		text, precedence = text+" "+op.symbol+" "+right, op.precedence
	}
	return text
}

// value prints a constant.
func (s *printing) value(data []byte, k *kind, host bool) string {
	return s.bits(significant(data, k, host), k)
}

// bits prints a value, of which bits of a bitmask are all named.
func (s *printing) bits(data []byte, k *kind) string {
	if k.bitmask && !one(data) {
		return strings.Join(k.bitNames(s, data), " | ")
	}
	return k.format(s, data, false)
}

func (s *printing) concat(parts []*operand) string {
	texts := make([]string, len(parts))
	for i, o := range parts {
		texts[i] = s.text(o)
	}
	return strings.Join(texts, " . ")
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
