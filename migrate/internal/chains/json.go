// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// jsonObject is an object of "nft --json list ruleset" (libnftables-json(5)).
type jsonObject struct {
	Chain *struct {
		Family, Table, Name, Type, Hook, Policy string
		Handle                                  uint64
		Prio                                    int32
	}
	Map, Set *struct {
		Family, Table, Name string
		Elem                []json.RawMessage
	}
	Rule *struct {
		Family, Table, Chain string
		Handle               uint64
		Expr                 []map[string]json.RawMessage
	}
}

// ParseJSON reads what "nft --json list ruleset" prints. The inet table of the name skip is left
// out.
func ParseJSON(data []byte, skip string) (*Ruleset, error) {
	var list struct{ Nftables []map[string]json.RawMessage }
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("it is not what nft --json list ruleset prints: %w", err)
	}
	if list.Nftables == nil {
		return nil, errors.New(`it is not what nft --json list ruleset prints: it has no "nftables"`)
	}
	p := jsonParser{rs: &Ruleset{}, tables: map[string]*Table{}, sets: map[string][]json.RawMessage{}}
	var objects []jsonObject
	for i, raw := range list.Nftables {
		if len(raw) != 1 {
			return nil, fmt.Errorf("object %d has not one key", i+1)
		}
		var o jsonObject
		text, err := json.Marshal(raw)
		if err == nil {
			err = json.Unmarshal(text, &o)
		}
		if err != nil {
			return nil, fmt.Errorf("object %d: %w", i+1, err)
		}
		objects = append(objects, o)
	}
	for _, o := range objects { // rules come before the sets that they name
		if c := o.Chain; c != nil && (c.Family != "inet" || c.Table != skip) {
			p.chain(c.Family, c.Table, c.Name, c.Type, c.Hook, c.Prio, c.Policy, c.Handle)
		}
		for _, s := range []*struct {
			Family, Table, Name string
			Elem                []json.RawMessage
		}{o.Map, o.Set} {
			if s != nil {
				p.sets[s.Family+" "+s.Table+" "+s.Name] = s.Elem
			}
		}
	}
	for i, o := range objects {
		r := o.Rule
		if r == nil {
			continue
		}
		t := p.tables[r.Family+" "+r.Table]
		if t == nil {
			continue // of another family, or skipped
		}
		c := t.Chain(r.Chain)
		if c == nil {
			return nil, fmt.Errorf("object %d: there is no chain %q", i+1, excerpt(r.Chain))
		}
		p.rule(t, c, r.Handle, r.Expr)
	}
	for _, t := range p.rs.Tables {
		if p.count += len(t.Chains); p.count > maxRules {
			return nil, ErrTooMany
		}
	}
	return p.rs, nil
}

type jsonParser struct {
	rs     *Ruleset
	tables map[string]*Table
	sets   map[string][]json.RawMessage
	count  int
}

func (p *jsonParser) chain(family, table, name, typ, hook string, prio int32, policy string, handle uint64) {
	numbers := map[string]uint8{"ip": unix.NFPROTO_IPV4, "ip6": unix.NFPROTO_IPV6, "inet": unix.NFPROTO_INET}
	number, ok := numbers[family]
	if !ok {
		return
	}
	t := p.tables[family+" "+table]
	if t == nil {
		t = &Table{Name: family + " " + table, Family: number, Four: family != "ip6", Six: family != "ip", Maker: NFT, age: uint64(len(p.tables))}
		p.tables[family+" "+table] = t
		p.rs.Tables = append(p.rs.Tables, t)
	}
	if t.Chain(name) != nil {
		return
	}
	c := &Chain{Name: name, Priority: prio, Drops: policy == "drop", age: handle}
	if typ == "nat" {
		c.Hook = map[string]Hook{"prerouting": Prerouting, "output": Output, "postrouting": Postrouting}[hook]
	}
	t.add(c)
}

