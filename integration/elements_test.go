// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// sortedElements returns the elements of nftnat's maps and sets as nft(8) lists them, one
// line each: "tcp4 8080 : 172.30.0.2 . 80 web". A time-out is shown as "~", because it
// changes.
func sortedElements(t *testing.T, ns *lab.NS) []string {
	t.Helper()
	lines := listedElements(t, ns)
	// While the kernel moves a map to a larger table, an element can be listed twice (rhashtable_walk_next in lib/rhashtable.c).
	for range 10 {
		if len(slices.Compact(slices.Clone(lines))) == len(lines) {
			break
		}
		time.Sleep(10 * time.Millisecond)
		lines = listedElements(t, ns)
	}
	return lines
}

func listedElements(t *testing.T, ns *lab.NS) []string {
	t.Helper()
	lines := []string{}
	// Not the table: versions that do not know its flags print something else of an
	// orphan each time.
	for _, kind := range []string{"maps", "sets"} {
		var listing struct {
			Nftables []struct{ Map, Set *listedSet }
		}
		require.NoError(t, json.Unmarshal([]byte(nft(t, ns, "-j", "list", kind)), &listing))
		for _, object := range listing.Nftables {
			for _, s := range []*listedSet{object.Map, object.Set} {
				if s != nil && s.Family == "inet" && s.Table == "nftnat" {
					lines = append(lines, s.lines(t)...)
				}
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// listedSet is a map or a set in the schema of libnftables-json(5).
type listedSet struct {
	Family, Table, Name string
	Map                 json.RawMessage // the type of the values; absent: a set
	Elem                []json.RawMessage
}

func (s *listedSet) lines(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, raw := range s.Elem {
		key, value := raw, ""
		if s.Map != nil {
			var pair [2]json.RawMessage
			require.NoError(t, json.Unmarshal(raw, &pair))
			key, value = pair[0], " : "+listedValue(t, pair[1])
		}
		// An element with only a key is listed as the key.
		var full struct {
			Elem *struct {
				Val     json.RawMessage
				Comment string
				Timeout int
			}
		}
		comment := ""
		if json.Unmarshal(key, &full) == nil && full.Elem != nil {
			key = full.Elem.Val
			if full.Elem.Timeout != 0 {
				comment = " ~"
			}
			if full.Elem.Comment != "" {
				comment += " " + full.Elem.Comment
			}
		}
		lines = append(lines, s.Name+" "+listedValue(t, key)+value+comment)
	}
	return lines
}

// listedValue spells a value as nft(8) does.
func listedValue(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	var v any
	require.NoError(t, json.Unmarshal(raw, &v))
	return spell(v)
}

func spell(v any) string {
	object, ok := v.(map[string]any)
	if !ok {
		return fmt.Sprint(v)
	}
	if fields, ok := object["concat"].([]any); ok {
		words := make([]string, len(fields))
		for i, f := range fields {
			words[i] = spell(f)
		}
		return strings.Join(words, " . ")
	}
	if bounds, ok := object["range"].([]any); ok {
		return fmt.Sprintf("%v-%v", bounds[0], bounds[1])
	}
	if p, ok := object["prefix"].(map[string]any); ok {
		return fmt.Sprintf("%v/%v", p["addr"], p["len"])
	}
	return fmt.Sprint(v)
}

// element is the line of an element that leads to a backend, or of a note on one.
var element = regexp.MustCompile(`^((?:tcp|udp)\S*?)(_range|_range_next)? (\S+)(?: \. (\S+))? : ([^ ]+)(?: \. (\d+))?(.*)$`)

// singleElements returns lines of sortedElements with single ports in the place of ranges and of the holes in them: what a packet finds at
// each port, also where a change was not brought to rest.
func singleElements(lines []string) []string {
	taken, ranges, rest := map[string]bool{}, [][]string{}, []string{}
	for _, line := range lines {
		words := strings.Fields(line)
		f := element.FindStringSubmatch(line)
		switch {
		case strings.HasPrefix(line, "holes"): // holes ipv4 . tcp . 80; holes4_host tcp . 192.0.2.1 . 80
			set, key := words[3]+words[1][len("ipv"):], words[5]
			if words[0] != "holes" {
				set, key = words[1]+words[0][len("holes"):], words[3]+" . "+words[5]
			}
			taken[set+" "+key] = true
		case f != nil && f[2] != "":
			ranges = append(ranges, f)
		default:
			if f != nil {
				key := f[3]
				if f[4] != "" {
					key += " . " + f[4]
				}
				taken[f[1]+" "+key] = true
			}
			rest = append(rest, line)
		}
	}
	slices.SortStableFunc(ranges, func(a, b []string) int { return strings.Compare(a[2], b[2]) }) // the second maps are asked last
	for _, f := range ranges {
		set, ports, host, backend := f[1], f[3], f[4], f[5]
		if _, err := netip.ParseAddr(ports); err == nil { // looked up by no rule: the first port, and the last
			host, ports = ports, f[4]+"-"+f[6]
		}
		var first, last int
		if n, _ := fmt.Sscanf(ports, "%d-%d", &first, &last); n == 1 {
			last = first
		}
		for port := first; port <= last; port++ {
			key := fmt.Sprint(port)
			if host != "" {
				key = host + " . " + key
			}
			if !taken[set+" "+key] {
				taken[set+" "+key] = true
				rest = append(rest, fmt.Sprintf("%s %s : %s . %d%s", set, key, backend, port, f[7]))
			}
		}
	}
	slices.Sort(rest)
	return rest
}

// elementsOf returns the lines of sortedElements if the kernel holds exactly these mappings
// and segments on the host's bridge. It computes them from the documented format.
func elementsOf(ms []nat.Mapping, segments ...string) []string {
	lines := []string{}
	for _, m := range ms {
		for one := range nat.Expand(m) {
			lines = append(lines, elementOf(one))
		}
	}
	for _, s := range segments {
		set := "segments4 "
		if strings.Contains(s, ":") {
			set = "segments6 "
		}
		lines = append(lines, set+lab.HostBridge+" . "+lab.HostBridge+" . "+s+" on-link")
	}
	slices.Sort(lines)
	return lines
}

func elementOf(m nat.Mapping) string {
	digit := "4"
	if m.Backend.Addr().Is6() {
		digit = "6"
	}
	set, key := m.Proto.String()+digit, fmt.Sprint(m.Frontend.Port())
	host := m.Frontend.Addr()
	wildcard := host == netip.IPv4Unspecified() || host == netip.IPv6Unspecified()
	if host.IsValid() && !wildcard {
		set, key = set+"_host", host.String()+" . "+key
	}
	if host.IsValid() && host.Is4() == m.Backend.Addr().Is6() {
		wildcard = false // the key shows it
		set, key = m.Proto.String()+map[bool]string{true: "4_to6", false: "6_to4"}[host.Is4()], m.Frontend.Addr().String()+" . "+fmt.Sprint(m.Frontend.Port())
	}
	line := fmt.Sprintf("%s %s : %s . %d", set, key, m.Backend.Addr(), m.Backend.Port())
	if !m.Expires.IsZero() {
		line += " ~"
	}
	if m.Name != "" {
		line += " " + m.Name
	}
	switch {
	case m.NoProxy && wildcard:
		line += " [no-proxy one-family]"
	case m.NoProxy:
		line += " [no-proxy]"
	case wildcard:
		line += " [one-family]"
	}
	return line
}
