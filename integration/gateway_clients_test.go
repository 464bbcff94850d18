// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// goClients builds integration/portclients, and returns a function that runs it in a namespace.
func goClients(t *testing.T) func(ns *lab.NS, line string) labtest.Result {
	t.Helper()
	program := filepath.Join(t.TempDir(), "portclients")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = "portclients"
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return func(ns *lab.NS, line string) labtest.Result {
		t.Helper()
		return labtest.Run(t, ns, exec.Command(program, strings.Fields(line)...))
	}
}

// The libraries by which programs in Go ask for ports get them, renew them, see conflicts and give them back; packages
// go through from beyond the WAN with the client's address, and from the LAN by the WAN's address.
func TestGatewayGoClients(t *testing.T) {
	run := goClients(t)
	b := newGatewayTestbed(t, lab.HostLAN)
	b.start(t)
	ok := func(line string) string {
		t.Helper()
		r := run(b.one, line)
		require.Zero(t, r.Code, "%s: %s", line, r.Stderr)
		return strings.TrimSpace(r.Stdout)
	}
	labtest.EchoUDP(t, b.one, "client", ":5000")
	labtest.EchoTCP(t, b.one, "client", ":5000")

	require.Regexp(t, `^45\.0\.0\.1 \d+$`, ok("natpmp 192.0.2.1 address"))
	for i, network := range []string{"udp", "tcp"} {
		external := 4000 + i
		require.Equal(t, fmt.Sprintf("5000 %d 3600", external), ok(fmt.Sprintf("natpmp 192.0.2.1 map %s 5000 %d 3600", network, external)))
		b.reached(t, network, strconv.Itoa(external), "client")
		require.Equal(t, fmt.Sprintf("5000 %d 7200", external), ok(fmt.Sprintf("natpmp 192.0.2.1 map %s 5000 %d 7200", network, external)))
		require.Equal(t, "5000 0 0", ok(fmt.Sprintf("natpmp 192.0.2.1 map %s 5000 0 0", network)))
		b.closed(t, network, strconv.Itoa(external))
	}

	upnp := "upnp " + ok("upnp discover") + " "
	require.Equal(t, wanAddress, ok(upnp+"address"))
	client := b.one.V4.String()
	for _, network := range []string{"udp", "tcp"} {
		ok(upnp + "add " + network + " 4000 5000 " + client + " 3600")
		b.reached(t, network, "4000", "client")
		require.Equal(t, strings.ToUpper(network)+" 4000 "+client+" 5000 portclients", ok(upnp+"list"))

		neighbour := b.two.V4.String()
		refused := run(b.two, upnp+"add "+network+" 4000 5000 "+neighbour+" 3600")
		require.Equal(t, 1, refused.Code)
		require.Contains(t, refused.Stderr, "718")
		refused = run(b.two, upnp+"rm "+network+" 4000")
		require.Equal(t, 1, refused.Code)
		require.Contains(t, refused.Stderr, "606")
		labtest.Reaches(t, b.far, network, wanAddress+":4000", "client")

		ok(upnp + "rm " + network + " 4000")
		b.closed(t, network, "4000")
		require.Empty(t, ok(upnp+"list"))
	}
}

// python is what Debian's modules are for.
const python = "/usr/bin/python3"

// torrent is a program with libtorrent's own clients of PCP, NAT-PMP and UPnP. It prints the ports that they get, and ends
// when its standard input does.
const torrent = `
import sys, libtorrent as lt
s = lt.session({
    'listen_interfaces': sys.argv[1] + ':7001',
    'enable_dht': False, 'enable_lsd': False,
    'enable_natpmp': sys.argv[2] != 'upnp', 'enable_upnp': sys.argv[2] != 'natpmp',
    'alert_mask': lt.alert.category_t.port_mapping_notification | lt.alert.category_t.error_notification,
})
wanted = 4 if sys.argv[2] == 'both' else 2
while wanted:
    s.wait_for_alert(1000)
    for a in s.pop_alerts():
        if isinstance(a, lt.portmap_alert):
            print(a.map_protocol, a.external_port, flush=True)
            wanted -= 1
        elif isinstance(a, lt.portmap_error_alert):
            print('error', a.message(), flush=True)
sys.stdin.read()
`

// libtorrent gets its port by PCP and by UPnP, for TCP and UDP, and gives both back when it ends.
func TestGatewayLibtorrent(t *testing.T) {
	t.Parallel() // it waits

	if exec.Command(python, "-c", "import libtorrent").Run() != nil {
		labtest.Skip(t, "python3-libtorrent is not installed")
	}
	b := newGatewayTestbed(t, lab.HostLAN)
	b.start(t)
	for _, way := range []string{"natpmp", "upnp"} {
		t.Run(way, func(t *testing.T) {
			cmd := exec.Command(python, "-c", torrent, b.one.V4.String(), way)
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			p := labtest.StartCmd(t, b.one, cmd)
			var lines []string
			await(t, "libtorrent to get its ports", func() bool {
				lines = strings.Split(strings.TrimSpace(p.Output()), "\n")
				return len(lines) >= 2
			})
			require.ElementsMatch(t, []string{"tcp 7001", "udp 7001"}, lines)
			peer, err := b.far.DialFrom(t.Context(), "tcp", wanAddress+":7001", netip.AddrPort{})
			require.NoError(t, err)
			require.NoError(t, peer.Close())
			require.NoError(t, in.Close())
			p.Wait()
			await(t, "the ports to be given back", func() bool { return strings.TrimSpace(b.succeed(t, "ls --json")) == "[]" })
		})
	}
}
