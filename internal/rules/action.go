// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// argument prints what a register holds as a value of a kind.
func (s *printing) argument(r Register, k *kind, host bool) string {
	o := s.at(r)
	if o == nil {
		return fmt.Sprintf("[ reg %d ]", r)
	}
	if o.constant {
		c := *o
		c.kind, c.host = k, host
		return s.text(&c)
	}
	return s.text(s.used(o))
}

func (s *printing) metaSet(e Meta) {
	target := metaOperand(e.Key)
	s.say("meta " + strings.TrimPrefix(target.text, "meta ") + " set " + s.argument(e.Sreg, target.kind, target.host))
}

func (s *printing) ctSet(e CT) {
	target := ctOperand(e)
	if o := s.at(e.Sreg); e.Key == unix.NFT_CT_EVENTMASK && o != nil && o.constant && !isZero(o.data) {
		s.say(target.text + " set " + strings.Join(target.kind.bitNames(s, significant(o.data, target.kind, true)), ","))
		return
	}
	s.say(target.text + " set " + s.argument(e.Sreg, target.kind, target.host))
}

// payloadSet prints a change of the packet. Bits are changed with the bytes that they are in.
func (s *printing) payloadSet(e Payload) {
	target := payloadOperand(e.Base, 8*e.Offset, 8*e.Len)
	o := s.at(e.Sreg)
	if o != nil && o.isPayload && o.raw != nil && o.base == target.base && o.off == target.off && o.bits == target.bits {
		keep := make([]byte, len(o.raw.Mask))
		for i, c := range o.raw.Mask {
			keep[i] = ^c
		}
		if off, bits, ok := s.trim(target, keep); ok {
			part := payloadOperand(e.Base, off, bits)
			if s.complete(part); part.header != nil {
				s.kill(part)
				s.say(part.text + " set " + part.kind.format(s, extract(o.raw.Xor, off-target.off, bits), false))
				return
			}
		}
	}
	target = s.used(target)
	s.say(target.text + " set " + s.argument(e.Sreg, target.kind, false))
}

// action prints an expression that does something.
func (s *printing) action(e Expr) {
	switch e := e.(type) {
	case Nat:
		s.nat(e)
	case Redir:
		s.say("redirect" + s.ports(" to", e.PortMin, e.PortMax) + natFlags(e.Flags))
	case Masq:
		s.say("masquerade" + s.ports(" to", e.PortMin, e.PortMax) + natFlags(e.Flags))
	case Reject:
		s.reject(e)
	case Notrack:
		s.say("notrack")
	case Queue:
		s.queue(e)
	case Dup:
		s.say("dup to " + s.dup(e))
	case Fwd:
		if e.Addr == 0 {
			s.say("fwd to " + s.argument(e.Dev, kindIfindex, true))
			return
		}
		k := addrKind(e.Family)
		s.say("fwd " + Family(e.Family).String() + " to " + s.argument(e.Addr, k, false) + " device " + s.argument(e.Dev, kindIfindex, true))
	case Tproxy:
		text := "tproxy"
		if s.table.Family == unix.NFPROTO_INET && e.Family != 0 {
			text += " " + Family(e.Family).String()
		}
		if text += " to"; e.Addr != 0 {
			text += " " + s.bracketed(e.Addr, addrKind(e.Family))
		}
		if e.Port != 0 {
			text += choose(e.Addr == 0, " :", ":") + s.argument(e.Port, kindPort, false)
		}
		s.say(text)
	case Flow:
		s.say("flow add @" + e.Table)
	case Dynset:
		s.dynset(e)
	case Objref:
		s.objref(e)
	case Match:
		text := "xt match " + e.Name
		if s.XT != nil {
			text = s.XT.Match(s.table.Family, e)
		}
		s.say(text)
	case Target:
		text := "xt target " + e.Name
		if s.XT != nil {
			text = s.XT.Target(s.table.Family, e)
		}
		s.say(text)
	case Unknown:
		s.unreadable("%s 0x%s", choose(e.Name == "", "expression", e.Name), hexOf(e.Data))
	default:
		if text, ok := s.stateful(e, s.Counters); ok {
			s.say(text)
			return
		}
		s.unreadable("%T", e)
	}
}

