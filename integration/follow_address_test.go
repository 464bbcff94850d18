// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// floating are addresses that come to the host and go, with the prefix and a backend.
var floating = []struct{ addr, bits, backend string }{
	{"192.0.2.77", "/24", "172.30.0.2"}, {"2001:db8:1::77", "/64", "fd00:30::2"},
}

// move adds an address to the host's LAN interface, or deletes it.
func move(t *testing.T, ns *lab.NS, how, addr string) {
	t.Helper()
	args := []string{"addr", how, addr, "dev", lab.HostLAN}
	if how == "add" && strings.Contains(addr, ":") {
		args = append(args, "nodad")
	}
	labtest.Exec(t, ns, "ip", args...)
}

// answers waits until a mapping answers a client's new connections.
func answers(t *testing.T, ns *lab.NS, network, address string) {
	t.Helper()
	await(t, network+" "+address, func() bool {
		name, _, err := lab.Ask(context.Background(), ns, network, address, netip.AddrPort{})
		return err == nil && name == "backend"
	})
}

// A frontend's address need not be on the host: the mapping is published with a notice, by
// every command, the status says what waits, and it works when the address comes, by
// netfilter and by proxies. When it goes, what was connected ends.
func TestAbsentAddress(t *testing.T) {
	top, s := proxiedHost(t)
	s.serve(t)
	events := s.follow(t)
	for _, f := range floating {
		host := netip.MustParseAddr(f.addr)
		for _, proto := range []string{"tcp", "udp"} {
			r := s.run(t, "add "+proto+" "+at(host, 8080)+" "+at(netip.MustParseAddr(f.backend), 80))
			require.Zero(t, r.Code, r.Stderr)
			require.Contains(t, r.Stderr, "no address of this host yet")
			require.Contains(t, r.Stderr, f.addr)
		}
	}
	// Between families, proxies alone serve them.
	s.succeed(t, "add --quiet tcp 192.0.2.77:8081 [fd00:30::2]:80")
	s.succeed(t, "add --quiet udp [2001:db8:1::77]:8081 172.30.0.2:80")
	st := s.status(t)
	require.Equal(t, []string{
		"192.0.2.77 is no address of this host: 3 published ports wait for it",
		"2001:db8:1::77 is no address of this host: 3 published ports wait for it",
	}, st.Warnings)
	for _, f := range floating {
		host := netip.MustParseAddr(f.addr)
		for range 2 {
			move(t, top.Host, "add", f.addr+f.bits)
			for _, proto := range []string{"tcp", "udp"} {
				answers(t, top.Client, proto, at(host, 8080))
			}
			proxied := "tcp"
			if host.Is6() {
				proxied = "udp"
			}
			answers(t, top.Client, proxied, at(host, 8081))
			await(t, "the event", func() bool { return toldBy(events(), f.addr+" is an address of this host now") })

			tcp, udp := dialFlow(t, top.Client, "tcp", at(host, 8080)), dialFlow(t, top.Client, "udp", at(host, 8080))
			local := dialFlow(t, top.Host, "tcp", at(host, 8080))
			other := dialFlow(t, top.Client, proxied, at(host, 8081))
			for _, flow := range []*flow{tcp, udp, local, other} {
				require.Equal(t, "backend", flow.name(t))
			}
			move(t, top.Host, "del", f.addr+f.bits)
			await(t, "the end of flows", func() bool { return translatedTo(t, top.Host, host) == 0 })
			await(t, "the end of proxied flows", func() bool {
				flows := s.status(t).Flows
				return flows.TCP+flows.UDP == 0
			})
			await(t, "the event", func() bool { return toldBy(events(), f.addr+" is no address of this host any more") })
		}
	}
	require.Len(t, s.status(t).Warnings, 2)
}

// translatedTo counts the flows that were begun to an address and lead to a backend.
func translatedTo(t *testing.T, ns *lab.NS, to netip.Addr) int {
	t.Helper()
	family := "ipv4"
	if to.Is6() {
		family = "ipv6"
	}
	list := labtest.Exec(t, ns, "conntrack", "-L", "-f", family, "-d", to.String())
	n := 0
	for line := range strings.Lines(list) {
		if strings.Contains(line, "dport=8080") && (strings.Contains(line, "src=172.30.0.2") || strings.Contains(line, "src=fd00:30::2")) {
			n++
		}
	}
	return n
}

