// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/nat"
)

// forwardingIsOff is about a setting.
const forwardingIsOff = "forwarding is off, and what it keeps back does not reach backends: %s"

// warnings returns what keeps published ports from working, a line each. absent are the
// numbers of ports on addresses that the host does not have.
func (e *core) warnings(absent map[netip.Addr]int) (lines []string) {
	routes, err := e.routesToBackends()
	if err != nil {
		lines = append(lines, err.Error())
	}
	missing, err := e.forwarding.Missing(forwardingNeeds(e.backends, routes, e.ipam.Networks()))
	if err != nil {
		lines = append(lines, err.Error())
	}
	for _, s := range missing {
		lines = append(lines, fmt.Sprintf(forwardingIsOff, s))
	}
	for _, a := range slices.SortedFunc(maps.Keys(absent), netip.Addr.Compare) {
		lines = append(lines, fmt.Sprintf("%s is no address of this host: %s", a, waiting(absent[a])))
	}
	for _, a := range slices.SortedFunc(routes.Keys, netip.Addr.Compare) {
		if routes.Of(a).Kind == hostnet.Local { // it would not be published now
			lines = append(lines, fmt.Sprintf("%s is an address of this host: what leads to it as a backend does not work", a))
		}
	}
	who := "clients of the other family"
	if e.programs.Localhost == nil {
		who = "clients on localhost and of the other family"
	}
	for _, p := range e.holder.NotServed(&e.mappings) {
		lines = append(lines, fmt.Sprintf("%s: %s are not served: for so many ports that takes eBPF (sk_lookup)", nat.DescribeFrontend(p.Mapping()), who))
	}
	for _, p := range e.holder.NotLed(&e.mappings) {
		lines = append(lines, fmt.Sprintf("%s: %s are not served: the kernel gives these ports to UDP clients of this host (ip_local_port_range)", nat.DescribeFrontend(p.Mapping()), who))
	}
	why := "localhost is served by proxies alone"
	if err := e.programs.NoHold; err != nil {
		why = err.Error()
	}
	for _, p := range e.holder.NotHeld(&e.mappings) {
		lines = append(lines, fmt.Sprintf("%s: other programs can bind these ports: to hold so many takes eBPF: %s", nat.DescribeFrontend(p.Mapping()), why))
	}
	lines = append(append(append(lines, e.sharedWarnings()...), e.ruleWarnings()...), e.segmentWarnings()...)
	return append(lines, e.rivalWarnings()...)
}

func waiting(ports int) string {
	if ports == 1 {
		return "1 published port waits for it"
	}
	return fmt.Sprintf("%d published ports wait for it", ports)
}
