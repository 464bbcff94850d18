// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// TestBesideSysctl checks what docs/beside.md says about settings, with its lines.
func TestBesideSysctl(t *testing.T) {
	h := newBesideHost(t, "sysctl", "sysctl")
	daemon := h.publish()
	h.allOpen()
	h.machine.Write("/etc/sysctl.d/20-hardening.conf",
		"net.ipv4.ip_forward = 0\nnet.ipv6.conf.all.forwarding = 0\nnet.ipv4.conf.all.rp_filter = 1\n", 0o644)
	h.shell(systemSysctl)
	h.followed()
	h.allOpen()
	// With --no-sysctl it stays off, and the status says so.
	daemon = h.restart(daemon, "--no-sysctl")
	h.shell(systemSysctl)
	h.onlyOpen(pathLocal, pathProxied)
	require.Contains(t, h.testbed.succeed(t, "status"), "forwarding  ipv4 off")
	require.Contains(t, h.testbed.succeed(t, "status"), "forwarding is off")

	h.machine.Write("/etc/sysctl.d/99-nftnat.conf", h.text("sysctl forwarding"), 0o644)
	h.shell(systemSysctl)
	h.allOpen()
	// /etc/sysctl.conf is read last.
	h.machine.Write("/etc/sysctl.conf", "net.ipv4.ip_forward = 0\n", 0o644)
	h.shell(systemSysctl)
	h.onlyOpen(pathLocal, pathProxied, pathIn6)
	h.restart(daemon)
	h.allOpen()
	h.machine.Write("/etc/sysctl.conf", "", 0o644)
	h.shell(systemSysctl)
	h.allOpen()
}

// followed waits until IPv4 is forwarded.
func (h *besideHost) followed() {
	h.Helper()
	await(h.T, "forwarding", func() bool {
		on, err := h.top.Host.ReadSysctl("net.ipv4.ip_forward")
		return err == nil && on == "1"
	})
}

// systemSysctl runs sysctl --system, which fails for Debian's settings that are not about
// the network, because the machine cannot change them.
const systemSysctl = "sysctl --system || true"

// Strict reverse path filtering drops packets that come in by another link than the answers
// would go out by.
func TestBesideReversePath(t *testing.T) {
	h := newBesideHost(t, "rp_filter", "sysctl")
	h.publish()
	// The client's second link: it sends by this one, and answers go to the first one.
	require.NoError(t, lab.Wire(
		lab.End{NS: h.top.Client, Link: "eth1", Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}},
		lab.End{NS: h.top.Host, Link: "lan1", Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}},
	))
	labtest.Exec(t, h.top.Client, "ip", "route", "add", "192.0.2.9/32", "via", "198.51.100.1", "dev", "eth1", "src", "192.0.2.2")
	const to = "192.0.2.9:8080"
	labtest.Reaches(t, h.top.Client, "tcp", to, "web")
	h.shell("sysctl -w net.ipv4.conf.all.rp_filter=1")
	require.ErrorIs(t, labtest.NoAnswer(t, h.top.Client, "tcp", to), os.ErrDeadlineExceeded)
	h.allOpen()
	h.recipe("rp_filter loose")
	labtest.Reaches(t, h.top.Client, "tcp", to, "web")
}

// With route_localnet, which other programs turn on, 127.0.0.1 stays closed to the network
// as long as there is nftnat's table.
func TestBesideRouteLocalnet(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour})
	labtest.EchoTCP(t, top.Host, "private", "127.0.0.1:9999")
	require.NoError(t, top.Host.Sysctl("net.ipv4.conf.all.route_localnet", "1"))
	require.NoError(t, top.RouteLoopback(top.Neighbour))
	const to = "127.0.0.1:9999"
	labtest.Reaches(t, top.Neighbour, "tcp", to, "private")
	s := newTestbed(t, top.Host)
	s.serve(t)
	s.succeed(t, "add tcp 8080 172.30.0.2:80") // makes the table
	require.ErrorIs(t, labtest.NoAnswer(t, top.Neighbour, "tcp", to), os.ErrDeadlineExceeded)
	labtest.Reaches(t, top.Host, "tcp", to, "private")
}
