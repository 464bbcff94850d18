// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// routingLab is a namespace with three links that have addresses.
func routingLab(t *testing.T) *lab.NS {
	t.Helper()
	ns := labtest.NewNS(t, "routing")
	batch(t, ns, `link set lo up
link add e0 type veth peer name p0
link add e1 type veth peer name p1
link add e2 type veth peer name p2
link set e1 group 7
link set e0 up
link set p0 up
link set e1 up
link set p1 up
link set e2 up
link set p2 up
addr add 10.0.0.1/24 dev e0
addr add 10.0.1.1/24 dev e1
addr add 10.0.2.1/24 dev e2
addr add fd00:0::1/64 dev e0 nodad
addr add fd00:0:0:1::1/64 dev e1 nodad
addr add fd00:0:0:2::1/64 dev e2 nodad
`)
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		require.NoError(t, ns.Sysctl(key, "1"))
	}
	return ns
}

// randomRouting makes commands of ip(8) that add rules and routes.
func randomRouting(r *rand.Rand, is4 bool) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	prefix := func() string { return somePrefix(r, is4).String() }
	link := func() string { return pick("e0", "e1", "e2") }
	via := func() string {
		n := r.IntN(3)
		if is4 {
			return fmt.Sprintf("via 10.0.%d.%d dev e%d", n, 2+r.IntN(3), n)
		}
		return fmt.Sprintf("via fd00:0:0:%d::%d dev e%d", n, 2+r.IntN(3), n)
	}
	nexthops := 0
	for range r.IntN(3) {
		nexthops++
		if r.IntN(4) == 0 {
			line("nexthop add id %d blackhole", nexthops)
		} else {
			line("nexthop add id %d %s", nexthops, via())
		}
	}
	tables := []string{"main", "main", "99", "100", "1000", "default"}
	for range r.IntN(14) {
		to := prefix()
		if r.IntN(5) == 0 {
			to = "default"
		}
		metric := ""
		if r.IntN(2) == 0 {
			metric = fmt.Sprintf(" metric %d", 1+r.IntN(3))
		}
		tail := metric + " table " + tables[r.IntN(len(tables))]
		switch n := r.IntN(12); {
		case n < 4:
			line("route replace %s %s%s", to, via(), tail)
		case n < 5:
			line("route replace %s dev %s%s", to, link(), tail)
		case n < 9:
			line("route replace %s %s%s", pick("blackhole", "unreachable", "prohibit", "throw"), to, tail)
		case n < 10:
			line("route replace %s%s nexthop %s nexthop %s", to, tail, via(), via())
		case n < 11 && is4:
			line("route replace %s tos 0x10 %s%s", to, via(), tail)
		case nexthops > 0:
			line("route replace %s nhid %d%s", to, 1+r.IntN(nexthops), tail)
		}
	}
	priorities := []int{10, 20, 30, 40, 32000, 33000}
	for range r.IntN(7) {
		rule := "rule add"
		word := func(one int, format string, args ...any) {
			if r.IntN(one) == 0 {
				rule += " " + fmt.Sprintf(format, args...)
			}
		}
		word(6, "not")
		word(2, "from %s", prefix())
		word(4, "to %s", prefix())
		word(5, "iif %s", pick("e0", "e1", "lo", "gone"))
		word(8, "oif %s", link())
		word(5, "fwmark %s", pick("1", "0x1/0x1", "0x2/0xff", "0/0x3"))
		word(8, "tos 0x10")
		word(6, "ipproto %s", pick("tcp", "udp"))
		word(6, "dport %s", pick("80", "80-90", "1000"))
		word(9, "sport 5000-6000")
		word(9, "uidrange %s", pick("0-0", "1000-2000"))
		priority := r.IntN(len(priorities) - 1)
		rule += fmt.Sprintf(" priority %d", priorities[priority])
		switch n := r.IntN(12); {
		case n < 7:
			rule += " lookup " + pick("99", "100", "1000", "main", "default", "77")
			word(5, "suppress_prefixlength %d", []int{0, 8, 16, 24, 64}[r.IntN(5)])
			word(9, "suppress_ifgroup 7")
		case n < 8:
			rule += fmt.Sprintf(" goto %d", priorities[priority+1])
		case n < 9:
			rule += " nop"
		default:
			rule += " " + pick("blackhole", "unreachable", "prohibit")
		}
		line("%s", rule)
	}
	return b.String()
}