// jsonRule reads the expressions of a rule.
type jsonRule struct {
	*jsonParser
	table *Table
	out   []*Rule
}

func (p *jsonParser) rule(t *Table, c *Chain, handle uint64, exprs []map[string]json.RawMessage) {
	var text []string
	for _, e := range exprs {
		for name, raw := range e {
			text = append(text, jsonStatement(name, raw))
		}
	}
	r := &jsonRule{jsonParser: p, table: t}
	r.exprs(newCondition(t.classes()), exprs)
	for _, o := range r.out {
		o.Chain, o.Handle, o.Text, o.Siblings = c, handle, strings.Join(text, " "), len(r.out)
	}
	c.Rules = append(c.Rules, r.out...)
}

func (r *jsonRule) emit(c *condition, a Action, target string, to Target) {
	if len(r.out) < maxBoxes {
		r.out = append(r.out, &Rule{Match: c.boxes, If: c.ifs, Action: a, Target: target, To: to})
	}
}

// exprs reads expressions.
func (r *jsonRule) exprs(c *condition, list []map[string]json.RawMessage) {
	for _, e := range list {
		for name, raw := range e { // there is one
			if r.expr(c, name, raw) {
				return
			}
		}
	}
}

// expr reads an expression; true: the rule ends.
func (r *jsonRule) expr(c *condition, name string, raw json.RawMessage) (ends bool) {
	var to struct{ Target string }
	switch name {
	case "counter", "log", "last", "notrack", "comment":
	case "mangle": // it sets a mark
	case "accept":
		r.emit(c, Accept, "", Target{})
	case "drop":
		r.emit(c, Drop, "", Target{})
	case "return":
		r.emit(c, Return, "", Target{})
	case "continue":
	case "jump", "goto":
		action := Jump
		if name == "goto" {
			action = Goto
		}
		if json.Unmarshal(raw, &to) != nil {
			action = Unknown
		}
		r.emit(c, action, to.Target, Target{})
	case "match":
		r.match(c, raw)
		return false
	case "vmap":
		r.vmap(c, raw)
	case "dnat":
		r.dnat(c, raw)
	case "redirect":
		r.emit(c, Redirect, "", Target{})
	case "snat", "masquerade":
		r.emit(c, Hide, "", Target{})
	case "limit", "quota", "ct count", "set", "meter":
		c.only("a " + name)
		return false
	case "xt":
		c.only("a match or target of iptables, which nft --json does not print")
		r.emit(c, Unknown, "", Target{})
	default:
		c.only(name)
		r.emit(c, Unknown, "", Target{})
	}
	switch name {
	case "counter", "log", "last", "notrack", "comment", "mangle", "continue":
		return false
	}
	return true
}

func (r *jsonRule) match(c *condition, raw json.RawMessage) {
	var m struct {
		Op          string
		Left, Right json.RawMessage
	}
	if json.Unmarshal(raw, &m) != nil {
		c.only("a match")
		return
	}
	fields, ok := jsonFields(m.Left)
	if !ok || !slices.Contains([]string{"==", "!=", "in", "<", ">", "<=", ">="}, m.Op) {
		c.only(jsonText(m.Left))
		return
	}
	if len(fields) == 1 && fields[0] == "ct state" {
		var states []string
		var one string
		if json.Unmarshal(m.Right, &one) == nil {
			states = []string{one}
		} else if json.Unmarshal(m.Right, &states) != nil {
			c.only("the connection's state")
			return
		}
		c.state(m.Op == "!=", slices.Contains(states, "new"))
		return
	}
	if name, ok := jsonScalar(m.Right); ok && len(fields) == 1 && strings.HasPrefix(fields[0], "meta oif") {
		c.only(negated(m.Op == "!=", outgoing(name)))
		return
	}
	boxes, ok := r.values(fields, m.Right, m.Op)
	if !ok {
		c.only(negated(m.Op == "!=", jsonText(m.Left)))
		return
	}
	c.keep(m.Op == "!=", boxes...)
	if len(boxes) == 0 && m.Op != "!=" {
		c.never()
	}
}

