// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// exchange sends a datagram and returns the name of the server that answers.
func exchange(t *testing.T, conn net.Conn) string {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err := conn.Write([]byte("?"))
	require.NoError(t, err)
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	require.NoError(t, err)
	name, _, _ := strings.Cut(string(buf[:n]), " ")
	return name
}

// connect returns a client's socket.
func connect(t *testing.T, ns *lab.NS, network, local, remote string) net.Conn {
	t.Helper()
	conn, err := ns.DialFrom(t.Context(), network, remote, netip.MustParseAddrPort(local))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

const dnatRules = `
table inet test {
	chain output {
		type nat hook output priority -100
		ip daddr 192.0.2.1 udp dport 53 dnat ip to 192.0.2.2:5353
		ip6 daddr 2001:db8::1 tcp dport 80 dnat ip6 to [2001:db8::2]:8080
	}
	chain input {
		type filter hook input priority 0
		ct state new accept
	}
}`

// Real flows of either family, with and without NAT, look to this package as
// they do to conntrack(8); others beside them do no harm.
func TestEachRealFlows(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	addresses(t, ns)
	labtest.ExecInput(t, ns, dnatRules, "nft", "-f", "-")
	c := dial(t, ns)

	labtest.EchoUDP(t, ns, "backend", "192.0.2.2:5353")
	labtest.EchoUDP(t, ns, "plain", "192.0.2.3:53")
	labtest.EchoTCP(t, ns, "web", "[2001:db8::2]:8080")
	require.Equal(t, "backend", exchange(t, connect(t, ns, "udp", "192.0.2.9:4000", "192.0.2.1:53")))
	require.Equal(t, "plain", exchange(t, connect(t, ns, "udp", "192.0.2.9:4001", "192.0.2.3:53")))
	silent := connect(t, ns, "udp", "[2001:db8::9]:4002", "[2001:db8::2]:9")
	_, err := silent.Write([]byte("unanswered"))
	require.NoError(t, err)
	require.Equal(t, "web", exchange(t, connect(t, ns, "tcp", "[2001:db8::9]:4003", "[2001:db8::1]:80")))
	ping(t, ns, "192.0.2.2")

	want := []string{
		"tcp [2001:db8::9]:4003->[2001:db8::1]:80, reply [2001:db8::2]:8080->[2001:db8::9]:4003",
		"udp 192.0.2.9:4000->192.0.2.1:53, reply 192.0.2.2:5353->192.0.2.9:4000",
		"udp 192.0.2.9:4001->192.0.2.3:53, reply 192.0.2.3:53->192.0.2.9:4001",
		"udp [2001:db8::9]:4002->[2001:db8::2]:9, reply [2001:db8::2]:9->[2001:db8::9]:4002",
	}
	// A list of the kernel may miss an entry while its table grows: conntrack(8) is asked again. A flow that
	// nobody answers may also have gone to make room.
	for i := 0; i < 50 && !slices.Equal(want, oracle(t, ns)); i++ {
		time.Sleep(20 * time.Millisecond)
		_, _ = silent.Write([]byte("unanswered")) // an error is about the one before
	}
	require.Equal(t, want, oracle(t, ns))
	require.Equal(t, want, listed(t, c))

	flows := make(map[uint16]Flow)
	icmp := 0
	require.NoError(t, c.Each(Filter{}, func(f Flow) error {
		switch f.Proto {
		case unix.IPPROTO_ICMP:
			icmp++
		case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
			flows[f.Src.Port()] = f
		}
		return nil
	}))
	require.Equal(t, 1, icmp)
	require.True(t, flows[4000].Status&StatusDNAT != 0 && flows[4000].Status&StatusSeenReply != 0 && flows[4000].Status&StatusSNAT == 0)
	require.True(t, flows[4001].Status&StatusDNAT == 0 && flows[4001].Status&StatusSeenReply != 0)
	require.True(t, flows[4002].Status&StatusDNAT == 0 && flows[4002].Status&StatusSeenReply == 0)
	require.True(t, flows[4003].Status&StatusDNAT != 0 && flows[4003].Status&StatusAssured != 0)

	// The kernel sends the translated ones alone, of either family.
	for _, protos := range [][]uint8{{unix.IPPROTO_TCP, unix.IPPROTO_UDP}, {0}} {
		counter := &entriesOf{socket: c.reader.socket}
		c.reader.socket = counter
		translated := map[uint16]bool{}
		for _, proto := range protos {
			require.NoError(t, c.Each(Filter{Proto: proto, Translated: true}, func(f Flow) error {
				translated[f.Src.Port()] = true
				return nil
			}))
		}
		require.Equal(t, map[uint16]bool{4000: true, 4003: true}, translated)
		require.Equal(t, len(translated), counter.n)
		c.reader.socket = counter.socket
	}

	entries, limit, err := c.Count()
	require.NoError(t, err)
	require.GreaterOrEqual(t, entries, 5)
	require.Positive(t, limit)

	// A filter on a protocol without ports.
	n, err := c.Delete(Filter{Proto: unix.IPPROTO_ICMP, Dst: netip.MustParseAddr("192.0.2.2")}, nil)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, want, oracle(t, ns))
}

