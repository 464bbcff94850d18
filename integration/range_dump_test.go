// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// rangeDump is what nft(8) lists of UDP ports of IPv4.
type rangeDump struct {
	single map[int]netip.AddrPort
	holes  map[int]bool
	ranges []dumpedRange
}

type dumpedRange struct {
	first, last int
	backend     netip.Addr
}

// dumpRanges reads the kernel's elements, of any address or of single ones. At rest nothing
// is in the maps that are asked after the ranges.
func dumpRanges(t *testing.T, ns *lab.NS, one bool) *rangeDump {
	t.Helper()
	suffix, holes := "", "holes"
	if one {
		suffix, holes = "_host", "holes4_host"
	}
	d := &rangeDump{single: map[int]netip.AddrPort{}, holes: map[int]bool{}}
	await(t, "no element in the maps that are asked after the ranges", func() bool {
		return len(dumpElements(t, ns)["udp4"+suffix+"_range_next"]) == 0
	})
	sets := dumpElements(t, ns)
	for _, el := range sets["udp4"+suffix] {
		pair := el.([]any)
		to := pair[1].(map[string]any)["concat"].([]any)
		_, port := dumpedPorts(t, pair[0])
		backend, err := netip.ParseAddr(to[0].(string))
		require.NoError(t, err)
		d.single[port] = netip.AddrPortFrom(backend, uint16(to[1].(float64)))
	}
	for _, el := range sets["udp4"+suffix+"_range"] {
		pair := el.([]any)
		first, last := dumpedPorts(t, pair[0])
		backend, err := netip.ParseAddr(pair[1].(string))
		require.NoError(t, err)
		d.ranges = append(d.ranges, dumpedRange{first, last, backend})
	}
	for _, el := range sets[holes] {
		_, port := dumpedPorts(t, el)
		d.holes[port] = true
	}
	return d
}

// dumpElements returns the elements of all sets and maps, as nft(8) lists them in JSON.
func dumpElements(t *testing.T, ns *lab.NS) map[string][]any {
	t.Helper()
	var doc struct {
		Nftables []map[string]struct {
			Name string
			Elem []any
		}
	}
	require.NoError(t, json.Unmarshal([]byte(labtest.Exec(t, ns, "nft", "-j", "list", "table", "inet", "nftnat")), &doc))
	sets := map[string][]any{}
	for _, object := range doc.Nftables {
		for kind, s := range object {
			if kind == "map" || kind == "set" {
				sets[s.Name] = s.Elem
			}
		}
	}
	return sets
}

// dumpedPorts returns the ports of a key: a number, a range, or either beside an address.
func dumpedPorts(t *testing.T, key any) (first, last int) {
	t.Helper()
	switch key := key.(type) {
	case float64:
		return int(key), int(key)
	case map[string]any:
		if val, ok := key["elem"]; ok {
			return dumpedPorts(t, val.(map[string]any)["val"])
		}
		if bounds, ok := key["range"].([]any); ok {
			return int(bounds[0].(float64)), int(bounds[1].(float64))
		}
		for _, part := range slices.Backward(key["concat"].([]any)) {
			if _, ok := part.(string); !ok { // an address is one
				return dumpedPorts(t, part)
			}
		}
	}
	t.Fatalf("no key of a port: %v", key)
	return 0, 0
}

// leads is what the rules make of a packet: they ask single ports, then holes, then ranges.
func (d *rangeDump) leads(port int) leads {
	if backend, ok := d.single[port]; ok {
		return leadsTo(backend, port)
	}
	if d.holes[port] {
		return nowhere
	}
	for _, r := range d.ranges {
		if r.first <= port && port <= r.last {
			return leadsTo(netip.AddrPortFrom(r.backend, uint16(port)), port)
		}
	}
	return nowhere
}