// jsonText is an expression as nft(8) prints it, about.
func jsonText(raw json.RawMessage) string {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		return jsonTexts(list, ", ")
	}
	var of map[string]json.RawMessage
	if json.Unmarshal(raw, &of) != nil || len(of) == 0 {
		text, _ := jsonScalar(raw)
		return excerpt(text)
	}
	if fields, ok := jsonFields(raw); ok {
		return strings.Join(fields, " . ")
	}
	for name, raw := range of {
		var list []json.RawMessage
		var m struct {
			Key, Data json.RawMessage
			Addr      string
			Len       int
			Val       json.RawMessage
			Target    string
		}
		isList := json.Unmarshal(raw, &list) == nil
		_ = json.Unmarshal(raw, &m) // what it is not is empty
		switch {
		case name == "set" && isList:
			return "{ " + jsonTexts(list, ", ") + " }"
		case name == "range" && isList:
			return jsonTexts(list, "-")
		case name == "concat" && isList:
			return jsonTexts(list, " . ")
		case name == "prefix":
			return m.Addr + "/" + strconv.Itoa(m.Len)
		case name == "map":
			return jsonText(m.Key) + " map " + jsonText(m.Data)
		case name == "elem":
			return jsonText(m.Val)
		case m.Target != "":
			return name + " " + m.Target
		case isList || string(raw) == "null":
			return name
		}
		return name + " " + excerpt(string(raw))
	}
	return ""
}

func jsonTexts(list []json.RawMessage, between string) string {
	const most = 16
	texts := make([]string, 0, most)
	for _, e := range list[:min(len(list), most)] {
		texts = append(texts, jsonText(e))
	}
	if len(list) > most {
		texts = append(texts, "...")
	}
	return strings.Join(texts, between)
}

// jsonStatement is a part of a rule as nft(8) prints it, about.
func jsonStatement(name string, raw json.RawMessage) string {
	var m struct {
		Op, Family, Target           string
		Left, Right, Key, Data, Addr json.RawMessage
		Port                         json.RawMessage
	}
	_ = json.Unmarshal(raw, &m) // what it is not is empty
	switch {
	case name == "match" && (m.Op == "==" || m.Op == "in"):
		return jsonText(m.Left) + " " + jsonText(m.Right)
	case name == "match":
		return jsonText(m.Left) + " " + m.Op + " " + jsonText(m.Right)
	case name == "vmap":
		return jsonText(m.Key) + " vmap " + jsonText(m.Data)
	case name == "counter":
		return name
	case m.Target != "":
		return name + " " + m.Target
	case m.Addr != nil || m.Port != nil:
		text := name
		if m.Family != "" {
			text += " " + m.Family
		}
		text += " to"
		if m.Addr != nil {
			text += " " + jsonText(m.Addr)
		}
		if m.Port != nil {
			text += " port " + jsonText(m.Port)
		}
		return text
	}
	return name
}

// jsonFields returns the fields of a key, such as "tcp dport".
func jsonFields(raw json.RawMessage) (fields []string, ok bool) {
	var e struct {
		Payload *struct{ Protocol, Field string }
		Meta    *struct{ Key string }
		CT      *struct{ Key, Dir string }
		Fib     *struct {
			Result string
			Flags  json.RawMessage
		}
		Concat []json.RawMessage
	}
	if json.Unmarshal(raw, &e) != nil {
		return nil, false
	}
	switch {
	case e.Payload != nil:
		return []string{e.Payload.Protocol + " " + e.Payload.Field}, e.Payload.Field != ""
	case e.Meta != nil:
		return []string{"meta " + e.Meta.Key}, true
	case e.CT != nil && e.CT.Dir == "":
		return []string{"ct " + e.CT.Key}, true
	case e.Fib != nil && e.Fib.Result == "type" && strings.Trim(string(e.Fib.Flags), `[]" `) == "daddr":
		return []string{"fib"}, true
	case len(e.Concat) != 0:
		for _, part := range e.Concat {
			f, ok := jsonFields(part)
			if !ok || len(f) != 1 {
				return nil, false
			}
			fields = append(fields, f...)
		}
		return fields, true
	}
	return nil, false
}

