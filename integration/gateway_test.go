// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A host on the LAN gets a port of the WAN, by which others reach it, and no restart takes it away.
func TestGateway(t *testing.T) {
	b := newGatewayTestbed(t, lab.HostLAN, "--quota", "2", "--deny", "7000 192.0.2.2 0-65535", "--allow", "1024-65535 192.0.2.0/24 0-65535")
	b.start(t)
	requireConfined(t, b.gateway.Pid)
	labtest.EchoTCP(t, b.one, "console", ":3074")
	c := b.dial(t, b.one)
	wan, _ := c.wan(t)
	require.Equal(t, wanAddress, wan.String())
	result, port := c.tcp(t, 3074, 3075)
	require.Zero(t, result)
	require.EqualValues(t, 3075, port)
	reached := func() {
		t.Helper()
		b.reached(t, "tcp", "3075", "console")
	}
	reached()
	lines := b.succeed(t, "ls")
	require.Contains(t, lines, "pmp")
	lease := b.state(t).Leases
	require.Len(t, lease, 1)
	require.Equal(t, api.GatewayLease{Kind: "pmp", Client: "192.0.2.2", Proto: "tcp", Internal: 3074, External: 3075, Expires: lease[0].Expires}, lease[0])
	require.WithinDuration(t, time.Now().Add(600*time.Second), *lease[0].Expires, 10*time.Second)
	epoch := c.aged(t, 1)

	// Neither a killed gateway nor a killed daemon is seen by clients, but for the wait.
	goesOn := func() {
		t.Helper()
		reached()
		_, now := c.wan(t)
		require.GreaterOrEqual(t, now, epoch)
		require.Less(t, now, epoch+60)
		result, port := c.tcp(t, 3074, 4000)
		require.Zero(t, result)
		require.EqualValues(t, 3075, port, "it is renewed")
		require.Len(t, b.state(t).Leases, 1)
	}
	killed(t, b.gateway)
	b.start(t)
	goesOn()
	killed(t, b.serving)
	b.serving = b.serve(t)
	goesOn()

	// What the rules and the quota do not give is refused, and said why.
	_, port = c.tcp(t, 80, 7000)
	require.NotEqualValues(t, 7000, port)
	result, _ = c.tcp(t, 81, 81)
	require.EqualValues(t, 4, result, "out of resources")
	refusals := b.state(t).Refusals
	require.Len(t, refusals, 1)
	require.Equal(t, "the client has as many leases as it may have", refusals[0].Reason)

	// Others are not answered.
	ignored(t, b.far, wanAddress)
	ignored(t, b.one, wanAddress)
	require.NotEmpty(t, b.state(t).Drops)

	// What the operator has published, and what another host has, is taken.
	b.succeed(t, "add tcp 9000 192.0.2.3:80 --name web")
	n := b.dial(t, b.two)
	_, port = n.tcp(t, 9000, 9000)
	require.NotEqualValues(t, 9000, port)
	_, port = n.tcp(t, 9001, 3075)
	require.NotEqualValues(t, 3075, port)

	// If the table is deleted while no daemon restores it, clients start over.
	killed(t, b.serving)
	b.succeed(t, "--direct purge")
	b.serving = b.serve(t)
	await(t, "the leases to be gone", func() bool { return len(b.state(t).Leases) == 0 })
	result, _ = c.tcp(t, 3074, 3075)
	require.Zero(t, result)
	_, now := c.wan(t)
	require.LessOrEqual(t, now, uint32(2))
	reached()

	b.stop(t)
	reached()
}

// ignored checks that a gateway does not answer at an address.
func ignored(t *testing.T, ns *lab.NS, address string) {
	t.Helper()
	c := dialGateway(t, ns, address, netip.AddrPort{})
	for range 3 {
		_, _ = c.Write([]byte{0, 0}) // refused by ICMP, or not
		require.Nil(t, c.read(t, 100*time.Millisecond))
	}
}

