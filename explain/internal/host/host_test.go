// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// hostLab is a host with a bridge, a backend behind it, and a client on another link.
type hostLab struct{ host, backend, client *lab.NS }

func newHostLab(t *testing.T) hostLab {
	t.Helper()
	l := hostLab{labtest.NewNS(t, "host"), labtest.NewNS(t, "backend"), labtest.NewNS(t, "client")}
	veth := func(name string, peer *lab.NS, peerName string) {
		require.NoError(t, l.host.Do(func() error {
			f, err := os.Open(peer.Path())
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			return addVeth(name, peerName, f)
		}))
	}
	veth("vb1", l.backend, "e0")
	veth("eth0", l.client, "e0")
	batch(t, l.host, `link set lo up
link add br0 type bridge
link set vb1 master br0
link set br0 up
link set vb1 up
link set eth0 up
addr add 172.30.0.1/24 dev br0
addr add fd30::1/64 dev br0 nodad
addr add 192.0.2.1/24 dev eth0
`)
	batch(t, l.backend, `link set lo up
link set e0 up
addr add 172.30.0.2/24 dev e0
addr add fd30::2/64 dev e0 nodad
route add default via 172.30.0.1
`)
	batch(t, l.client, `link set lo up
link set e0 up
addr add 192.0.2.2/24 dev e0
`)
	require.NoError(t, l.host.Sysctl("net.ipv4.ip_forward", "1"))
	// The bridge takes packets from a port when it has noticed the carrier, and the kernel makes the routes of
	// IPv6 addresses in the background.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		h := open(t, l.host)
		vb1, err := h.LinkByName("vb1")
		require.NoError(t, err)
		own, err := h.AddressType(netip.MustParseAddr("fd30::1"), 0)
		require.NoError(t, err)
		if vb1.Why() == "" && own == unix.RTN_LOCAL {
			return l
		}
		require.True(t, time.Now().Before(deadline))
	}
}

func ipJSON(t *testing.T, ns *lab.NS, to any, args ...string) {
	t.Helper()
	out := labtest.Exec(t, ns, labtest.Tool(t, args[0]), append([]string{"-j"}, args[1:]...)...)
	require.NoError(t, json.Unmarshal([]byte(out), to), out)
}