// values returns the packets that have one of the values of a right side.
func (r *jsonRule) values(fields []string, raw json.RawMessage, op string) (boxes []packets.Box, ok bool) {
	var name string
	if json.Unmarshal(raw, &name) == nil && strings.HasPrefix(name, "@") {
		elements, found := r.sets[r.table.Name+" "+name[1:]]
		if !found {
			return nil, false
		}
		return r.list(fields, elements)
	}
	var set struct{ Set []json.RawMessage }
	if json.Unmarshal(raw, &set) == nil && set.Set != nil {
		return r.list(fields, set.Set)
	}
	if op != "==" && op != "!=" && op != "in" {
		return jsonCompared(fields, raw, op)
	}
	return jsonBoxes(fields, raw)
}

func (r *jsonRule) list(fields []string, elements []json.RawMessage) (boxes []packets.Box, ok bool) {
	for _, e := range elements {
		some, ok := jsonBoxes(fields, e)
		if !ok {
			return nil, false
		}
		boxes = append(boxes, some...)
	}
	return boxes, true
}

// jsonCompared is a comparison of ports with a bound.
func jsonCompared(fields []string, raw json.RawMessage, op string) ([]packets.Box, bool) {
	var n uint16
	if len(fields) != 1 || !strings.HasSuffix(fields[0], " dport") || json.Unmarshal(raw, &n) != nil {
		return nil, false
	}
	switch {
	case op == "<=":
		return jsonPorts(fields[0], 0, n)
	case op == ">=":
		return jsonPorts(fields[0], n, 1<<16-1)
	case op == "<" && n > 0:
		return jsonPorts(fields[0], 0, n-1)
	case op == ">" && n < 1<<16-1:
		return jsonPorts(fields[0], n+1, 1<<16-1)
	}
	return nil, false
}

// jsonBoxes returns the packets that have a value in fields.
func jsonBoxes(fields []string, raw json.RawMessage) (boxes []packets.Box, ok bool) {
	var element struct{ Elem struct{ Val json.RawMessage } }
	if json.Unmarshal(raw, &element) == nil && element.Elem.Val != nil {
		raw = element.Elem.Val
	}
	parts := []json.RawMessage{raw}
	var concat struct{ Concat []json.RawMessage }
	if json.Unmarshal(raw, &concat) == nil && concat.Concat != nil {
		parts = concat.Concat
	}
	if len(parts) != len(fields) {
		return nil, false
	}
	boxes = []packets.Box{packets.Whole()}
	for i, f := range fields {
		some, ok := jsonField(f, parts[i])
		if !ok {
			return nil, false
		}
		var both []packets.Box
		for _, a := range boxes {
			for _, b := range some {
				if p, ok := a.Intersect(b); ok {
					both = append(both, p)
				}
			}
		}
		boxes = both
	}
	return boxes, true
}

// jsonPorts returns the packets to ports of the protocol of a field.
func jsonPorts(field string, first, last uint16) ([]packets.Box, bool) {
	b := packets.Ports(first, last)
	switch {
	case strings.HasPrefix(field, "tcp "):
		b.Classes = packets.TCP
	case strings.HasPrefix(field, "udp "):
		b.Classes = packets.UDP
	case !strings.HasPrefix(field, "th "):
		b.Classes = packets.Others
	}
	return []packets.Box{b}, first <= last
}

