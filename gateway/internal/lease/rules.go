// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"bufio"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// Rules say which ports clients may have. The first one that is about the client and both ports
// decides, and without any the answer is no.
type Rules []Rule

// Rule allows or denies some clients some ports, as a line of miniupnpd's configuration does.
type Rule struct {
	Allow    bool
	External Ports
	Clients  netip.Prefix
	Internal Ports
}

// Ports are the ports from First to Last, both included.
type Ports struct{ First, Last uint16 }

func (p Ports) has(port uint16) bool { return p.First <= port && port <= p.Last }

// maxRules bounds how many rules there may be: a request is compared with each.
const maxRules = 256

// DefaultRules are those that are in force if none is given: ports from 1024 on.
func DefaultRules() Rules {
	high := Ports{1024, 65535}
	return Rules{{Allow: true, External: high, Clients: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Internal: high}}
}

// ParseRule reads a rule:
//
//	allow 1024-65535 192.168.1.0/24 1024-65535
//	deny 22 0.0.0.0/0 0-65535
//
// The words are the ports of the WAN, the clients, and their ports. The error is an
// [*nat.InvalidError].
func ParseRule(text string) (Rule, error) {
	bad := func(reason string) (Rule, error) {
		return Rule{}, &nat.InvalidError{What: "rule", Input: text, Reason: reason}
	}
	words := strings.Fields(text)
	if len(words) == 0 || words[0] != "allow" && words[0] != "deny" {
		return bad("it does not begin with allow or deny")
	}
	switch {
	case len(words) > 4 && strings.HasPrefix(words[4], `"`):
		return bad("conditions on descriptions are not supported, since clients choose those")
	case len(words) != 4:
		return bad("it is not written like allow 1024-65535 192.168.1.0/24 1024-65535")
	}
	r := Rule{Allow: words[0] == "allow"}
	var reason string
	if r.External, reason = parsePorts(words[1]); reason != "" {
		return bad(reason)
	}
	if r.Clients, reason = parseClients(words[2]); reason != "" {
		return bad(reason)
	}
	if r.Internal, reason = parsePorts(words[3]); reason != "" {
		return bad(reason)
	}
	return r, nil
}

// parsePorts returns the reason of an error, or "".
func parsePorts(text string) (p Ports, reason string) {
	first, last, isRange := strings.Cut(text, "-")
	a, err := parsePort(first)
	b := a
	if isRange && err == nil {
		b, err = parsePort(last)
	}
	switch {
	case err != nil:
		return p, fmt.Sprintf("%s is no port or range of ports from 0 to 65535", strconv.Quote(text))
	case b < a:
		return p, fmt.Sprintf("the range %s ends before it begins", text)
	}
	return Ports{a, b}, ""
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err
}

// parseClients reads an address, alone or with the length of a prefix or a mask of an IPv4 address.
// It returns the reason of an error, or "".
func parseClients(text string) (p netip.Prefix, reason string) {
	host, mask, isPrefix := strings.Cut(text, "/")
	a, err := netip.ParseAddr(host)
	if err != nil || !a.Is4() {
		return p, fmt.Sprintf("%s is no IPv4 address or prefix", strconv.Quote(text))
	}
	n := a.BitLen()
	if isPrefix {
		if m, err := netip.ParseAddr(mask); err == nil && m.Is4() {
			word := m.As4()
			all := uint32(word[0])<<24 | uint32(word[1])<<16 | uint32(word[2])<<8 | uint32(word[3])
			n = bits.LeadingZeros32(^all)
			if all<<n != 0 {
				return p, fmt.Sprintf("%s is no mask: it has ones after zeros", mask)
			}
		} else if n, err = strconv.Atoi(mask); err != nil || n < 0 || n > a.BitLen() {
			return p, fmt.Sprintf("%s is no IPv4 address or prefix", strconv.Quote(text))
		}
	}
	return netip.PrefixFrom(a, n).Masked(), ""
}

// ParseRules reads rules, each of a line. What follows # is a comment.
func ParseRules(r io.Reader) (Rules, error) {
	var rules Rules
	lines := bufio.NewScanner(r)
	n := 1
	for ; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if strings.TrimSpace(text) == "" {
			continue
		}
		rule, err := ParseRule(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		rules = append(rules, rule)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n, err)
	}
	return rules, rules.Validate()
}

// Validate reports whether there are not too many rules.
func (rs Rules) Validate() error {
	if len(rs) > maxRules {
		return fmt.Errorf("%w: there are %d rules, more than %d", nat.ErrInvalid, len(rs), maxRules)
	}
	return nil
}

// allow reports whether a client may have a port.
func (rs Rules) allow(client netip.Addr, external, internal uint16) bool {
	for i := range rs {
		if r := &rs[i]; r.External.has(external) && r.Clients.Contains(client) && r.Internal.has(internal) {
			return r.Allow
		}
	}
	return false
}

// allowed returns the ports that a client may have for one of its own, as ranges without overlap.
func (rs Rules) allowed(client netip.Addr, internal uint16) (out []Ports) {
	open := []Ports{{1, 65535}} // not yet decided
	for i := range rs {
		r := &rs[i]
		if !r.Clients.Contains(client) || !r.Internal.has(internal) {
			continue
		}
		var rest []Ports
		for _, o := range open {
			first, last := max(o.First, r.External.First), min(o.Last, r.External.Last)
			if first > last {
				rest = append(rest, o)
				continue
			}
			if r.Allow {
				out = append(out, Ports{first, last})
			}
			if o.First < first {
				rest = append(rest, Ports{o.First, first - 1})
			}
			if last < o.Last {
				rest = append(rest, Ports{last + 1, o.Last})
			}
		}
		if open = rest; len(open) == 0 {
			break
		}
	}
	return out
}
