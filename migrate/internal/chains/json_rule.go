// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"bytes"
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

// jsonRule reads the expressions of a rule.
type jsonRule struct {
	*jsonParser
	table   *Table
	out     []*Rule
	tooMany error
}

func (p *jsonParser) rule(o jsonRuleObject) error {
	t := p.tables[o.Family+" "+o.Table]
	if t == nil {
		return nil // of another family, or skipped
	}
	c := t.Chain(o.Chain)
	if c == nil {
		return fmt.Errorf("there is no chain %q", excerpt(o.Chain))
	}
	r := &jsonRule{jsonParser: p, table: t}
	condition := newCondition(t.classes())
	var text []string
	ended := false
	d := json.NewDecoder(bytes.NewReader(o.Expr))
	if begin, err := d.Token(); err == nil && begin != nil && begin != json.Delim('[') {
		return errors.New(`"expr" is no array`)
	}
	for d.More() {
		if len(text) == maxExprs {
			return fmt.Errorf("the rule has more than %d expressions", maxExprs)
		}
		name, raw, err := jsonPair(d)
		if err != nil {
			return err
		}
		text = append(text, jsonStatement(name, raw))
		ended = ended || r.expr(condition, name, raw)
	}
	for _, one := range r.out {
		one.Chain, one.Handle, one.Text, one.Siblings = c, o.Handle, strings.Join(text, " "), len(r.out)
	}
	c.Rules = append(c.Rules, r.out...)
	return r.tooMany
}

func (r *jsonRule) emit(c *condition, a Action, target string, to Target) {
	one := &Rule{Match: c.boxes, If: c.ifs, Action: a, Target: target, To: to}
	if r.tooMany == nil {
		r.tooMany = r.rs.count(one)
	}
	if r.tooMany == nil {
		r.out = append(r.out, one)
	}
}

// expr reads an expression; true: the rule ends.
func (r *jsonRule) expr(c *condition, name string, raw json.RawMessage) (ends bool) {
	var to struct{ Target string }
	switch name {
	case "counter", "log", "last", "notrack", "comment":
	case "mangle":
		var m struct{ Key json.RawMessage }
		fields, ok := []string(nil), json.Unmarshal(raw, &m) == nil
		if ok {
			fields, ok = jsonFields(m.Key)
		}
		switch {
		case !ok || len(fields) != 1 || !strings.HasPrefix(fields[0], "meta ") && !strings.HasPrefix(fields[0], "ct "):
			c.only("what changes packets")
			r.emit(c, Unknown, "", Target{})
			return true
		case fields[0] != "meta nftrace":
			r.emit(c, Mark, "", Target{})
		}
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
			if ok = slices.Contains([]string{"accept", "drop", "continue", "return", "jump", "goto"}, name); ok {
				r.expr(part, name, raw)
			}
		}
		if !ok {
			break
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