// jsonField returns the packets that have a value in one field.
func jsonField(field string, raw json.RawMessage) ([]packets.Box, bool) {
	low, high, prefix, ok := jsonRange(raw)
	if !ok {
		return nil, false
	}
	switch field {
	case "tcp dport", "udp dport", "th dport", "sctp dport", "dccp dport", "udplite dport":
		a, errA := strconv.ParseUint(low, 10, 16)
		b, errB := strconv.ParseUint(high, 10, 16)
		if errA != nil || errB != nil {
			return nil, false
		}
		return jsonPorts(field, uint16(a), uint16(b))
	case "ip daddr", "ip6 daddr", "ip saddr", "ip6 saddr":
		a, errA := netip.ParseAddr(low)
		b, errB := netip.ParseAddr(high)
		if errA != nil || errB != nil || a.Is6() != strings.HasPrefix(field, "ip6") || a.Is6() != b.Is6() || b.Less(a) || prefix > a.BitLen() {
			return nil, false
		}
		s := packets.Span{First: a, Last: b}
		if prefix >= 0 {
			s = packets.SpanOf(netip.PrefixFrom(a, prefix))
		}
		if strings.HasSuffix(field, "saddr") {
			return []packets.Box{packets.From(s)}, true
		}
		return []packets.Box{packets.To(s)}, true
	case "meta iifname", "meta iif":
		if low != high || strings.HasSuffix(low, "*") {
			return nil, false
		}
		return []packets.Box{packets.By(low)}, true
	case "meta l4proto", "ip protocol", "ip6 nexthdr":
		c := packets.Others
		switch low {
		case "tcp", "6":
			c = packets.TCP
		case "udp", "17":
			c = packets.UDP
		}
		return []packets.Box{packets.Of(c)}, low == high
	case "meta nfproto", "meta protocol":
		families := map[string]packets.Classes{"ipv4": packets.IPv4, "ip": packets.IPv4, "ipv6": packets.IPv6, "ip6": packets.IPv6, "2": packets.IPv4, "10": packets.IPv6}
		c, known := families[low]
		return []packets.Box{packets.Of(c)}, known && low == high
	case "fib":
		if low == "local" {
			return []packets.Box{packets.Whole()}, true
		}
		return nil, low == high
	}
	return nil, false
}

// jsonRange returns the first and last value, or an address with the length of a prefix; else it is negative.
func jsonRange(raw json.RawMessage) (low, high string, prefix int, ok bool) {
	var v struct {
		Range  []json.RawMessage
		Prefix *struct {
			Addr string
			Len  int
		}
	}
	if json.Unmarshal(raw, &v) == nil {
		switch {
		case len(v.Range) == 2:
			low, okLow := jsonScalar(v.Range[0])
			high, okHigh := jsonScalar(v.Range[1])
			return low, high, -1, okLow && okHigh
		case v.Prefix != nil:
			return v.Prefix.Addr, v.Prefix.Addr, v.Prefix.Len, v.Prefix.Len >= 0
		}
	}
	low, ok = jsonScalar(raw)
	return low, low, -1, ok
}

// jsonScalar is a number or a text.
func jsonScalar(raw json.RawMessage) (string, bool) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, text != ""
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String(), true
	}
	return "", false
}

// pairs returns the elements of a map: a name, or the elements themselves.
func (r *jsonRule) pairs(raw json.RawMessage) (pairs [][2]json.RawMessage, ok bool) {
	elements, found := []json.RawMessage(nil), false
	var name string
	var set struct{ Set []json.RawMessage }
	if json.Unmarshal(raw, &name) == nil && strings.HasPrefix(name, "@") {
		elements, found = r.sets[r.table.Name+" "+name[1:]]
	} else if json.Unmarshal(raw, &set) == nil {
		elements, found = set.Set, set.Set != nil
	}
	for _, e := range elements {
		var pair []json.RawMessage
		if json.Unmarshal(e, &pair) != nil || len(pair) != 2 {
			return nil, false
		}
		pairs = append(pairs, [2]json.RawMessage{pair[0], pair[1]})
	}
	return pairs, found && len(pairs) <= maxElements
}

