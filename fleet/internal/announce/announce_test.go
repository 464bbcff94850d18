// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package announce_test

import (
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/fleet/internal/announce"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

var (
	float4 = netip.MustParseAddr("192.0.2.100")
	float6 = netip.MustParseAddr("2001:db8:1::100")
)

// open opens the interface of a machine.
func open(t *testing.T, ns *lab.NS) *announce.Interface {
	t.Helper()
	var i *announce.Interface
	require.NoError(t, ns.Do(func() (err error) { i, err = announce.Open(lab.MachineLink); return err }))
	t.Cleanup(func() { require.NoError(t, i.Close()) })
	return i
}

// mac is the hardware address of a machine.
func mac(t *testing.T, ns *lab.NS) string {
	t.Helper()
	return strings.Fields(labtest.Exec(t, ns, "ip", "-br", "link", "show", lab.MachineLink))[2]
}

// neighbour is what a machine has in its table for an address: STATE and hardware address.
func neighbour(t *testing.T, ns *lab.NS, a netip.Addr) string {
	t.Helper()
	return labtest.Exec(t, ns, "ip", "neigh", "show", "to", a.String(), "dev", lab.MachineLink)
}

// An address moves from one machine to another, and the client's table follows the
// announcement, whatever state its entry is in.
func TestMove(t *testing.T) {
	labtest.LeakCheck(t)
	lan := labtest.NewLAN(t)
	client := labtest.AddMachine(t, lan, "client", 2)
	one, two := labtest.AddMachine(t, lan, "one", 11), labtest.AddMachine(t, lan, "two", 12)
	machines := []*lab.NS{one, two}
	for _, ns := range machines {
		labtest.EchoTCP(t, ns, ns.Name(), ":7000")
	}
	links := []*announce.Interface{open(t, one), open(t, two)}
	for _, a := range []netip.Addr{float4, float6} {
		addr := netip.AddrPortFrom(a, 7000).String()
		require.NoError(t, links[0].Set(a, 30*time.Second))
		labtest.Reaches(t, client, "tcp", addr, "one") // at once: no duplicate address detection
		for turn := 1; turn < 5; turn++ {
			from, to := links[(turn-1)%2], links[turn%2]
			if turn > 2 {
				labtest.Exec(t, client, "ip", "neigh", "change", a.String(), "lladdr", mac(t, machines[(turn-1)%2]), "nud", "stale", "dev", lab.MachineLink)
			}
			require.NoError(t, to.Set(a, 30*time.Second))
			require.NoError(t, to.Announce(a))
			require.NoError(t, from.Delete(a))
			want := mac(t, machines[turn%2])
			require.Eventually(t, func() bool { return strings.Contains(neighbour(t, client, a), want) },
				labtest.Stretch(5*time.Second), 5*time.Millisecond, "the client's entry: %s, not %s", neighbour(t, client, a), want)
			labtest.Reaches(t, client, "tcp", addr, machines[turn%2].Name())
		}
	}
}

// What an announcement is, read by tcpdump(8), which checks its checksums as well.
func TestAnnouncement(t *testing.T) {
	lan := labtest.NewLAN(t)
	client, one := labtest.AddMachine(t, lan, "client", 2), labtest.AddMachine(t, lan, "one", 11)
	i := open(t, one)
	dump := labtest.Start(t, client, "tcpdump", "-i", lab.MachineLink, "-nevvl", "--immediate-mode", "arp or icmp6")
	shown := func(parts ...string) {
		t.Helper()
		require.Eventually(t, func() bool {
			require.NoError(t, i.Announce(float4))
			require.NoError(t, i.Announce(float6))
			for _, part := range parts {
				if !strings.Contains(dump.Output(), part) {
					return false
				}
			}
			return true
		}, labtest.Stretch(10*time.Second), 50*time.Millisecond, "tcpdump does not show %q:\n%s", parts, dump.Output())
	}
	shown(mac(t, one)+" > ff:ff:ff:ff:ff:ff, ethertype ARP", "Request who-has 192.0.2.100 tell 192.0.2.100")
	shown(mac(t, one)+" > 33:33:00:00:00:01, ethertype IPv6", "hlim 255",
		"2001:db8:1::100 > ff02::1: [icmp6 sum ok] ICMP6, neighbor advertisement",
		"tgt is 2001:db8:1::100, Flags [override]", "destination link-address option (2), length 8 (1): "+mac(t, one))
	require.NoError(t, one.Sysctl("net.ipv6.conf.eth0.forwarding", "1"))
	require.NoError(t, one.Do(func() error { return i.Announce(float6) }))
	require.Eventually(t, func() bool { return strings.Contains(dump.Output(), "Flags [router, override]") }, labtest.Stretch(10*time.Second), 20*time.Millisecond, dump.Output)
}

// The kernel ends the address by itself; until then it can be given more time, with no moment
// without it.
func TestLife(t *testing.T) {
	lan := labtest.NewLAN(t)
	one := labtest.AddMachine(t, lan, "one", 11)
	i := open(t, one)
	addrs := []netip.Addr{float4, float6}
	events := labtest.Start(t, one, "ip", "-o", "monitor", "address")
	require.Eventually(t, func() bool { // it listens
		require.NoError(t, i.Set(float4, 30*time.Second))
		return strings.Contains(events.Output(), "192.0.2.100")
	}, labtest.Stretch(10*time.Second), 20*time.Millisecond)
	for range 4 {
		for _, a := range addrs {
			require.NoError(t, i.Set(a, 2900*time.Millisecond))
			ours, err := i.Check(a)
			require.NoError(t, err)
			require.True(t, ours)
		}
		time.Sleep(500 * time.Millisecond)
	}
	require.NotContains(t, events.Output(), "Deleted")
	shown := labtest.Exec(t, one, "ip", "-o", "addr")
	require.Contains(t, shown, "192.0.2.100/32")
	require.Contains(t, shown, "2001:db8:1::100/128")
	require.NotContains(t, labtest.Exec(t, one, "ip", "-6", "route", "show"), "2001:db8:1::100")
	last := time.Now()
	require.NoError(t, i.Set(float4, 2*time.Second))
	require.NoError(t, i.Set(float6, 2*time.Second))
	for _, a := range addrs {
		require.Eventually(t, func() bool { ours, err := i.Check(a); return err == nil && !ours }, labtest.Stretch(10*time.Second), 5*time.Millisecond)
	}
	t.Logf("an address of 2 s went after %v", time.Since(last).Round(time.Millisecond))
	require.Greater(t, time.Since(last), 1900*time.Millisecond)

	// Less than a second is none at all.
	require.NoError(t, i.Set(float4, 2*time.Second))
	require.NoError(t, i.Set(float4, 999*time.Millisecond))
	ours, err := i.Check(float4)
	require.NoError(t, err)
	require.False(t, ours)
	require.NoError(t, i.Delete(float4))
}

// What the host sends by itself does not come from a floating address of IPv6, though that has
// the longest prefix.
func TestSource(t *testing.T) {
	lan := labtest.NewLAN(t)
	one, two := labtest.AddMachine(t, lan, "one", 11), labtest.AddMachine(t, lan, "two", 12)
	labtest.EchoTCP(t, two, "two", ":7000")
	i := open(t, one)
	for _, a := range []netip.Addr{float4, float6} {
		require.NoError(t, i.Set(a, 30*time.Second))
	}
	require.Equal(t, one.V4, labtest.Reaches(t, one, "tcp", netip.AddrPortFrom(two.V4, 7000).String(), "two").Addr())
	require.Equal(t, one.V6, labtest.Reaches(t, one, "tcp", netip.AddrPortFrom(two.V6, 7000).String(), "two").Addr())
}

// Addresses of others stay as they are.
func TestForeign(t *testing.T) {
	lan := labtest.NewLAN(t)
	one := labtest.AddMachine(t, lan, "one", 11)
	i := open(t, one)
	for _, add := range [][]string{
		{"192.0.2.100/24", "2001:db8:1::100/64"},
		{"192.0.2.100/32", "2001:db8:1::100/128"},
		{"192.0.2.100/24", "2001:db8:1::100/64", "valid_lft", "3600", "preferred_lft", "3600"}, // of a DHCP client
	} {
		for k, a := range []netip.Addr{float4, float6} {
			labtest.Exec(t, one, "ip", append([]string{"addr", "add", add[k], "dev", lab.MachineLink}, add[2:]...)...)
			_, err := i.Check(a)
			require.ErrorIs(t, err, announce.ErrForeign)
			require.NoError(t, i.Delete(a))
			require.Contains(t, labtest.Exec(t, one, "ip", "-o", "addr"), add[k])
			labtest.Exec(t, one, "ip", "addr", "del", add[k], "dev", lab.MachineLink)
		}
	}
	ours, err := i.Check(float4)
	require.NoError(t, err)
	require.False(t, ours)
	// One that came to ours stays when ours goes.
	labtest.Exec(t, one, "ip", "addr", "add", "192.0.2.100/24", "dev", lab.MachineLink)
	require.NoError(t, i.Set(float4, 30*time.Second))
	require.NoError(t, i.Delete(float4))
	shown := labtest.Exec(t, one, "ip", "-o", "addr")
	require.Contains(t, shown, "192.0.2.100/24")
	require.NotContains(t, shown, "192.0.2.100/32")
}

func TestNoInterface(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	err := ns.Do(func() error { _, err := announce.Open("eth7"); return err })
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "eth7")
	var lo *announce.Interface
	require.NoError(t, ns.Do(func() (err error) { lo, err = announce.Open("lo"); return err }))
	require.ErrorContains(t, lo.Announce(float4), "not Ethernet")
	require.NoError(t, lo.Close())
	// One that is replaced is found again.
	labtest.Exec(t, ns, "ip", "link", "add", "d0", "type", "veth")
	var d *announce.Interface
	require.NoError(t, ns.Do(func() (err error) { d, err = announce.Open("d0"); return err }))
	labtest.Exec(t, ns, "ip", "link", "del", "d0")
	require.ErrorIs(t, d.Set(float4, 5*time.Second), fs.ErrNotExist)
	labtest.Exec(t, ns, "ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	require.ErrorIs(t, d.Set(float4, 5*time.Second), announce.ErrDown)
	labtest.Exec(t, ns, "ip", "link", "set", "d0", "up")
	require.ErrorIs(t, d.Set(float4, 5*time.Second), announce.ErrDown)
	labtest.Exec(t, ns, "ip", "link", "set", "d1", "up")
	require.Eventually(t, func() bool { return d.Set(float4, 5*time.Second) == nil }, labtest.Stretch(10*time.Second), time.Millisecond) // the kernel sees a carrier later
	require.NoError(t, d.Delete(float4))
	require.NoError(t, d.Close())
	require.ErrorContains(t, d.Set(float4, 5*time.Second), "closed")
}