// The WAN may get another address: leases follow it, and clients are told.
func TestGatewayWANChanges(t *testing.T) {
	b := newGatewayTestbed(t, lab.HostLAN)
	b.start(t)
	labtest.EchoTCP(t, b.one, "console", ":3074")
	c := b.dial(t, b.one)
	_, port := c.tcp(t, 3074, 3074)
	require.EqualValues(t, 3074, port)
	c.aged(t, 2)
	ip := func(line string) { labtest.Exec(t, b.ns, "ip", strings.Fields(line)...) }
	ip("addr del " + wanAddress + "/24 dev " + lab.HostFar)
	await(t, "the warning", func() bool { return len(b.state(t).Warnings) != 0 })
	require.Equal(t, []string{"far0 has no IPv4 address: clients get no new ports"}, b.state(t).Warnings)
	result, _ := c.tcp(t, 3075, 3075)
	require.EqualValues(t, 3, result, "network failure")
	result, _ = c.tcp(t, 3074, 3074)
	require.EqualValues(t, 3, result, "what there is stays")
	require.Len(t, b.state(t).Leases, 1)
	ip("addr add 45.0.0.77/24 dev " + lab.HostFar)
	await(t, "the address", func() bool { return b.state(t).Address == "45.0.0.77" })
	wan, now := c.wan(t)
	require.Equal(t, "45.0.0.77", wan.String())
	require.LessOrEqual(t, now, uint32(1))
	labtest.Reaches(t, b.far, "tcp", "45.0.0.77:3074", "console")

	// A private address is served, with a warning.
	ip("addr del 45.0.0.77/24 dev " + lab.HostFar)
	ip("addr add 100.64.7.7/24 dev " + lab.HostFar)
	await(t, "the address", func() bool { return b.state(t).Address == "100.64.7.7" })
	require.Len(t, b.state(t).Warnings, 1)
	require.Contains(t, b.state(t).Warnings[0], "100.64.7.7, is shared by customers of the provider (RFC 6598)")
	result, _ = c.tcp(t, 3076, 3076)
	require.Zero(t, result)
}

// Thousands of leases are renewed at once, and none is lost. A gateway that waits takes little.
func TestGatewayBurst(t *testing.T) {
	t.Parallel() // it waits
	leases := labtest.RoundsOf(t, "NFTNAT_GATEWAY_LEASES", "leases", 2000, 10000)
	b := newGatewayTestbed(t, lab.HostLAN, "--quota", fmt.Sprint(leases))
	b.start(t)
	b.waits(t)

	c := b.dialForMany(t, b.one)
	given := c.pmpAll(t, leases, 600)
	before := b.state(t).Leases
	require.Len(t, before, leases)
	require.Equal(t, given, c.pmpAll(t, leases, 1200))
	after := b.state(t).Leases
	require.Len(t, after, leases)
	for i := range after {
		require.Equal(t, before[i].External, after[i].External)
		require.True(t, after[i].Expires.After(before[i].Expires.Add(500*time.Second)), "%+v", after[i])
	}
	mappings, err := b.api.Mappings(t.Context())
	require.NoError(t, err)
	n := 0
	for _, m := range mappings {
		n += int(m.More) + 1
	}
	require.Equal(t, leases, n)

	killed(t, b.gateway)
	b.start(t)
	require.Len(t, b.state(t).Leases, leases)
	cpu := func() time.Duration {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.gateway.Pid))
		require.NoError(t, err)
		fields := strings.Fields(string(stat[slices.Index(stat, ')'):]))
		var user, system int
		_, err = fmt.Sscan(fields[12]+" "+fields[13], &user, &system)
		require.NoError(t, err)
		return time.Duration(user+system) * 10 * time.Millisecond
	}
	time.Sleep(time.Second)
	used := cpu()
	time.Sleep(2 * time.Second)
	t.Logf("with %d leases it waits with %d KiB, and has used %s in 2 s", leases, b.resident(t), cpu()-used)
	require.LessOrEqual(t, cpu()-used, 10*time.Millisecond)
}

// After requests by each protocol, and while a page asks for the leases, a gateway comes back to what waiting takes.
func TestGatewayMemory(t *testing.T) {
	labtest.LongOnly(t, "what a gateway has resident after requests")
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostBridge)
	b.start(t)
	b.waits(t)
	c := b.dial(t, b.one)
	for port := range uint16(10) {
		result, _ := c.tcp(t, 5000+port, 5000+port)
		require.Zero(t, result)
	}
	b.asks(t, "-a "+c.addr.String()+" 8080 8080 TCP")
	b.asks(t, "-l")
	b.state(t)
	t.Logf("with leases: %d KiB", b.resident(t))
	comes := func(pause func()) {
		t.Helper()
		for began := time.Now(); b.resident(t) > idleKiB; time.Sleep(2 * time.Second) {
			require.Less(t, time.Since(began), 2*time.Minute, "it has %d KiB", b.resident(t))
			pause()
		}
		t.Logf("it waits with %d KiB", b.resident(t))
	}
	comes(func() {})
	b.asks(t, "-l")
	comes(func() { b.state(t) }) // as a page does
}
