// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A backend reaches itself and its siblings by a frontend, at each of the host's addresses,
// whether bridged frames pass the IP hooks or not. If they do, the bridge sends a backend's
// packets to itself only if its port has hairpin mode. The engine sets the mode, and removes
// it when nothing is published any more.
func TestHairpin(t *testing.T) {
	for _, o := range []lab.Options{
		{BridgeNF: false, Hairpin: false},
		{BridgeNF: false, Hairpin: true},
		{BridgeNF: true, Hairpin: false},
		{BridgeNF: true, Hairpin: true},
	} {
		t.Run(fmt.Sprintf("bridge-nf %t hairpin mode %t", o.BridgeNF, o.Hairpin), func(t *testing.T) {
			o.Parts = lab.PartBackend1 | lab.PartBackend2
			testHairpin(t, newTopology(t, o), o)
		})
	}
}

func testHairpin(t *testing.T, top *lab.Topology, o lab.Options) {
	t.Helper()
	e := open(t, top.Host, engine.Options{})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "web", ":80")
		for _, f := range families(top) {
			publish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80)+suffix(network))
			for _, host := range []string{at(f.host, 8080), at(f.second, 8080), at(f.gateway, 8080)} {
				// Masqueraded, or the answer would come from another address.
				peer := labtest.Reaches(t, top.Backend2, network, host, "web")
				require.Equal(t, f.gateway, peer.Addr())
				peer = labtest.Reaches(t, top.Backend1, network, host, "web")
				require.Equal(t, f.gateway, peer.Addr())
				// The addresses of other clients are kept.
				if host != at(f.gateway, 8080) {
					peer = labtest.Reaches(t, top.Client, network, host, "web")
					require.Equal(t, f.client, peer.Addr())
				}
			}
			require.Equal(t, o.BridgeNF || o.Hairpin, inHairpinMode(t, top.Host, lab.HostPort1))
			if o.BridgeNF && !o.Hairpin {
				require.Equal(t, []string{f.backend1.String() + " " + lab.HostPort1}, hairpinRecords(t, top.Host))
				// Otherwise the case above would show nothing.
				setHairpin(t, top.Host, lab.HostPort1, false)
				require.Error(t, labtest.NoAnswer(t, top.Backend1, network, at(f.host, 8080)))
			} else {
				require.Empty(t, hairpinRecords(t, top.Host))
			}
			// The port of somebody who has published nothing.
			require.Equal(t, o.Hairpin, inHairpinMode(t, top.Host, lab.HostPort2))
			// Ports that are not published do not answer.
			require.Error(t, labtest.NoAnswer(t, top.Backend2, network, at(f.host, 8081)))
			unpublish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80)+suffix(network))
			require.Error(t, labtest.NoAnswer(t, top.Backend2, network, at(f.host, 8080)))
			require.Equal(t, o.Hairpin, inHairpinMode(t, top.Host, lab.HostPort1))
			require.Empty(t, hairpinRecords(t, top.Host))
		}
	}
}

// The segments of a link are in the table from the first mapping that leads to it to the
// last, and only once.
func TestSegments(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartFar})
	segments := func() []string {
		var found []string
		for _, line := range sortedElements(t, top.Host) {
			if strings.HasPrefix(line, "segments") {
				found = append(found, line)
			}
		}
		return found
	}
	const (
		inside4 = "segments4 br0 . br0 . 172.30.0.0/24 on-link"
		far4    = "segments4 far0 . far0 . 198.51.100.0/24 on-link"
		lan4    = "segments4 lan0 . lan0 . 192.0.2.0/24 on-link"
		inside6 = "segments6 br0 . br0 . fd00:30::/64 on-link"
	)
	labtest.Exec(t, top.Host, "ip", "route", "add", "203.0.113.0/24", "via", top.Far.V4.String())
	e := open(t, top.Host, engine.Options{})
	for _, step := range []struct {
		publish, unpublish string
		want               []string
	}{
		{publish: "8080->172.30.0.2:80", want: []string{inside4}},
		{publish: "8081->172.30.0.3:80/udp", want: []string{inside4}},
		{publish: "8082->[fd00:30::2]:80", want: []string{inside4, inside6}},
		{publish: "8083->198.51.100.2:80", want: []string{inside4, far4, inside6}},
		{publish: "8084->192.0.2.2:80", want: []string{inside4, far4, lan4, inside6}},
		// No route leads there.
		{publish: "8087->100.64.0.1:80", want: []string{inside4, far4, lan4, inside6}},
		{unpublish: "8084->192.0.2.2:80", want: []string{inside4, far4, inside6}},
		// A loopback frontend is not DNATed, and has no hairpin.
		{publish: "127.0.0.1:8086->172.30.0.2:80", want: []string{inside4, far4, inside6}},
		{unpublish: "8080->172.30.0.2:80", want: []string{inside4, far4, inside6}},
		{unpublish: "8081->172.30.0.3:80/udp", want: []string{far4, inside6}},
		{unpublish: "8083->198.51.100.2:80", want: []string{inside6}},
		// Behind a router on the link: it answers the link's other machines directly too.
		{publish: "8085->203.0.113.1:80", want: []string{far4, inside6}},
		{unpublish: "8085->203.0.113.1:80", want: []string{inside6}},
		{unpublish: "8082->[fd00:30::2]:80"},
	} {
		if step.publish != "" {
			publish(t, e, step.publish)
		} else {
			unpublish(t, e, step.unpublish)
		}
		require.Equal(t, step.want, segments(), "%+v", step)
	}
}
