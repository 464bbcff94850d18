// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// Names of ways that others are compared with.
const (
	wayRouting = "routing alone (the limit)"
	wayHand    = "nft, one rule by hand"
	wayOne     = "nftnat, 1 mapping"
	wayMiddle  = "nftnat, 1 mapping of port 35000"
	wayRange   = "nftnat, port 35000 of the range 10000-60000"
)

// wide is a mapping of 50,001 ports that keep their numbers.
func wide() nat.Mapping {
	const first, last = 10000, 60000
	return nat.Mapping{Frontend: netip.AddrPortFrom(netip.Addr{}, first), Backend: netip.AddrPortFrom(backend(), first), More: last - first}
}

func wayFull(s settings) string { return fmt.Sprintf("nftnat, %d mappings", s.mappings) }

// waysThrough returns the ways to the backend. All mappings and rules have the same backend;
// clients use the last one, which is the most expensive of a list of rules.
func waysThrough(dir string, s settings, tables ...*table) []way {
	host := netip.MustParseAddr("192.0.2.1") // lab's
	last := func(count int) netip.AddrPort { return netip.AddrPortFrom(host, uint16(firstPort+count-1)) }
	nothing := func() error { return nil }
	ways := []way{
		{
			name: wayRouting, frontend: netip.AddrPortFrom(backend(), backendPort),
			set: func(*lab.NS) (func() error, error) { return nothing, nil },
		},
		{name: wayHand, frontend: last(1), set: func(ns *lab.NS) (func() error, error) {
			file := filepath.Join(dir, "one.nft")
			if err := os.WriteFile(file, []byte(ruleByHand()), 0o600); err != nil {
				return nil, err
			}
			return nothing, command(ns, "nft", "-f", file)
		}},
	}
	if _, err := exec.LookPath("nft"); err != nil {
		ways = ways[:1]
		for _, r := range tables {
			r.note("nft is not installed and left out")
		}
	}
	middle := netip.AddrPortFrom(host, rangePort)
	single := nat.Mapping{Frontend: netip.AddrPortFrom(netip.Addr{}, rangePort), Backend: netip.AddrPortFrom(backend(), rangePort)}
	ways = append(ways,
		way{name: wayMiddle, frontend: middle, set: func(ns *lab.NS) (func() error, error) { return published(ns, single) }},
		way{name: wayRange, frontend: middle, set: func(ns *lab.NS) (func() error, error) { return published(ns, wide()) }})
	counts := slices.Compact([]int{1, min(1000, s.mappings), s.mappings})
	for _, count := range counts {
		w := way{name: wayOne, frontend: last(count), set: func(ns *lab.NS) (func() error, error) { return mapped(ns, count) }}
		if count > 1 {
			w.name = fmt.Sprintf("nftnat, %d mappings", count)
		}
		ways = append(ways, w)
		if count > 1 && count == s.mappings {
			w.name, w.frontend, w.ports = w.name+", all in turn", last(1), count
			ways = append(ways, w)
		}
	}
	for _, name := range []string{"iptables-legacy", "iptables-nft"} {
		if _, err := exec.LookPath(name + "-restore"); err != nil {
			for _, r := range tables {
				r.note("%s is not installed and left out", name)
			}
			continue
		}
		for _, count := range counts {
			rules := "rules"
			if count == 1 {
				rules = "rule"
			}
			ways = append(ways, way{
				name: fmt.Sprintf("%s, %d %s", name, count, rules), frontend: last(count),
				set: func(ns *lab.NS) (func() error, error) { return nothing, restored(ns, dir, name, count) },
			})
		}
	}
	return slices.DeleteFunc(ways, func(w way) bool {
		name, _, _ := strings.Cut(w.name, ",")
		return s.peers != "" && w.name != wayRouting && name != "nftnat" && !slices.Contains(strings.Split(s.peers, ","), name)
	})
}

// ruleByHand is the smallest ruleset that publishes a port for TCP and UDP.
func ruleByHand() string {
	return fmt.Sprintf(`table ip hand {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport %[1]d dnat to %[2]s:%[3]d
		udp dport %[1]d dnat to %[2]s:%[3]d
	}
}
`, firstPort, backend(), backendPort)
}

// published publishes a mapping for TCP and for UDP.
func published(ns *lab.NS, m nat.Mapping) (undo func() error, err error) {
	tcp, udp := m, m
	tcp.Proto, udp.Proto = nat.TCP, nat.UDP
	return applying(ns, tcp, udp)
}

// mapped publishes count TCP ports with an engine, and the first and the last port for UDP.
func mapped(ns *lab.NS, count int) (undo func() error, err error) {
	to := netip.AddrPortFrom(backend(), backendPort)
	ms := mappings(firstPort, count)
	for i := range ms {
		ms[i].Backend = to
	}
	for _, i := range slices.Compact([]int{0, count - 1}) {
		ms = append(ms, nat.Mapping{Proto: nat.UDP, Frontend: ms[i].Frontend, Backend: to})
	}
	return applying(ns, ms...)
}

// applying publishes mappings with an engine, until it is closed.
func applying(ns *lab.NS, ms ...nat.Mapping) (undo func() error, err error) {
	e, err := engine.Open(context.Background(), engine.Options{NetNS: ns.Path(), NoProxies: true, NoSysctl: true})
	if err != nil {
		return nil, err
	}
	if _, err := e.Apply(context.Background(), ms...); err != nil {
		_ = e.Close()
		return nil, err
	}
	return e.Close, nil
}

// restored makes a rule for each of count TCP ports, as Docker does, and one for UDP after
// them.
func restored(ns *lab.NS, dir, name string, count int) error {
	file := filepath.Join(dir, fmt.Sprintf("%d.rules", count))
	if _, err := os.Stat(file); err != nil {
		var rules strings.Builder
		rules.WriteString("*nat\n:PUBLISH - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j PUBLISH\n")
		to := netip.AddrPortFrom(backend(), backendPort)
		for port := firstPort; port < firstPort+count; port++ {
			fmt.Fprintf(&rules, "-A PUBLISH -p tcp --dport %d -j DNAT --to-destination %s\n", port, to)
		}
		fmt.Fprintf(&rules, "-A PUBLISH -p udp --dport %d -j DNAT --to-destination %s\nCOMMIT\n", firstPort+count-1, to)
		if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
			return err
		}
	}
	return command(ns, name+"-restore", "-w", "20", file)
}