// Links are as ip(8) and bridge(8) list them.
func TestLinks(t *testing.T) {
	l := newHostLab(t)
	labtest.Exec(t, l.host, "bridge", "link", "set", "dev", "vb1", "hairpin", "on", "isolated", "on", "learning", "off", "flood", "off", "neigh_suppress", "on")
	labtest.Exec(t, l.host, "ip", "link", "set", "eth0", "mtu", "1400", "group", "9")
	labtest.Exec(t, l.host, "ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	h := open(t, l.host)
	vb1, err := h.LinkByName("vb1")
	require.NoError(t, err)
	all, err := h.Links()
	require.NoError(t, err)
	var listed []struct {
		Index    int `json:"ifindex"`
		Name     string
		IfName   string
		MTU      int
		Master   string
		Linkinfo struct {
			Kind string `json:"info_kind"`
		}
	}
	ipJSON(t, l.host, &listed, "ip", "-d", "link")
	require.Len(t, all, len(listed))
	for i, want := range listed {
		got := all[i]
		require.Equal(t, want.Index, got.Index)
		require.Equal(t, want.IfName, got.Name)
		require.Equal(t, want.MTU, got.MTU)
		require.Equal(t, want.Linkinfo.Kind, got.Kind, got.Name)
		if want.Master != "" {
			require.Equal(t, want.Master, h.linkName(got.Master))
		}
	}
	require.Equal(t, &BridgePort{State: brForwarding, Hairpin: true, Isolated: true, NeighSuppress: true, FloodAll: true}, vb1.Port)
	require.Empty(t, vb1.Why())
	eth0, err := h.LinkByName("eth0")
	require.NoError(t, err)
	require.EqualValues(t, 9, eth0.Group)
	require.GreaterOrEqual(t, eth0.PeerNS, int32(0))
	require.NotZero(t, eth0.Lower)
	d0, err := h.LinkByName("d0")
	require.NoError(t, err)
	require.Equal(t, "down", d0.Why())
	br0, err := h.LinkByName("br0")
	require.NoError(t, err)
	require.NotNil(t, br0.Bridge)
	ports, err := h.Ports(br0.Index)
	require.NoError(t, err)
	require.Len(t, ports, 1)
	_, err = h.LinkByName("none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = h.Link(9999)
	require.ErrorIs(t, err, fs.ErrNotExist)

	labtest.Exec(t, l.client, "ip", "link", "set", "e0", "down")
	labtest.Exec(t, l.host, "bridge", "link", "set", "dev", "vb1", "state", "0")
	h = open(t, l.host)
	vb1, err = h.LinkByName("vb1")
	require.NoError(t, err)
	require.Equal(t, "a port of the bridge in state disabled", vb1.Why())
	eth0, err = h.LinkByName("eth0")
	require.NoError(t, err)
	require.Equal(t, "no carrier", eth0.Why())
}

// Addresses are as ip(8) lists them, with what keeps one from being used.
func TestAddresses(t *testing.T) {
	l := newHostLab(t)
	batch(t, l.host, `addr add 192.0.2.9/24 dev eth0
addr add 10.9.9.9 peer 10.9.9.8/32 dev eth0
addr add 2001:db8::8/64 dev eth0 nodad preferred_lft 0
addr add 2001:db8::7/64 dev eth0 nodad noprefixroute
`)
	// The client has one already.
	require.NoError(t, l.host.Sysctl("net.ipv6.conf.eth0.accept_dad", "1"))
	require.NoError(t, l.host.Sysctl("net.ipv6.conf.eth0.dad_transmits", "1"))
	batch(t, l.client, "addr add 2001:db8::9/64 dev e0 nodad\n")
	batch(t, l.host, "addr add 2001:db8::9/64 dev eth0\n")
	get := func(addr string) *Address {
		a, err := open(t, l.host).Address(netip.MustParseAddr(addr))
		require.NoError(t, err)
		return a
	}
	for deadline := time.Now().Add(5 * time.Second); get("2001:db8::9").Why() != "dadfailed: another host has it"; time.Sleep(20 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline))
	}
	require.Equal(t, "192.0.2.9/24 scope global secondary", get("192.0.2.9").String())
	require.Equal(t, "10.9.9.9 peer 10.9.9.8/32 scope global", get("10.9.9.9").String())
	require.Equal(t, "2001:db8::8/64 scope global deprecated", get("2001:db8::8").String())
	require.Empty(t, get("2001:db8::8").Why())
	require.Equal(t, "2001:db8::7/64 scope global noprefixroute", get("2001:db8::7").String())
	require.True(t, get("192.0.2.9").Permanent)
	require.Nil(t, get("192.0.2.77"))
	require.Equal(t, "tentative", (&Address{Flags: unix.IFA_F_TENTATIVE}).Why())
	require.Empty(t, (&Address{Flags: unix.IFA_F_TENTATIVE | unix.IFA_F_OPTIMISTIC}).Why())
	h := open(t, l.host)
	eth0, err := h.LinkByName("eth0")
	require.NoError(t, err)
	of, err := h.AddressesOf(eth0.Index)
	require.NoError(t, err)
	all, err := h.Addresses()
	require.NoError(t, err)
	require.Greater(t, len(all), len(of))
	again, err := h.AddressesOf(eth0.Index)
	require.NoError(t, err)
	require.Len(t, again, len(of))
	require.NotEmpty(t, of)
}

