// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// toldBy reports whether an event of the host has the text.
func toldBy(events []api.Event, text string) bool {
	return slices.ContainsFunc(events, func(ev api.Event) bool { return ev.Type == api.EventHost && strings.Contains(ev.Message, text) })
}

// offSwitches returns what turns forwarding off behind the daemon's back: a sysctl, and whether
// this kernel has it.
func offSwitches(t *testing.T, host *lab.NS) map[string]string {
	t.Helper()
	switches := map[string]string{"net.ipv4.ip_forward": "192.0.2.1:8080", "net.ipv4.conf.lan0.forwarding": "192.0.2.1:8080"}
	if _, err := host.ReadSysctl("net.ipv6.conf.lan0.force_forwarding"); err == nil {
		switches["net.ipv6.conf.lan0.force_forwarding"] = "[2001:db8:1::1]:8081"
	} else {
		switches["net.ipv6.conf.all.forwarding"] = "[2001:db8:1::1]:8081"
	}
	return switches
}

// Forwarding that somebody turns off, for all interfaces or for one, is turned on again, and
// an event says so.
func TestForwardingIsPutBack(t *testing.T) {
	top, s := proxiedHost(t)
	s.serve(t)
	events := s.follow(t)
	for _, proto := range []string{"tcp", "udp"} {
		s.succeed(t, "add --quiet "+proto+" 8080 172.30.0.2:80")
		s.succeed(t, "add --quiet "+proto+" [::]:8081 [fd00:30::2]:80")
	}
	for sysctl, address := range offSwitches(t, top.Host) {
		require.NoError(t, top.Host.Sysctl(sysctl, "0"))
		await(t, sysctl, func() bool {
			on, err := top.Host.ReadSysctl(sysctl)
			return err == nil && on == "1"
		})
		for _, proto := range []string{"tcp", "udp"} {
			require.Equal(t, "backend", dialFlow(t, top.Client, proto, address).name(t), sysctl)
		}
		await(t, "the event of "+sysctl, func() bool { return toldBy(events(), strings.ReplaceAll(sysctl, ".", "/")+" is 0") })
	}
	require.Empty(t, s.status(t).Warnings)
}

// With --no-sysctl nothing is turned on, and the status says what is off.
func TestForwardingIsReported(t *testing.T) {
	top, s := proxiedHost(t)
	require.NoError(t, top.SetForwarding(true))
	s.serve(t, "--no-sysctl", "--metrics", "127.0.0.1:9100")
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	s.succeed(t, "add --quiet tcp [::]:8081 [fd00:30::2]:80")
	require.Empty(t, s.status(t).Warnings)
	require.NoError(t, top.SetForwarding(false))
	warned := func() []string {
		return slices.DeleteFunc(s.status(t).Warnings, func(line string) bool { return !strings.Contains(line, "forwarding is off") })
	}
	require.Len(t, slices.DeleteFunc(warned(), func(line string) bool { return !strings.Contains(line, "net/ipv4/ip_forward is 0") }), 1)
	require.NotEmpty(t, slices.DeleteFunc(warned(), func(line string) bool { return !strings.Contains(line, "ipv6") }))
	require.Contains(t, s.succeed(t, "status"), "warning     forwarding is off")
	metrics := labtest.Exec(t, top.Host, "curl", "--silent", "--fail", "--max-time", "10", "http://127.0.0.1:9100/metrics")
	require.NotContains(t, metrics, "\nnftnat_warnings 0\n")
	on, err := top.Host.ReadSysctl("net.ipv4.ip_forward")
	require.NoError(t, err)
	require.Equal(t, "0", on)
	require.NoError(t, top.SetForwarding(true))
	require.NoError(t, top.Host.Sysctl("net.ipv4.conf.lan0.forwarding", "0"))
	require.Equal(t, api.ForwardingPartly, s.status(t).Forwarding.IPv4)
	require.Equal(t, []string{"forwarding is off, and what it keeps back does not reach backends: net/ipv4/conf/lan0/forwarding is 0"}, warned())
}

// An interface that comes later, is made anew, or gets its first address later, forwards as
// those that were there before, both ways.
func TestForwardingOfNewLinks(t *testing.T) {
	top, s := proxiedHost(t)
	s.serve(t)
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	s.succeed(t, "add --quiet tcp [::]:8081 [fd00:30::2]:80")
	client := labtest.NewNS(t, "uplink")
	ip := func(ns *lab.NS, line string) { labtest.Exec(t, ns, "ip", strings.Fields(line)...) }
	for _, name := range []string{"new", "anew"} {
		require.NoError(t, lab.Wire(lab.End{NS: top.Host, Link: "up0"}, lab.End{NS: client, Link: "up0"}))
		// Managers of networks set it for each interface.
		require.NoError(t, top.Host.Sysctl("net.ipv4.conf.up0.forwarding", "0"))
		ip(top.Host, "addr add 203.0.113.1/24 dev up0")
		ip(client, "addr add 203.0.113.2/24 dev up0")
		ip(top.Host, "addr add 2001:db8:9::1/64 dev up0 nodad")
		ip(client, "addr add 2001:db8:9::2/64 dev up0 nodad")
		await(t, "clients of a "+name+" link", func() bool {
			on, err := top.Host.ReadSysctl("net.ipv4.conf.up0.forwarding")
			return err == nil && on == "1"
		})
		labtest.Reaches(t, client, "tcp", "203.0.113.1:8080", "backend")
		if _, err := top.Host.ReadSysctl("net.ipv6.conf.up0.force_forwarding"); err == nil {
			await(t, "IPv6 clients of a "+name+" link", func() bool {
				on, err := top.Host.ReadSysctl("net.ipv6.conf.up0.force_forwarding")
				return err == nil && on == "1"
			})
		}
		labtest.Reaches(t, client, "tcp", "[2001:db8:9::1]:8081", "backend")
		ip(top.Host, "link del up0")
	}
}

// An uplink with no other address than a link-local one, as of a provider that delegates a
// prefix, forwards as others do.
func TestForwardingOfUnnumberedLinks(t *testing.T) {
	top, s := proxiedHost(t)
	s.serve(t)
	s.succeed(t, "add --quiet tcp [::]:8081 [fd00:30::2]:80")
	provider := labtest.NewNS(t, "provider")
	require.NoError(t, lab.Wire(lab.End{NS: top.Host, Link: "up0"}, lab.End{NS: provider, Link: "up0"}))
	ip := func(ns *lab.NS, line string) { labtest.Exec(t, ns, "ip", strings.Fields(line)...) }
	ip(top.Host, "addr add fe80::1/64 dev up0 nodad")
	ip(provider, "addr add fe80::2/64 dev up0 nodad")
	ip(provider, "addr add 2001:db8:9::9/128 dev lo nodad") // a tentative address is no source
	ip(provider, "route add 2001:db8:1::1 via fe80::1 dev up0 src 2001:db8:9::9")
	ip(top.Host, "route add 2001:db8:9::9 via fe80::2 dev up0")
	answers(t, provider, "tcp", "[2001:db8:1::1]:8081")
	require.Empty(t, s.status(t).Warnings)
}
