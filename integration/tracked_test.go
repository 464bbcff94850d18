// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// tracked returns the flows of a protocol and family that ns tracks, as conntrack(8) lists
// them, one line each: the protocol, and the addresses and ports of both directions, "udp src=… dst=… sport=… dport=… src=… dst=… sport=… dport=…".
func tracked(t *testing.T, ns *lab.NS, network string, of netip.Addr) []string {
	t.Helper()
	flows := trackedIDs(t, ns, network, of)
	lines := make([]string, 0, len(flows))
	for line := range flows {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// trackedIDs returns the same with the kernel's number of each entry, which differs if an
// entry was replaced.
func trackedIDs(t *testing.T, ns *lab.NS, network string, of netip.Addr) map[string]string {
	t.Helper()
	family := "ipv4"
	if of.Is6() {
		family = "ipv6"
	}
	tuple := regexp.MustCompile(`(src|dst|sport|dport)=\S+`)
	id := regexp.MustCompile(` id=(\d+)`)
	flows := map[string]string{}
	for line := range strings.Lines(labtest.Exec(t, ns, "conntrack", "-L", "-p", network, "-f", family, "-o", "id")) {
		words := append([]string{network}, tuple.FindAllString(line, -1)...)
		if found := id.FindStringSubmatch(line); found != nil {
			flows[strings.Join(words, " ")] = found[1]
		}
	}
	return flows
}