// What stops a packet is named as its own tool prints it.
func TestFaults(t *testing.T) {
	l := newHostLab(t)
	eth0 := func(h *Host) int {
		link, err := h.LinkByName("eth0")
		require.NoError(t, err)
		return link.Index
	}
	for _, c := range []struct {
		make, undo     string
		dst, src       string
		kind           FaultKind
		thing, remedy  string
		silent, output bool
	}{
		{make: "", dst: "172.30.0.2", src: "192.0.2.2"},
		{make: "ip route add blackhole 172.30.0.2/32", undo: "ip route del blackhole 172.30.0.2", dst: "172.30.0.2", src: "192.0.2.2",
			kind: FaultRoute, thing: "blackhole 172.30.0.2 in table main", remedy: "ip route del blackhole 172.30.0.2", silent: true},
		{make: "ip route add prohibit 172.30.0.2/32 metric 7", dst: "172.30.0.2", src: "192.0.2.2",
			kind: FaultRoute, thing: "prohibit 172.30.0.2 metric 7 in table main", remedy: "ip route del prohibit 172.30.0.2 metric 7"},
		{make: "ip route add unreachable 172.30.0.0/25 table 99; ip rule add to 172.30.0.2 lookup 99 priority 77", dst: "172.30.0.2", src: "192.0.2.2",
			undo: "ip rule del priority 77; ip route flush table 99",
			kind: FaultRoute, thing: "unreachable 172.30.0.0/25 in table 99", remedy: "ip route del unreachable 172.30.0.0/25 table 99"},
		{make: "ip rule add from 192.0.2.2 priority 78 prohibit", dst: "172.30.0.2", src: "192.0.2.2",
			kind: FaultRule, thing: "rule 78: from 192.0.2.2 prohibit", remedy: "ip rule del priority 78 from 192.0.2.2 prohibit"},
		{make: "", dst: "203.0.113.7", src: "192.0.2.2", kind: FaultNoRoute, thing: "no route to 203.0.113.7", remedy: "ip route add 203.0.113.7 via GATEWAY"},
		{make: "sysctl -qw net.ipv4.conf.eth0.forwarding=0", undo: "sysctl -qw net.ipv4.conf.eth0.forwarding=1", dst: "172.30.0.2", src: "192.0.2.2",
			kind: FaultForwarding, thing: "net.ipv4.conf.eth0.forwarding = 0", remedy: "sysctl net.ipv4.conf.eth0.forwarding=1", silent: true},
		{make: "sysctl -qw net.ipv4.ip_forward=0", undo: "sysctl -qw net.ipv4.ip_forward=1", dst: "172.30.0.2", src: "192.0.2.2",
			kind: FaultForwarding, thing: "net.ipv4.ip_forward = 0", remedy: "sysctl net.ipv4.ip_forward=1", silent: true},
		{make: "sysctl -qw net.ipv4.conf.eth0.rp_filter=1", undo: "sysctl -qw net.ipv4.conf.eth0.rp_filter=0", dst: "172.30.0.2", src: "203.0.113.2",
			kind: FaultRPFilter, thing: "net.ipv4.conf.eth0.rp_filter = 1", remedy: "ip route add 203.0.113.2 dev eth0", silent: true},
		{make: "sysctl -qw net.ipv4.conf.all.rp_filter=1", undo: "sysctl -qw net.ipv4.conf.all.rp_filter=0", dst: "192.0.2.1", src: "172.30.0.7",
			kind: FaultRPFilter, thing: "net.ipv4.conf.all.rp_filter = 1", remedy: "sysctl net.ipv4.conf.eth0.rp_filter=2", silent: true},
		{make: "", dst: "172.30.0.2", src: "172.30.0.1", kind: FaultSource, thing: "source 172.30.0.1", remedy: "sysctl net.ipv4.conf.eth0.accept_local=1", silent: true},
		{make: "", dst: "127.0.0.1", src: "192.0.2.2", kind: FaultDest, thing: "destination 127.0.0.1", remedy: "sysctl net.ipv4.conf.eth0.route_localnet=1", silent: true},
		{make: "", dst: "fd30::2", src: "2001:db8::2", kind: FaultForwarding, thing: "net.ipv6.conf.all.forwarding = 0", remedy: "sysctl net.ipv6.conf.all.forwarding=1", silent: true},
		{make: "sysctl -qw net.ipv6.conf.all.forwarding=1", dst: "fd30::2", src: "2001:db8::2"},
		{make: "", dst: "fd30::2", src: "fe80::2", kind: FaultSource, thing: "source fe80::2"},
		{make: "ip -6 route add blackhole fd30::2", undo: "ip -6 route del blackhole fd30::2", dst: "fd30::2", src: "2001:db8::2",
			kind: FaultRoute, thing: "blackhole fd30::2 in table main", remedy: "ip -6 route del blackhole fd30::2", silent: true},
		{make: "ip -6 rule add to fd30::2 priority 9 blackhole", undo: "ip -6 rule del priority 9", dst: "fd30::2", src: "2001:db8::2",
			kind: FaultRule, thing: "rule 9: from all to fd30::2 blackhole", remedy: "ip -6 rule del priority 9 from all to fd30::2 blackhole", silent: true},
		{make: "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1", undo: "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0", dst: "fd30::2", src: "2001:db8::2",
			kind: FaultDisabled, thing: "net.ipv6.conf.eth0.disable_ipv6 = 1", remedy: "sysctl net.ipv6.conf.eth0.disable_ipv6=0", silent: true},
		{make: "", dst: "172.30.0.2", src: "10.1.1.1", output: true, kind: FaultSource, thing: "source 10.1.1.1", silent: true},
		{make: "ip route add throw 198.51.100.0/24 table 99; ip rule add lookup 99 priority 88", undo: "ip rule del priority 88", dst: "198.51.100.1", output: true,
			kind: FaultNoRoute, thing: "no route to 198.51.100.1", remedy: "ip route add 198.51.100.1 via GATEWAY"},
		{make: "ip route add throw 172.30.0.2", dst: "172.30.0.2", src: "192.0.2.2",
			kind: FaultRoute, thing: "throw 172.30.0.2 in table main", remedy: "ip route del throw 172.30.0.2"},
		{make: "ip nexthop add id 5 blackhole; ip route add 172.30.0.2 nhid 5", dst: "172.30.0.2", src: "192.0.2.2",
			kind: FaultRoute, thing: "blackhole 172.30.0.2 nhid 5 in table main", remedy: "ip route del 172.30.0.2 nhid 5", silent: true},
	} {
		name := c.make + " " + c.dst
		if c.make != "" {
			labtest.Exec(t, l.host, "sh", "-ec", c.make)
		}
		h := open(t, l.host)
		q := RouteQuery{Dst: netip.MustParseAddr(c.dst), Proto: unix.IPPROTO_TCP, DstPort: 80}
		if c.src != "" {
			q.Src = netip.MustParseAddr(c.src)
		}
		if !c.output {
			q.Iif = eth0(h)
		}
		route, fault, err := h.Lookup(q)
		require.NoError(t, err, name)
		if c.kind == "" {
			require.Nil(t, fault, name)
			require.Equal(t, "br0", h.linkName(route.Oif))
			continue
		}
		require.NotNil(t, fault, "%s: %+v", name, route)
		require.Equal(t, c.kind, fault.Kind, "%s: %+v", name, fault)
		require.Equal(t, c.thing, fault.Thing, name)
		require.Equal(t, c.remedy, fault.Remedy, name)
		require.Equal(t, c.silent, fault.Silent, name)
		// What it proposes does it.
		switch {
		case c.undo != "":
			labtest.Exec(t, l.host, "sh", "-ec", c.undo)
		case strings.HasPrefix(c.make, "ip ") && !strings.Contains(c.remedy, "GATEWAY"):
			labtest.Exec(t, l.host, "sh", "-ec", c.remedy)
		}
	}
}