// ping leaves an ICMP entry.
func ping(t *testing.T, ns *lab.NS, addr string) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		conn, err := net.Dial("ip4:icmp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte{8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1}) // echo request, RFC 792
		return err
	}))
}

// What the package is for: a flow goes on along the old way until its entry is
// deleted, and then goes the new way, on the same socket.
func TestDeleteMovesFlow(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	addresses(t, ns)
	labtest.ExecInput(t, ns, dnatRules, "nft", "-f", "-")
	c := dial(t, ns)
	labtest.EchoUDP(t, ns, "old", "192.0.2.2:5353")
	labtest.EchoUDP(t, ns, "new", "192.0.2.3:5353")
	conn := connect(t, ns, "udp", "192.0.2.9:4000", "192.0.2.1:53")
	require.Equal(t, "old", exchange(t, conn))
	labtest.ExecInput(t, ns, "flush chain inet test output; add rule inet test output ip daddr 192.0.2.1 udp dport 53 dnat ip to 192.0.2.3:5353", "nft", "-f", "-")
	require.Equal(t, "old", exchange(t, conn))

	backend := netip.MustParseAddrPort("192.0.2.3:5353")
	filter := Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("192.0.2.1"), FirstPort: 53}
	stale := func(f Flow) bool { return f.ReplySrc != backend }
	n, err := c.Delete(filter, stale)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, "new", exchange(t, conn))

	// Now it goes there already, and stays.
	n, err = c.Delete(filter, stale)
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, "new", exchange(t, conn))
}

// Zones hold flows of the same tuple; each is deleted for itself, whether its
// zone is that of both directions or of one.
func TestZones(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	addresses(t, ns)
	labtest.ExecInput(t, ns, `
		table inet test {
			chain output {
				type filter hook output priority -300
				udp sport 4001 ct zone set 5
				udp sport 4002 ct original zone set 6
				udp sport 4003 ct reply zone set 7
			}
			chain input {
				type filter hook input priority 0
				ct state new accept
			}
		}`, "nft", "-f", "-")
	for port := 4000; port <= 4003; port++ {
		_, err := connect(t, ns, "udp", fmt.Sprintf("192.0.2.9:%d", port), "192.0.2.1:9").Write([]byte("?"))
		require.NoError(t, err)
	}
	twin := plain(unix.IPPROTO_UDP, "10.0.0.1:1", "192.0.2.1:9")
	fill(t, ns, 3, func(i int) Flow {
		f := twin
		f.Zone = uint16(5 * i)
		return f
	})
	c := dial(t, ns)
	zones := func() map[string][]uint16 {
		all := make(map[string][]uint16)
		require.NoError(t, c.Each(Filter{}, func(f Flow) error {
			if f.Proto == unix.IPPROTO_UDP {
				all[f.Src.String()] = append(all[f.Src.String()], f.Zone)
			}
			return nil
		}))
		for _, z := range all {
			slices.Sort(z)
		}
		return all
	}
	all := zones()
	require.Equal(t, []uint16{0, 5, 10}, all["10.0.0.1:1"])
	require.Contains(t, all["192.0.2.9:4000"], uint16(0))
	require.Contains(t, all["192.0.2.9:4001"], uint16(5))
	require.Contains(t, all["192.0.2.9:4002"], uint16(6))
	require.Contains(t, all["192.0.2.9:4003"], uint16(0)) // 7 is that of the replies

	filter := Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("192.0.2.1"), FirstPort: 9}
	n, err := c.Delete(filter, func(f Flow) bool { return f.Src == twin.Src && f.Zone == 5 })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, []uint16{0, 10}, zones()["10.0.0.1:1"])

	total, _, err := c.Count()
	require.NoError(t, err)
	n, err = c.Delete(filter, nil)
	require.NoError(t, err)
	require.Equal(t, total, n)
	require.Empty(t, zones())
	require.Empty(t, oracle(t, ns))
}