func someAddr(r *rand.Rand, is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(4)), byte(1 + r.IntN(4))})
	}
	a := [16]byte{0xfd, 15: byte(1 + r.IntN(4))}
	a[5], a[7] = byte(r.IntN(2)), byte(r.IntN(4))
	return netip.AddrFrom16(a)
}

func somePrefix(r *rand.Rand, is4 bool) netip.Prefix {
	bits := []int{0, 8, 15, 16, 22, 23, 24, 31, 32}[r.IntN(9)]
	if !is4 {
		bits = []int{0, 8, 48, 62, 63, 64, 126, 127, 128}[r.IntN(9)]
	}
	return netip.PrefixFrom(someAddr(r, is4), bits).Masked()
}

// What the kernel decides equals what the policy rules and routes say, as they are evaluated here.
func TestRoutesAgree(t *testing.T) {
	sets, queries := labtest.RoundsOf(t, "NFTNAT_ROUTE_SETS", "sets of rules and routes", 50, 200), 25
	for _, is4 := range []bool{true, false} {
		t.Run(fmt.Sprintf("ipv4=%t", is4), func(t *testing.T) {
			t.Parallel()
			family := map[bool]string{true: "-4", false: "-6"}[is4]
			ns := routingLab(t)
			r := rand.New(rand.NewPCG(uint64(sets), 7))
			met := map[string]int{}
			for range sets {
				lines := randomRouting(r, is4)
				cmd := exec.Command(labtest.Tool(t, "ip"), family, "-force", "-batch", "-")
				cmd.Stdin = strings.NewReader(lines)
				labtest.Run(t, ns, cmd) // some lines are refused
				if is4 {
					for _, link := range []string{"e0", "e1", "e2"} {
						conf := "net.ipv4.conf." + link
						require.NoError(t, ns.Sysctl(conf+".rp_filter", []string{"0", "0", "1", "2"}[r.IntN(4)]))
						require.NoError(t, ns.Sysctl(conf+".forwarding", []string{"0", "1", "1", "1"}[r.IntN(4)]))
						require.NoError(t, ns.Sysctl(conf+".accept_local", []string{"0", "0", "1"}[r.IntN(3)]))
						require.NoError(t, ns.Sysctl(conf+".src_valid_mark", []string{"0", "1"}[r.IntN(2)]))
					}
				}
				h := open(t, ns)
				for range queries {
					q := RouteQuery{Dst: someAddr(r, is4), Mark: uint32(r.IntN(4))}
					if r.IntN(2) == 0 {
						q.Proto, q.DstPort, q.SrcPort = unix.IPPROTO_TCP, uint16([]int{80, 85, 1000, 4}[r.IntN(4)]), uint16([]int{5000, 7000}[r.IntN(2)])
					}
					if r.IntN(4) == 0 {
						q.TOS = 0x10
					}
					if r.IntN(3) > 0 {
						q.Src = someAddr(r, is4)
						q.Proto = max(q.Proto, unix.IPPROTO_TCP)
						l, err := h.LinkByName([]string{"e0", "e1", "e2"}[r.IntN(3)])
						require.NoError(t, err)
						q.Iif = l.Index
					} else if r.IntN(4) == 0 {
						q.UID = 1500
					}
					compareRoute(t, h, q, lines, met)
				}
				require.NoError(t, h.Close())
				h.conns = nil
				resetRouting(t, ns, family)
			}
			t.Log(met)
		})
	}
}