// The text of a route is what ip(8) prints, but for what says who made it.
func TestRouteText(t *testing.T) {
	l := newHostLab(t)
	batch(t, l.host, `route add default via 192.0.2.2 dev eth0 metric 100
route add 10.0.0.0/8 via 192.0.2.2 dev eth0 mtu 1300
route add 10.1.0.0/16 nexthop via 192.0.2.2 dev eth0 weight 1 nexthop via 172.30.0.2 dev br0 weight 3
nexthop add id 5 via 192.0.2.2 dev eth0
route add 10.2.0.0/16 nhid 5
`)
	h := open(t, l.host)
	for dst, want := range map[string]string{
		"203.0.113.1": "default via 192.0.2.2 dev eth0 metric 100 in table main",
		"10.9.9.9":    "10.0.0.0/8 via 192.0.2.2 dev eth0 in table main",
		"10.1.1.1":    "10.1.0.0/16 nexthop via 192.0.2.2 dev eth0 weight 1 nexthop via 172.30.0.2 dev br0 weight 3 in table main",
		"10.2.1.1":    "10.2.0.0/16 nhid 5 via 192.0.2.2 dev eth0 in table main",
		"172.30.0.2":  "172.30.0.0/24 dev br0 in table main",
		"192.0.2.1":   "local 192.0.2.1 dev eth0 in table local",
		"fd30::2":     "fd30::/64 dev br0 metric 256 in table main",
	} {
		route, fault, err := h.Lookup(RouteQuery{Dst: netip.MustParseAddr(dst)})
		require.NoError(t, err)
		require.Nil(t, fault, "%+v", fault)
		require.Equal(t, want, route.Text)
		if dst == "10.9.9.9" {
			require.Equal(t, 1300, route.MTU)
		}
	}
	for addr, want := range map[string]RouteType{
		"192.0.2.1": unix.RTN_LOCAL, "192.0.2.255": unix.RTN_BROADCAST, "224.0.0.1": unix.RTN_MULTICAST, "8.8.8.8": unix.RTN_UNICAST,
		"127.0.0.5": unix.RTN_LOCAL, "fd30::1": unix.RTN_LOCAL, "ff02::1": unix.RTN_MULTICAST, "fd30::7": unix.RTN_UNICAST, "2001:db8::1": unix.RTN_UNREACHABLE,
	} {
		got, err := h.AddressType(netip.MustParseAddr(addr), 0)
		require.NoError(t, err)
		require.Equal(t, want, got, "%s: %s", addr, got)
	}
	br0, err := h.LinkByName("br0")
	require.NoError(t, err)
	got, err := h.AddressType(netip.MustParseAddr("192.0.2.1"), br0.Index)
	require.NoError(t, err)
	require.Equal(t, RouteType(unix.RTN_UNICAST), got)
	got, err = h.AddressType(netip.MustParseAddr("fd30::1"), br0.Index)
	require.NoError(t, err)
	require.Equal(t, RouteType(unix.RTN_LOCAL), got)
}

