// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/migrate/internal/packets"
)

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
	if len(elements) > maxBoxes {
		return nil, false
	}
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