func resetRouting(t *testing.T, ns *lab.NS, family string) {
	t.Helper()
	reset := "rule flush\nnexthop flush\nroute flush table 99\nroute flush table 100\nroute flush table 1000\nroute flush table default\n" +
		"rule add priority 32766 lookup main\n"
	if family == "-4" {
		reset += "rule add priority 32767 lookup default\nroute flush table main\n" +
			"route add 10.0.0.0/24 dev e0 src 10.0.0.1 scope link\nroute add 10.0.1.0/24 dev e1 src 10.0.1.1 scope link\nroute add 10.0.2.0/24 dev e2 src 10.0.2.1 scope link\n"
	} else {
		reset += "route flush table main\nroute add fd00:0::/64 dev e0\nroute add fd00:0:0:1::/64 dev e1\nroute add fd00:0:0:2::/64 dev e2\n"
	}
	cmd := exec.Command("ip", family, "-force", "-batch", "-")
	cmd.Stdin = strings.NewReader(reset)
	labtest.Run(t, ns, cmd)
}

func compareRoute(t *testing.T, h *Host, q RouteQuery, lines string, met map[string]int) {
	t.Helper()
	said, err := h.getRoute(q, unix.RTM_F_FIB_MATCH)
	var errno unix.Errno
	if !errors.As(err, &errno) {
		require.NoError(t, err)
	}
	if _, plain := h.getRoute(q, 0); plain == nil && err != nil {
		return // of broadcast and the like there is no entry
	}
	if !q.Dst.Is4() && said != nil && said.Type.error() != 0 {
		errno, said = said.Type.error(), nil
	}
	f, err := h.flowOf(q)
	require.NoError(t, err)
	about := func(d decision) string {
		return fmt.Sprintf("%+v\n%s\nkernel: %v %v\nhere: rule %v errno %v route %+v", q, lines, said, errno, d.rule, d.errno, d.route)
	}
	d, err := h.evaluate(f)
	require.NoError(t, err)
	if d.unknown != nil {
		met["unknown"]++
		return
	}
	if q.Iif != 0 && q.Dst.Is4() && d.errno == 0 {
		fault, err := h.inputCause(q, f)
		require.NoError(t, err)
		if fault != nil && said != nil && len(d.route.Hops) > 1 {
			return // the kernel has chosen another next hop
		}
		require.Equal(t, fault != nil, said == nil, about(d))
		if fault != nil {
			met[string(fault.Kind)]++
			return
		}
	}
	if said == nil {
		met[errno.Error()]++
		want := d.errno
		if q.Iif != 0 && q.Dst.Is4() {
			off, err := h.Forwarding(true, q.Iif)
			require.NoError(t, err)
			if off != nil {
				want = unix.EHOSTUNREACH
			}
		}
		require.Equal(t, want, errno, about(d))
		_, fault, err := h.Lookup(q)
		require.NoError(t, err)
		require.NotNil(t, fault)
		require.NotEqual(t, FaultUnknown, fault.Kind, about(d))
		return
	}
	met[said.Type.String()]++
	require.Zero(t, d.errno, about(d))
	if said.NextHop != 0 && q.Dst.Is6() {
		require.Equal(t, said.NextHop, d.route.NextHop, about(d))
		said = d.route // the kernel names any route that has the object
	}
	require.Equal(t, said.Type, d.route.Type, about(d))
	require.Equal(t, said.Dst, d.route.Dst, about(d))
	require.Equal(t, said.Metric, d.route.Metric, about(d))
	require.ElementsMatch(t, said.Hops, d.route.Hops, about(d))
	if said.Table != unix.RT_TABLE_MAIN && said.Table != unix.RT_TABLE_LOCAL {
		require.Equal(t, said.Table, d.route.Table, about(d))
	}
	route, fault, err := h.Lookup(q)
	require.NoError(t, err)
	require.Nil(t, fault, "%+v", fault)
	require.Equal(t, said.Dst, route.Dst, about(d))
}