// A rule is printed as ip(8) does.
func TestPolicyRuleText(t *testing.T) {
	l := newHostLab(t)
	for _, family := range []string{"-4", "-6"} {
		ten, twenty := "10.0.0.0/8", "20.0.0.1"
		if family == "-6" {
			ten, twenty = "fd00::/8", "fd20::1"
		}
		batch := ""
		for i, rule := range []string{
			"from " + ten + " lookup 99", "not to " + twenty + " lookup main suppress_prefixlength 0", "fwmark 0x1/0xff iif eth0 goto 30000",
			"fwmark 0x7 oif br0 nop", "ipproto tcp sport 80 dport 1000-2000 unreachable", "uidrange 5-9 prohibit",
			"iif gone blackhole", "lookup 1000 suppress_ifgroup 8", "tos 0x10 lookup default", "goto 30000",
		} {
			batch += fmt.Sprintf("rule add %s priority %d\n", rule, 100+i)
		}
		labtest.ExecInput(t, l.host, batch+"rule add priority 30000 nop\n", "ip", family, "-batch", "-")
		rules, err := open(t, l.host).PolicyRules(family == "-4")
		require.NoError(t, err)
		var got []string
		for _, r := range rules {
			got = append(got, r.String())
			require.False(t, r.Unread, r)
		}
		var want []string
		for line := range strings.Lines(labtest.Exec(t, l.host, "ip", family, "rule")) {
			line = strings.Join(strings.Fields(line), " ")
			want = append(want, strings.Replace(line, "tos throughput", "tos 0x10", 1))
		}
		require.Equal(t, want, got)
	}
}

