// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// TestFib: fib expressions have the results that the kernel's have, by the counters of rules, whatever
// the way back to the source is.
func TestFib(t *testing.T) {
	router, client := labtest.NewNS(t, "router"), labtest.NewNS(t, "client")
	shell := func(ns *lab.NS, commands ...string) {
		for _, c := range commands {
			args := strings.Fields(c)
			labtest.Exec(t, ns, args[0], args[1:]...)
		}
	}
	shell(router,
		"ip link add eth0 type veth peer name e0 netns "+client.Path(), "ip link add eth1 type veth peer name e1 netns "+client.Path(), "ip link set lo up",
		"ip link set eth0 up", "ip link set eth1 up", "ip addr add 192.0.2.1/24 dev eth0", "ip addr add 2001:db8::1/64 dev eth0 nodad",
		"ip addr add 198.51.100.1/24 dev eth1", "ip addr add 2001:db8:1::1/64 dev eth1 nodad",
	)
	shell(client, "ip link set e0 up", "ip link set e1 up", "ip addr add 192.0.2.2/24 dev e0", "ip addr add 2001:db8::2/64 dev e0 nodad",
		"ip addr add 203.0.113.2/32 dev e0", "ip addr add 2001:db8:2::2/128 dev e0 nodad")
	const dev0, dev1 = `"eth0"`, `"eth1"`
	expressions := []struct {
		text          string
		flags, result uint32
		want          string
	}{
		{"fib saddr . iif oif missing", unix.NFTA_FIB_F_SADDR | unix.NFTA_FIB_F_IIF, unix.NFT_FIB_RESULT_OIF, ""},
		{"fib saddr . iif oif exists", unix.NFTA_FIB_F_SADDR | unix.NFTA_FIB_F_IIF | unix.NFTA_FIB_F_PRESENT, unix.NFT_FIB_RESULT_OIF, "+"},
		{"fib saddr . iif oifname " + dev0, unix.NFTA_FIB_F_SADDR | unix.NFTA_FIB_F_IIF, unix.NFT_FIB_RESULT_OIFNAME, "eth0"},
		{"fib saddr oif " + dev0, unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_OIF, "eth0"},
		{"fib saddr oif " + dev1, unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_OIF, "eth1"},
		{"fib saddr oif missing", unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_OIF, ""},
		{"fib daddr . iif oif exists", unix.NFTA_FIB_F_DADDR | unix.NFTA_FIB_F_IIF | unix.NFTA_FIB_F_PRESENT, unix.NFT_FIB_RESULT_OIF, "+"},
		{"fib saddr type unicast", unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_ADDRTYPE, "unicast"},
		{"fib saddr type local", unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_ADDRTYPE, "local"},
		{"fib saddr . iif type unicast", unix.NFTA_FIB_F_SADDR | unix.NFTA_FIB_F_IIF, unix.NFT_FIB_RESULT_ADDRTYPE, "unicast"},
		{"fib saddr type blackhole", unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_ADDRTYPE, "blackhole"},
		{"fib saddr type unreachable", unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_ADDRTYPE, "unreachable"},
		{"fib saddr type prohibit", unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_ADDRTYPE, "prohibit"},
		{"fib daddr type local", unix.NFTA_FIB_F_DADDR, unix.NFT_FIB_RESULT_ADDRTYPE, "local"},
		{"fib daddr . iif type local", unix.NFTA_FIB_F_DADDR | unix.NFTA_FIB_F_IIF, unix.NFT_FIB_RESULT_ADDRTYPE, "local"},
	}
	f, err := os.Open(router.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	types := map[string]uint32{
		"unicast": unix.RTN_UNICAST, "local": unix.RTN_LOCAL, "blackhole": unix.RTN_BLACKHOLE, "prohibit": unix.RTN_PROHIBIT, "unreachable": unix.RTN_UNREACHABLE,
	}
	counter := regexp.MustCompile(`packets (\d+)`)
	for _, test := range []struct{ name, from4, from6, setup, undo string }{
		{"by the same link", "192.0.2.2", "2001:db8::2", "", ""},
		{"by another link", "192.0.2.2", "2001:db8::2",
			"ip route add 192.0.2.2/32 dev eth1; ip -6 route add 2001:db8::2/128 dev eth1",
			"ip route del 192.0.2.2/32 dev eth1; ip -6 route del 2001:db8::2/128 dev eth1"},
		{"none", "203.0.113.2", "2001:db8:2::2", "", ""},
		{"blackhole", "203.0.113.2", "2001:db8:2::2", "ip route add blackhole 203.0.113.0/24; ip -6 route add blackhole 2001:db8:2::/64",
			"ip route del blackhole 203.0.113.0/24; ip -6 route del blackhole 2001:db8:2::/64"},
		{"prohibit", "203.0.113.2", "2001:db8:2::2", "ip route add prohibit 203.0.113.0/24; ip -6 route add prohibit 2001:db8:2::/64",
			"ip route del prohibit 203.0.113.0/24; ip -6 route del prohibit 2001:db8:2::/64"},
		{"unreachable", "203.0.113.2", "2001:db8:2::2", "ip rule add to 203.0.113.0/24 unreachable; ip -6 rule add to 2001:db8:2::/64 unreachable",
			"ip rule del to 203.0.113.0/24; ip -6 rule del to 2001:db8:2::/64"},
		{"blackhole by a rule", "203.0.113.2", "2001:db8:2::2", "ip rule add to 203.0.113.0/24 blackhole; ip -6 rule add to 2001:db8:2::/64 blackhole",
			"ip rule del to 203.0.113.0/24; ip -6 rule del to 2001:db8:2::/64"},
		{"two links", "203.0.113.2", "2001:db8:2::2",
			"ip route add 203.0.113.0/24 nexthop via 192.0.2.2 nexthop via 198.51.100.2",
			"ip route del 203.0.113.0/24"},
		{"worse by the same link", "192.0.2.2", "2001:db8::2",
			"ip route add 192.0.2.0/25 dev eth1; ip -6 route add 2001:db8::/96 dev eth1",
			"ip route del 192.0.2.0/25 dev eth1; ip -6 route del 2001:db8::/96 dev eth1"},
	} {
		run := func(commands string) {
			for c := range strings.SplitSeq(commands, "; ") {
				if c != "" {
					shell(router, c)
				}
			}
		}
		run(test.setup)
		for family, pair := range map[string][2]string{"ip": {test.from4, "192.0.2.1"}, "ip6": {test.from6, "2001:db8::1"}} {
			var b strings.Builder
			b.WriteString("table " + family + " t {\n chain c {\n type filter hook prerouting priority -300\n")
			b.WriteString("  meta l4proto != udp return\n  udp dport != 9 return\n")
			for _, e := range expressions {
				b.WriteString("  " + e.text + " counter\n")
			}
			b.WriteString(" }\n}\n")
			labtest.ExecInput(t, router, b.String(), "nft", "-f", "-")
			src, dst := netip.MustParseAddr(pair[0]), netip.MustParseAddr(pair[1])
			require.NoError(t, client.Do(func() error {
				c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 9)))
				if err != nil {
					return err
				}
				_, err = c.Write([]byte("x"))
				return errors.Join(err, c.Close())
			}))
			var got [][]string
			for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
				got = counter.FindAllStringSubmatch(labtest.Exec(t, router, "nft", "list", "chain", family, "t", "c"), -1)
				require.Len(t, got, len(expressions))
				if got[len(got)-1][1] != "0" {
					break
				}
				require.True(t, time.Now().Before(end), "no packet")
			}
			labtest.Exec(t, router, "nft", "delete", "table", family, "t")

			h, err := host.Open(int(f.Fd()))
			require.NoError(t, err)
			in := index(t, router, "eth0")
			p := &eval.Packet{
				EtherType: unix.ETH_P_IP, Src: src, Dst: dst, Proto: unix.IPPROTO_UDP,
				In: eval.Interface{Index: in, Name: "eth0", Type: unix.ARPHRD_ETHER},
			}
			for i, e := range expressions {
				data, err := fib(hostFacts{Host: h, more: new([]string)}, p, unix.NF_INET_PRE_ROUTING, e.flags, e.result)
				require.NoError(t, err)
				holds := false
				switch {
				case e.want == "+":
					holds = data[0] == 1
				case e.result == unix.NFT_FIB_RESULT_ADDRTYPE:
					holds = binary.NativeEndian.Uint32(data) == types[e.want]
				case e.result == unix.NFT_FIB_RESULT_OIFNAME:
					holds = unix.ByteSliceToString(data) == e.want
				case e.want == "":
					holds = binary.NativeEndian.Uint32(data) == 0
				default:
					holds = int(binary.NativeEndian.Uint32(data)) == index(t, router, e.want)
				}
				if holds != (got[i][1] != "0") {
					t.Errorf("%s, %s: %s: %v, and the rule counted %s", test.name, family, e.text, holds, got[i][1])
				}
			}
			require.NoError(t, h.Close())
		}
		run(test.undo)
	}
}

// index is the number of an interface.
func index(t *testing.T, ns *lab.NS, name string) (n int) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		l, err := net.InterfaceByName(name)
		if err == nil {
			n = l.Index
		}
		return err
	}))
	return n
}