// stateful prints an expression that counts.
func (s *printing) stateful(e Expr, counters bool) (string, bool) {
	switch e := e.(type) {
	case Counter:
		if counters {
			return fmt.Sprintf("counter packets %d bytes %d", e.Packets, e.Bytes), true
		}
		return "counter", true
	case Limit:
		return limitText(e), true
	case Quota:
		text := "quota " + choose(e.Over, "over ", "") + size(e.Bytes)
		if counters && e.Used != 0 {
			text += " used " + size(e.Used)
		}
		return text, true
	case ConnLimit:
		return fmt.Sprintf("ct count %s%d", choose(e.Over, "over ", ""), e.Count), true
	case Last:
		if !counters {
			return "last", true
		}
		return "last used " + choose(e.Seen, duration(e.Ago), "never"), true
	case Log:
		return logText(e), true
	case Synproxy:
		const mss, wscale, sack, timestamp = 1, 2, 4, 8
		text := "synproxy"
		if e.Flags&(mss|wscale) != 0 {
			text += fmt.Sprintf(" mss %d wscale %d", e.MSS, e.Wscale)
		}
		return text + choose(e.Flags&timestamp != 0, " timestamp", "") + choose(e.Flags&sack != 0, " sack-perm", ""), true
	}
	return "", false
}

// size prints a number of bytes.
func size(n uint64) string {
	units := [...]string{"bytes", "kbytes", "mbytes"}
	i := 0
	for ; i < len(units)-1 && n != 0 && n%1024 == 0; i++ {
		n /= 1024
	}
	return fmt.Sprint(n, " ", units[i])
}