func (r *jsonRule) vmap(c *condition, raw json.RawMessage) {
	var m struct{ Key, Data json.RawMessage }
	var pairs [][2]json.RawMessage
	fields, ok := []string(nil), json.Unmarshal(raw, &m) == nil
	if ok {
		if fields, ok = jsonFields(m.Key); ok {
			pairs, ok = r.pairs(m.Data)
		}
	}
	for _, p := range pairs {
		boxes, read := jsonBoxes(fields, p[0])
		var verdict map[string]json.RawMessage
		if !read || json.Unmarshal(p[1], &verdict) != nil || len(verdict) != 1 {
			ok = false
			break
		}
		part := c.clone()
		part.keep(false, boxes...)
		for name, raw := range verdict {
			r.expr(part, name, raw)
		}
	}
	if !ok {
		c.only("a map of verdicts")
		r.emit(c, Unknown, "", Target{})
	}
}

// dnat reads where a rule sends packets: constants, or maps of addresses, or of addresses and ports.
func (r *jsonRule) dnat(c *condition, raw json.RawMessage) {
	var d struct {
		Addr, Port json.RawMessage
		Family     string
		Flags      json.RawMessage
	}
	fault := func(text string) { r.emit(c, Translate, "", Target{Fault: text}) }
	if json.Unmarshal(raw, &d) != nil {
		fault("it is not understood")
		return
	}
	switch d.Family {
	case "ip":
		c.keep(false, packets.Of(packets.IPv4))
	case "ip6":
		c.keep(false, packets.Of(packets.IPv6))
	}
	var m struct {
		Map *struct{ Key, Data json.RawMessage }
	}
	if d.Addr != nil && json.Unmarshal(d.Addr, &m) == nil && m.Map != nil {
		fields, ok := jsonFields(m.Map.Key)
		pairs, okPairs := r.pairs(m.Map.Data)
		if !ok || !okPairs {
			fault("its map is not understood")
			return
		}
		for _, p := range pairs {
			boxes, ok := jsonBoxes(fields, p[0])
			if !ok {
				fault("its map is not understood")
				return
			}
			part := c.clone()
			part.keep(false, boxes...)
			addr, port := p[1], d.Port
			var concat struct{ Concat []json.RawMessage }
			if json.Unmarshal(p[1], &concat) == nil && len(concat.Concat) == 2 {
				addr, port = concat.Concat[0], concat.Concat[1]
			}
			r.emit(part, Translate, "", jsonTarget(addr, port, d.Flags))
		}
		return
	}
	r.emit(c, Translate, "", jsonTarget(d.Addr, d.Port, d.Flags))
}

func jsonTarget(addr, port, flags json.RawMessage) (to Target) {
	if addr != nil {
		low, high, prefix, ok := jsonRange(addr)
		a, err := netip.ParseAddr(low)
		if to.Addr = a; !ok || err != nil || low != high || prefix >= 0 {
			to.Fault = "it goes to any of several addresses"
		}
	}
	if port != nil {
		low, high, _, ok := jsonRange(port)
		a, errA := strconv.ParseUint(low, 10, 16)
		b, errB := strconv.ParseUint(high, 10, 16)
		if to.First, to.Last = uint16(a), uint16(b); !ok || errA != nil || errB != nil || a == 0 {
			to.Fault = "its port is not in the rule"
		}
	}
	kernel := uint32(0)
	if strings.Contains(string(flags), "random") {
		kernel = unix.NF_NAT_RANGE_PROTO_RANDOM
	}
	if strings.Contains(string(flags), "netmap") {
		kernel = unix.NF_NAT_RANGE_NETMAP
	}
	to.flags(kernel)
	return to
}