// Settings are combined as the kernel does.
func TestSettings(t *testing.T) {
	l := newHostLab(t)
	for key, value := range map[string]string{
		"net.ipv4.conf.all.rp_filter": "2", "net.ipv4.conf.eth0.rp_filter": "1", "net.ipv4.conf.all.accept_local": "1",
		"net.ipv4.conf.br0.arp_ignore": "1", "net.ipv4.ip_local_port_range": "40000 50000",
	} {
		require.NoError(t, l.host.Sysctl(key, value))
	}
	h := open(t, l.host)
	eth0, err := h.LinkByName("eth0")
	require.NoError(t, err)
	br0, err := h.LinkByName("br0")
	require.NoError(t, err)
	for _, c := range []struct {
		link  int
		name  string
		value int
		from  string
	}{
		{eth0.Index, "rp_filter", 2, "net.ipv4.conf.all.rp_filter"},
		{eth0.Index, "accept_local", 1, "net.ipv4.conf.all.accept_local"},
		{br0.Index, "arp_ignore", 1, "net.ipv4.conf.br0.arp_ignore"},
		{br0.Index, "route_localnet", 0, "net.ipv4.conf.br0.route_localnet"},
	} {
		value, from, err := h.Setting(true, c.link, c.name)
		require.NoError(t, err)
		require.Equal(t, c.value, value)
		require.Equal(t, c.from, from)
	}
	text, err := h.Sysctl("net/ipv4/ip_local_port_range")
	require.NoError(t, err)
	require.Equal(t, "40000\t50000", text)
	_, err = h.Sysctl("net/ipv4/none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Empty(t, h.Unread())
	require.Equal(t, "net.ipv4.conf.eth0/7.rp_filter", sysctlName("net/ipv4/conf/eth0.7/rp_filter"))
}

// Neighbours and the bridge's forwarding database are as ip(8) and bridge(8) list them, and asking makes
// none.
func TestNeighbours(t *testing.T) {
	l := newHostLab(t)
	backend := netip.MustParseAddr("172.30.0.2")
	h := open(t, l.host)
	br0, err := h.LinkByName("br0")
	require.NoError(t, err)
	n, err := h.Neighbour(backend, br0.Index)
	require.NoError(t, err)
	require.Nil(t, n)
	require.Empty(t, labtest.Exec(t, l.host, "ip", "-4", "neigh"))
	batch(t, l.host, `neigh add 172.30.0.7 lladdr 02:00:00:00:00:07 dev br0
neigh add proxy 172.30.0.8 dev br0
`)
	_, err = l.host.Dial(context.Background(), "tcp", "172.30.0.2:80")
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	n, err = h.Neighbour(backend, br0.Index)
	require.NoError(t, err)
	require.Equal(t, "172.30.0.2 dev br0 lladdr "+mac(t, l.backend, "e0")+" REACHABLE", n.String())
	e, err := h.FDB(br0.Index, n.MAC)
	require.NoError(t, err)
	require.Equal(t, "vb1", h.linkName(e.Port))
	require.False(t, e.Local)
	own, err := h.FDB(br0.Index, br0.MAC)
	require.NoError(t, err)
	require.True(t, own.Local)
	none, err := h.FDB(br0.Index, []byte{2, 9, 9, 9, 9, 9})
	require.NoError(t, err)
	require.Nil(t, none)
	n, err = h.Neighbour(netip.MustParseAddr("172.30.0.7"), br0.Index)
	require.NoError(t, err)
	require.True(t, n.Permanent())
	yes, err := h.ProxyNeighbour(netip.MustParseAddr("172.30.0.8"), br0.Index)
	require.NoError(t, err)
	require.True(t, yes)
	yes, err = h.ProxyNeighbour(backend, br0.Index)
	require.NoError(t, err)
	require.False(t, yes)
}

func mac(t *testing.T, ns *lab.NS, link string) string {
	t.Helper()
	var links []struct{ Address string }
	ipJSON(t, ns, &links, "ip", "link", "show", "dev", link)
	return links[0].Address
}

// Entries of connection tracking and its counters are as conntrack(8) lists them.
func TestConntrack(t *testing.T) {
	l := newHostLab(t)
	labtest.Exec(t, l.host, "nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c ct state established accept")
	labtest.EchoTCP(t, l.host, "echo", "192.0.2.1:7")
	c, err := l.client.Dial(context.Background(), "tcp", "192.0.2.1:7")
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	from := netip.MustParseAddrPort(c.LocalAddr().String())
	to := netip.MustParseAddrPort("192.0.2.1:7")
	h := open(t, l.host)
	list, err := h.EntriesOf(unix.IPPROTO_TCP, from.Addr(), to)
	require.NoError(t, err)
	require.Len(t, list, 1)
	e := list[0]
	require.Equal(t, "ESTABLISHED", e.State)
	require.True(t, e.Replied())
	require.Equal(t, fmt.Sprintf("tcp ESTABLISHED src=192.0.2.2 dst=192.0.2.1 sport=%d dport=7 src=192.0.2.1 dst=192.0.2.2 sport=7 dport=%d [ASSURED]", from.Port(), from.Port()), e.String())
	list, err = h.EntriesOf(unix.IPPROTO_TCP, from.Addr(), netip.MustParseAddrPort("192.0.2.1:8"))
	require.NoError(t, err)
	require.Empty(t, list)
	state, err := h.Conntrack()
	require.NoError(t, err)
	count, err := strconv.Atoi(strings.TrimSpace(labtest.Exec(t, l.host, "conntrack", "-C")))
	require.NoError(t, err)
	require.EqualValues(t, count, state.Count)
	require.NotZero(t, state.Max)
	require.False(t, state.Full())
	require.True(t, (&Conntrack{Count: 5, Max: 5}).Full())
	require.False(t, (&Conntrack{Count: 5}).Full())
}

// Counters are those of /proc/net.
func TestCounters(t *testing.T) {
	l := newHostLab(t)
	require.NoError(t, l.host.Sysctl("net.ipv4.conf.eth0.rp_filter", "1"))
	before := open(t, l.host)
	was, err := before.Counter("TcpExt", "IPReversePathFilter")
	require.NoError(t, err)
	batch(t, l.client, "addr add 203.0.113.2/32 dev lo\nroute add 172.30.0.0/24 via 192.0.2.1 src 203.0.113.2\n"+
		"neigh add 192.0.2.1 lladdr "+mac(t, l.host, "eth0")+" dev e0\n") // its ARP fails the filter as well
	_, err = l.client.Dial(contextOf(t, 50*time.Millisecond), "tcp", "172.30.0.2:80")
	require.Error(t, err)
	now, err := open(t, l.host).Counter("TcpExt", "IPReversePathFilter")
	require.NoError(t, err)
	require.Greater(t, now, was)
	for _, name := range [][2]string{{"Ip", "InAddrErrors"}, {"Ip", "FragFails"}, {"Ip6", "InAddrErrors"}, {"IpExt", "InNoRoutes"}} {
		_, err := before.Counter(name[0], name[1])
		require.NoError(t, err)
	}
	_, err = before.Counter("Ip", "None")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, map[string]uint64{"drop": 0x11, "found": 3}, parseConntrackStat("found drop\n1 10\n2 1\n"))
}