// What is restored, applied or attached may have an absent address too.
func TestAbsentAddressOfEveryVerb(t *testing.T) {
	top, s := proxiedHost(t)
	file := t.TempDir() + "/state"
	daemon := s.serve(t, "--state", file)
	s.succeed(t, "network create inside 172.30.0.0/24 --gateway 172.30.0.1")
	r := s.run(t, "attach web --network inside --ip 172.30.0.2 -p 192.0.2.77:80:80")
	require.Zero(t, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "no address of this host yet")
	s.succeed(t, "add --quiet tcp 192.0.2.78:80 172.30.0.2:80")
	r = s.run(t, "add --replace tcp 192.0.2.78:80 172.30.0.2:81")
	require.Zero(t, r.Code, r.Stderr)
	s.succeed(t, "add --quiet --replace tcp 192.0.2.78:80 172.30.0.2:80")
	state := s.export(t)
	require.Contains(t, state, "192.0.2.77:80:80")
	s.reboot(t, daemon)
	s.serve(t, "--state", file)
	require.Equal(t, state, s.export(t))
	require.Len(t, s.status(t).Warnings, 2)
	for _, addr := range []string{"192.0.2.77", "192.0.2.78"} {
		move(t, top.Host, "add", addr+"/24")
		answers(t, top.Client, "tcp", addr+":80")
	}
	require.Empty(t, s.status(t).Warnings)
	require.Equal(t, api.ForwardingOn, s.status(t).Forwarding.IPv4)
}

// A UDP flow that began while the address was elsewhere follows the mapping when the address
// has come, as a client that never pauses needs. An address may also come by a route (AnyIP).
func TestFlowsBegunWithoutAddress(t *testing.T) {
	top, s := proxiedHost(t)
	s.serve(t)
	s.succeed(t, "add --quiet udp 8080 172.30.0.2:80")
	s.succeed(t, "add --quiet --no-proxy udp 192.0.2.77:8081 172.30.0.2:80")
	s.succeed(t, "add --quiet udp [2001:db8:1::77]:8082 [fd00:30::2]:80")
	s.succeed(t, "add --quiet udp 203.0.113.9:8083 172.30.0.2:80")
	mac := strings.Fields(labtest.Exec(t, top.Host, "ip", "-br", "link", "show", lab.HostLAN))[2]
	// Elsewhere is behind the client.
	labtest.Exec(t, top.Host, "ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.2")
	for address, added := range map[string]string{
		"192.0.2.77:8080": "addr %s 192.0.2.77/24 dev lan0", "192.0.2.77:8081": "addr %s 192.0.2.77/24 dev lan0",
		"[2001:db8:1::77]:8082": "-6 addr %s 2001:db8:1::77/64 dev lan0 nodad",
		"203.0.113.9:8083":      "route %s local 203.0.113.9/32 dev lo",
	} {
		to := netip.MustParseAddrPort(address)
		if !strings.HasPrefix(added, "route") {
			labtest.Exec(t, top.Client, "ip", "neigh", "replace", to.Addr().String(), "lladdr", mac, "dev", lab.MachineLink)
		}
		f := dialFlow(t, top.Client, "udp", address)
		for range 3 {
			_, err := f.conn.Write([]byte("hello"))
			_ = err // ICMP errors of the ones before
		}
		how := func(verb string) { labtest.Exec(t, top.Host, "ip", strings.Fields(fmt.Sprintf(added, verb))...) }
		how("add")
		await(t, address, func() bool { return f.askBriefly() == "backend" })
		how("del")
	}
}

// A renewed address (DHCP, router advertisements) has not come: nothing is said, and its flows
// are left alone.
func TestAddressIsRenewed(t *testing.T) {
	top, s := proxiedHost(t)
	s.serve(t)
	events := s.follow(t)
	told := func(addr string) (n int) {
		for _, ev := range events() {
			if strings.HasPrefix(ev.Message, addr+" is") {
				n++
			}
		}
		return n
	}
	for n, f := range floating {
		host := at(netip.MustParseAddr(f.addr), 8080)
		s.succeed(t, "add --quiet udp "+host+" "+at(netip.MustParseAddr(f.backend), 80))
		move(t, top.Host, "add", f.addr+f.bits)
		await(t, "the event", func() bool { return told(f.addr) == 1 })
		flow := dialFlow(t, top.Client, "udp", host)
		require.Equal(t, "backend", flow.name(t))
		for range 3 {
			labtest.Exec(t, top.Host, "ip", "addr", "change", f.addr+f.bits, "dev", lab.HostLAN, "nodad", "valid_lft", "100", "preferred_lft", "100")
		}
		later := fmt.Sprintf("203.0.113.%d", n+1)
		s.succeed(t, "add --quiet tcp "+later+":80 172.30.0.2:80")
		move(t, top.Host, "add", later+"/32")
		await(t, "a later address", func() bool { return told(later) == 1 })
		require.Equal(t, 1, told(f.addr))
		require.Equal(t, "backend", flow.name(t))
	}
}

// askBriefly asks by a UDP flow, and returns the name of the server that answers within a
// fifth of a second; "": none.
func (f *flow) askBriefly() string {
	buf := make([]byte, 512)
	if f.conn.SetDeadline(time.Now().Add(200*time.Millisecond)) != nil {
		return ""
	}
	if _, err := f.conn.Write([]byte("hello\n")); err != nil {
		return ""
	}
	n, err := f.conn.Read(buf)
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(string(buf[:n]), " ")
	return name
}