func limitText(e Limit) string {
	units := map[uint64]string{1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week"}
	unit := units[e.Unit]
	if unit == "" {
		unit = fmt.Sprint(e.Unit, " seconds")
	}
	text := "limit rate " + choose(e.Over, "over ", "")
	if e.Type == unix.NFT_LIMIT_PKT_BYTES {
		text += size(e.Rate) + "/" + unit
		if e.Burst != 0 {
			text += " burst " + size(uint64(e.Burst))
		}
		return text
	}
	const defaultBurst = 5
	text += fmt.Sprint(e.Rate, "/", unit)
	if e.Burst != 0 && e.Burst != defaultBurst {
		text += fmt.Sprint(" burst ", e.Burst, " packets")
	}
	return text
}

func logText(e Log) string {
	text := "log"
	if e.Prefix != "" {
		text += ` prefix "` + e.Prefix + `"`
	}
	if e.Group >= 0 {
		text += fmt.Sprint(" group ", e.Group)
	}
	if e.Snaplen != 0 {
		text += fmt.Sprint(" snaplen ", e.Snaplen)
	}
	if e.QThreshold != 0 {
		text += fmt.Sprint(" queue-threshold ", e.QThreshold)
	}
	levels := [...]string{"emerg", "alert", "crit", "err", "warn", "notice", "info", "debug", "audit"}
	const warn = 4
	if e.Group < 0 && e.Level != warn {
		level := fmt.Sprint(e.Level)
		if int(e.Level) < len(levels) {
			level = levels[e.Level]
		}
		text += " level " + level
	}
	const tcpSeq, tcpOpt, ipOpt, uid, mac, all = 1, 2, 4, 8, 32, 47
	if e.Flags&all == all {
		return text + " flags all"
	}
	switch {
	case e.Flags&(tcpSeq|tcpOpt) == tcpSeq|tcpOpt:
		text += " flags tcp sequence,options"
	case e.Flags&tcpSeq != 0:
		text += " flags tcp sequence"
	case e.Flags&tcpOpt != 0:
		text += " flags tcp options"
	}
	return text + choose(e.Flags&ipOpt != 0, " flags ip options", "") + choose(e.Flags&uid != 0, " flags skuid", "") + choose(e.Flags&mac != 0, " flags ether", "")
}

func (s *printing) reject(e Reject) {
	text := "reject"
	switch s.table.Family {
	case unix.NFPROTO_IPV4, unix.NFPROTO_IPV6:
		if e.Type == unix.NFT_REJECT_TCP_RST {
			if at := choose(s.deps[transport] == nil, inner, transport); s.deps[at] != nil {
				s.remove(at)
			}
		}
	default:
		if e.Type != unix.NFT_REJECT_ICMPX_UNREACH && s.deps[network] != nil {
			s.remove(network)
		}
	}
	four := s.headers[network] == headerIP || s.headers[network] != headerIP6 && s.table.Family == unix.NFPROTO_IPV4
	verbose := s.table.Family != unix.NFPROTO_IPV4 && s.table.Family != unix.NFPROTO_IPV6
	code := []byte{e.Code}
	const port4, port6 = 3, 4
	switch {
	case e.Type == unix.NFT_REJECT_TCP_RST:
		text += " with tcp reset"
	case e.Type == unix.NFT_REJECT_ICMPX_UNREACH:
		if e.Code != unix.NFT_REJECT_ICMPX_PORT_UNREACH {
			text += " with icmpx " + kindICMPXCode.format(s, code, false)
		}
	case four && (verbose || e.Code != port4):
		text += " with icmp " + kindICMPCode.format(s, code, false)
	case !four && (verbose || e.Code != port6):
		text += " with icmpv6 " + kindICMPv6Code.format(s, code, false)
	}
	s.say(text)
}

func (s *printing) queue(e Queue) {
	const bypass, fanout = 1, 2
	var flags []string
	if e.Flags&bypass != 0 {
		flags = append(flags, "bypass")
	}
	if e.Flags&fanout != 0 {
		flags = append(flags, "fanout")
	}
	text := "queue"
	if len(flags) != 0 {
		text += " flags " + strings.Join(flags, ",")
	}
	switch {
	case e.Sreg != 0:
		text += " to " + s.argument(e.Sreg, kindInteger, true)
	case e.Total > 1:
		text += fmt.Sprintf(" to %d-%d", e.First, e.First+e.Total-1)
	default:
		text += fmt.Sprintf(" to %d", e.First)
	}
	s.say(text)
}

func (s *printing) dup(e Dup) string {
	if e.Addr == 0 {
		return s.argument(e.Dev, kindIfindex, true)
	}
	text := s.argument(e.Addr, addrKind(uint32(s.table.Family)), false)
	if e.Dev != 0 {
		text += " device " + s.argument(e.Dev, kindIfindex, true)
	}
	return text
}

func (s *printing) dynset(e Dynset) {
	set := s.table.Sets[e.Set]
	length := 0
	if set != nil {
		length = int(set.KeyLen)
	}
	parts := s.key(e.KeyReg, max(length, 1))
	if parts == nil {
		s.unreadable("dynset reg %d set %s", e.KeyReg, e.Set)
		return
	}
	for i, o := range parts {
		field, _ := s.trimmed(o)
		parts[i] = s.used(field)
	}
	names := [...]string{"add", "update", "delete"}
	op := fmt.Sprint("op", e.Op)
	if int(e.Op) < len(names) {
		op = names[e.Op]
	}
	words := []string{s.concat(parts)}
	if e.Timeout != 0 {
		words = append(words, "timeout "+duration(e.Timeout))
	}
	for _, x := range e.Exprs {
		text, ok := s.stateful(x, false)
		if !ok {
			text = fmt.Sprintf("[ %T ]", x)
		}
		words = append(words, text)
	}
	inside := strings.Join(words, " ")
	if e.DataReg != 0 && set != nil {
		kinds := kindsOf(set.DataType)
		data := s.key(e.DataReg, max(int(set.DataLen), 1))
		var texts []string
		for i, o := range data {
			k := kindInteger
			if i < len(kinds) {
				k = kinds[i]
			}
			if o.constant {
				c := *o
				c.kind, c.host = k, k.isHost()
				o = &c
			} else {
				o = s.used(o)
			}
			texts = append(texts, s.text(o))
		}
		inside += " : " + strings.Join(texts, " . ")
	}
	if set != nil && set.Anonymous() && len(e.Exprs) != 0 && e.DataReg == 0 {
		s.say(fmt.Sprintf("meter %s size %d { %s }", e.Set, set.Size, inside))
		return
	}
	s.say(op + " @" + e.Set + " { " + inside + " }")
}

func (s *printing) objref(e Objref) {
	typ, name := e.Type, `"`+e.Name+`"`
	if e.Map != "" {
		set := s.table.Sets[e.Map]
		if set == nil {
			s.unreadable("objref map %s", e.Map)
			return
		}
		typ = set.ObjType
		parts := s.key(e.Sreg, int(set.KeyLen))
		if parts == nil {
			s.unreadable("objref map %s", e.Map)
			return
		}
		name = s.lookedUp(parts, set, " map ", false)
	}
	names := [...]string{
		objCounter: "counter name", objQuota: "quota name", objCTHelper: "ct helper set", objLimit: "limit name", objConnLimit: "ct count name",
		objTunnel: "tunnel name", objCTTimeout: "ct timeout set", objSecmark: "meta secmark set", objCTExpect: "ct expectation set", objSynproxy: "synproxy name",
	}
	if typ == 0 || int(typ) >= len(names) {
		s.unreadable("objref type %d %s", typ, name)
		return
	}
	s.say(names[typ] + " " + name)
}