func contextOf(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// The socket that takes a packet is found with its process, queue and conditions.
func TestListener(t *testing.T) {
	l := newHostLab(t)
	for network, at := range map[string]string{"tcp4": "0.0.0.0:81", "tcp": "[::]:82", "tcp6": "[::1]:83"} {
		s, err := l.host.Listen(network, at)
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
	}
	web, err := l.host.Listen("tcp", "192.0.2.1:80")
	require.NoError(t, err)
	t.Cleanup(func() { _ = web.Close() })
	pc, err := l.host.ListenPacket("udp4", "0.0.0.0:53")
	require.NoError(t, err)
	t.Cleanup(func() { _ = pc.Close() })
	h := open(t, l.host)
	find := func(proto uint8, to string, iif int) *Socket {
		s, err := h.Listener(proto, netip.MustParseAddrPort(to), iif)
		require.NoError(t, err)
		return s
	}
	s := find(unix.IPPROTO_TCP, "192.0.2.1:80", 0)
	require.NotNil(t, s)
	require.Equal(t, os.Getpid(), s.Process.PID)
	require.Equal(t, fmt.Sprintf("tcp 192.0.2.1:80 users:((%q,pid=%d))", s.Process.Command, os.Getpid()), s.String())
	require.False(t, s.Full())
	require.Nil(t, find(unix.IPPROTO_TCP, "172.30.0.1:80", 0))
	require.NotNil(t, find(unix.IPPROTO_TCP, "172.30.0.1:81", 0))
	require.Nil(t, find(unix.IPPROTO_TCP, "[fd30::1]:81", 0))
	require.NotNil(t, find(unix.IPPROTO_TCP, "[fd30::1]:82", 0))
	require.Nil(t, find(unix.IPPROTO_TCP, "192.0.2.1:83", 0))
	require.NotNil(t, find(unix.IPPROTO_UDP, "192.0.2.1:53", 0))
	require.Nil(t, find(unix.IPPROTO_TCP, "192.0.2.1:53", 0))
	any6 := netip.MustParseAddrPort("[::]:1")
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd30::1")
	require.Equal(t, -1, (&Socket{Addr: any6, V6Only: true}).score(v4, 0, 0))
	require.Equal(t, 0, (&Socket{Addr: any6}).score(v4, 0, 0))
	require.Equal(t, 1, (&Socket{Addr: any6}).score(v6, 0, 0))
	require.Equal(t, -1, (&Socket{Addr: any6, Link: 3}).score(v6, 4, 0))
	require.Equal(t, 3, (&Socket{Addr: any6, Link: 3}).score(v6, 3, 0))
	require.Equal(t, 3, (&Socket{Addr: any6, Link: 9}).score(v6, 3, 9))
	require.True(t, (&Socket{Proto: unix.IPPROTO_TCP, Queue: 2, Limit: 1}).Full())
}

// frame makes a frame of Ethernet with a packet of IPv4 and TCP or UDP.
func frame(proto byte, src, dst string, dstPort uint16) []byte {
	b := make([]byte, 14, 54)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	b = append(b, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, proto, 0, 0)
	b = append(append(b, netip.MustParseAddr(src).AsSlice()...), netip.MustParseAddr(dst).AsSlice()...)
	b = binary.BigEndian.AppendUint16(append(b, 0xc0, 0), dstPort)
	return append(b, make([]byte, 16)...)
}

// Filters of tc are read, and decide about frames as they do about packets.
func TestFilters(t *testing.T) {
	l := newHostLab(t)
	labtest.Exec(t, l.host, "sh", "-ec", `ip link add d0 type veth peer name d1
tc qdisc add dev eth0 clsact
tc filter add dev eth0 ingress protocol ip pref 5 u32 match ip src 198.51.100.0/24 action mirred egress redirect dev d0
tc filter add dev eth0 ingress protocol ip pref 6 u32 match ip protocol 6 0xff match ip dport 8080 0xffff action mirred egress redirect dev d0
tc filter add dev eth0 ingress protocol all pref 7 u32 match ip dport 8081 0xffff action mirred egress mirror dev d0
tc filter add dev eth0 ingress protocol ip pref 8 bpf da bytecode '4,48 0 0 23,21 0 1 17,6 0 0 2,6 0 0 4294967295'
tc filter add dev eth0 ingress protocol ip pref 9 bpf da bytecode '1,6 0 0 0'
tc filter add dev eth0 ingress protocol ip pref 10 bpf da bytecode '1,6 0 0 2'
tc filter add dev eth0 egress protocol ip pref 1 bpf da bytecode '4,40 0 0 20,69 1 0 8191,6 0 0 2,6 0 0 0'
`)
	h := open(t, l.host)
	eth0, err := h.LinkByName("eth0")
	require.NoError(t, err)
	list, err := h.Filters(eth0.Index, false)
	require.NoError(t, err)
	var texts []string
	for _, f := range list {
		texts = append(texts, f.Text)
	}
	require.Equal(t, []string{
		"filter dev eth0 ingress protocol ip pref 5 u32 fh 800:0:800 action mirred redirect dev d0",
		"filter dev eth0 ingress protocol ip pref 6 u32 fh 801:0:800 action mirred redirect dev d0",
		"filter dev eth0 ingress protocol all pref 7 u32 fh 802:0:800 action mirred mirror dev d0",
		"filter dev eth0 ingress protocol ip pref 8 bpf handle 0x1",
		"filter dev eth0 ingress protocol ip pref 9 bpf handle 0x1",
		"filter dev eth0 ingress protocol ip pref 10 bpf handle 0x1",
	}, texts)
	for _, c := range []struct {
		frame []byte
		want  TCVerdict
		by    int
	}{
		{frame(6, "198.51.100.7", "192.0.2.1", 9), TCRedirects, 0},
		{frame(6, "192.0.2.2", "192.0.2.1", 8080), TCRedirects, 1},
		{frame(6, "192.0.2.2", "192.0.2.1", 8081), TCPasses, -1},
		{frame(17, "192.0.2.2", "192.0.2.1", 8080), TCDrops, 3},
		{frame(6, "192.0.2.2", "192.0.2.1", 9), TCPasses, -1},
	} {
		v, by, err := h.Classify(eth0.Index, false, c.frame, 14, unix.ETH_P_IP)
		require.NoError(t, err)
		require.Equal(t, c.want, v, by)
		if c.by >= 0 {
			require.Equal(t, list[c.by], by)
		} else {
			require.Nil(t, by)
		}
	}
	v, _, err := h.Classify(eth0.Index, true, frame(6, "192.0.2.1", "192.0.2.2", 9), 14, unix.ETH_P_IP)
	require.NoError(t, err)
	require.Equal(t, TCDrops, v)
	v, _, err = h.Classify(eth0.Index, true, frame(6, "192.0.2.1", "192.0.2.2", 9), 14, unix.ETH_P_IPV6)
	require.NoError(t, err)
	require.Equal(t, TCPasses, v)
	br0, err := h.LinkByName("br0")
	require.NoError(t, err)
	v, _, err = h.Classify(br0.Index, false, frame(6, "192.0.2.1", "192.0.2.2", 9), 14, unix.ETH_P_IP)
	require.NoError(t, err)
	require.Equal(t, TCPasses, v)
}

// A discipline that drops by itself is told from one that shapes, and its counters are read.
func TestQdiscs(t *testing.T) {
	l := newHostLab(t)
	batch(t, l.host, "neigh add 192.0.2.2 lladdr "+mac(t, l.client, "e0")+" dev eth0\n")
	root := func(spec string) *Qdisc {
		labtest.Exec(t, l.host, "sh", "-ec", "tc qdisc replace dev eth0 root "+spec)
		h := open(t, l.host)
		eth0, err := h.LinkByName("eth0")
		require.NoError(t, err)
		list, err := h.Qdiscs(eth0.Index)
		require.NoError(t, err)
		require.NotEmpty(t, list, spec)
		return list[0]
	}
	for _, c := range []struct {
		spec, text string
		all        bool
	}{
		{"handle 1: tbf rate 1mbit burst 10kb latency 50ms", "qdisc tbf 1: dev eth0 root", false},
		{"handle 2: pfifo limit 100", "qdisc pfifo 2: dev eth0 root", false},
		{"handle 3: bfifo limit 10", "qdisc bfifo 3: dev eth0 root", true},
		{"handle 4: htb default 1", "qdisc htb 4: dev eth0 root", false},
		{"handle 5: tbf rate 8kbit burst 50b limit 1000", "qdisc tbf 5: dev eth0 root", true},
	} {
		q := root(c.spec)
		require.Equal(t, c.text, q.Text)
		_, all := q.Drops(74)
		require.Equal(t, c.all, all, c.text)
		if !c.all {
			continue
		}
		_, _ = l.host.Dial(contextOf(t, 30*time.Millisecond), "tcp", "192.0.2.2:80")
		h := open(t, l.host)
		list, err := h.Qdiscs(q.Link)
		require.NoError(t, err)
		require.NotZero(t, list[0].Dropped, c.text)
	}
	for _, kind := range []string{"blackhole", "noop"} {
		_, all := (&Qdisc{Kind: kind}).Drops(60)
		require.True(t, all)
	}
	some, all := (&Qdisc{Kind: "netem", options: make([]byte, 24)}).Drops(60)
	require.False(t, some || all)
	some, all = (&Qdisc{Kind: "netem", options: append(make([]byte, 8), 0xff, 0xff, 0xff, 0xff)}).Drops(60)
	require.True(t, some && all)
}
