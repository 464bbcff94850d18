// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// plainNetwork reads what appendNetwork writes.
func plainNetwork(s string) (n nat.Network, ok bool) {
	var text networkText
	if s, ok = strings.CutPrefix(s, namedStart); !ok {
		return n, false
	}
	if text.name, s, ok = plainName(s); !ok {
		return n, false
	}
	if text.prefix, s, ok = plainAddr(s, objectPrefix); !ok || text.prefix == "" {
		return n, false
	}
	if text.gateway, s, ok = plainAddr(s, objectGateway); !ok {
		return n, false
	}
	if text.next, s, ok = plainAddr(s, objectNext); !ok {
		return n, false
	}
	n, err := text.network()
	if err != nil {
		return n, false
	}
	s, n.NoMasquerade = strings.CutPrefix(s, objectNoMasquerade)
	s, n.NoGuard = strings.CutPrefix(s, objectNoGuard)
	return n, s == "}"
}

// plainEndpoint reads what appendEndpoint writes.
func plainEndpoint(s string) (a nat.EndpointSpec, ok bool) {
	var name, network, address string
	if s, ok = strings.CutPrefix(s, namedStart); !ok {
		return a, false
	}
	if name, s, ok = plainName(s); !ok {
		return a, false
	}
	if rest, found := strings.CutPrefix(s, objectNetwork); found {
		if network, s, ok = plainName(rest); !ok {
			return a, false
		}
	}
	if address, s, ok = plainAddr(s, objectAddress); !ok || address == "" {
		return a, false
	}
	if s, ok = strings.CutSuffix(s, "}"); !ok {
		return a, false
	}
	var ports []string
	if rest, found := strings.CutPrefix(s, objectPorts); found {
		if ports, ok = plainPorts(rest); !ok {
			return a, false
		}
		s = ""
	}
	a, err := nat.ParseEndpointSpec(name, network, address, ports...)
	return a, err == nil && s == ""
}

// plainAddr cuts a key and an address or prefix off the front of s: in double quotes, or
// of digits, dots and a slash. Without the key it is empty.
func plainAddr(s, key string) (text, rest string, ok bool) {
	s, found := strings.CutPrefix(s, key)
	if !found {
		return "", s, true
	}
	if quoted, found := strings.CutPrefix(s, `"`); found {
		text, rest, ok = strings.Cut(quoted, `"`)
		return text, rest, ok && text != "" && strings.Trim(text, "0123456789abcdefABCDEF:./") == ""
	}
	end := strings.IndexAny(s, ",}")
	if end < 0 {
		return "", s, false
	}
	text = s[:end]
	// With three dots it is no number (YAML 1.2 section 10.3.2).
	return text, s[end:], strings.Trim(text, "0123456789./") == "" && strings.Count(text, ".") == 3
}

// plainPorts reads port specs in double quotes, up to the bracket at the end.
func plainPorts(s string) (specs []string, ok bool) {
	for {
		quoted, found := strings.CutPrefix(s, `"`)
		if !found {
			return nil, false
		}
		spec, rest, closed := strings.Cut(quoted, `"`)
		// All that specs are made of, the c of tcp among the digits, and nothing that
		// quotes or YAML know.
		if !closed || strings.Trim(spec, "0123456789abcdefABCDEF:.-[]/tpu") != "" {
			return nil, false
		}
		specs = append(specs, spec)
		if rest == "]" {
			return specs, true
		}
		if s, found = strings.CutPrefix(rest, portSeparator); !found {
			return nil, false
		}
	}
}
