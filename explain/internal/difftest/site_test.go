// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"bytes"
	"context"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// site is a host with two uplinks, a bridge with two backends, and a backend by itself:
//
//	client .2 .3 ── 192.0.2.0/24    up0 ┐      ┌ br0 ── vb1 ── backend1 172.30.0.2
//	  and 203.0.113.2 behind it         ├ HOST ┤    └── vb2 ── backend2 172.30.0.3
//	other  .2    ── 198.51.100.0/24 up1 ┘      └ pt0 ────────── backend3 10.40.0.2
//
// The calling goroutine stays on one thread and one processor: what it sends goes through all
// namespaces before the call returns, unless the kernel puts the rest off. See quiesce.
type site struct {
	testing.TB

	client, other, host          *lab.NS
	backend1, backend2, backend3 *lab.NS
	backends                     []*backend
	mappings                     []nat.Mapping
	holes                        []nat.Mapping // ports that were taken out of ranges
	nftnat                       string        // the table of nftnat, as nft lists it

	markers *lab.NS
	marker  marker
	trace   *tracer
	home    int // the namespace of the thread
	port    int // the last source port
	tables  []string
	handles map[*lab.NS]*netlink.Handle
	// changed are the changes of state that the last scenario made, refused what nft and iptables did not take.
	changed []change
	refused map[string]int
	// legacy is set once there are tables of iptables-legacy.
	legacy map[string]bool
}

var (
	client4 = []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("203.0.113.2")}
	client6 = []netip.Addr{netip.MustParseAddr("2001:db8:1::2"), netip.MustParseAddr("2001:db8:1::3"), netip.MustParseAddr("2001:db8:f::2")}
	other4  = []netip.Addr{netip.MustParseAddr("198.51.100.2")}
	other6  = []netip.Addr{netip.MustParseAddr("2001:db8:2::2")}
	host4   = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("198.51.100.1")}
	host6   = []netip.Addr{netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:1::9"), netip.MustParseAddr("2001:db8:2::1")}
)

// published are the mappings of the host.
var published = []string{
	"8080->172.30.0.2:80",
	"5353->172.30.0.2:53/udp",
	"192.0.2.9:8081->172.30.0.3:80",
	"8082->10.40.0.2:80",
	"5354->10.40.0.2:53/udp",
	"9080->[fd30::2]:80",
	"9053->[fd40::2]:53/udp",
	"[2001:db8:1::9]:9081->[fd30::3]:80",
	"8083->172.30.0.2:81", // nothing listens
	"8090-8094->172.30.0.3:8090-8094",
	"9082->[fd40::2]:80",
	// Ranges, of which holed and given take ports.
	"10000-19999->172.30.0.2:10000-19999",
	"192.0.2.9:12000-12999->172.30.0.3:12000-12999/udp",
	"20000-29999->[fd30::2]:20000-29999",
	"[2001:db8:1::9]:22000-22999->[fd40::2]:22000-22999/udp",
}

// holed are ports that are taken out of ranges, and given those that lead elsewhere.
var (
	holed = []string{"10100->172.30.0.2:10100", "192.0.2.9:12100->172.30.0.3:12100/udp", "20100->[fd30::2]:20100", "[2001:db8:1::9]:22100->[fd40::2]:22100/udp"}
	given = []string{"10200->172.30.0.3:80", "192.0.2.9:12200->172.30.0.2:53/udp", "20200->[fd40::2]:80"}
)

// masqueraded is a mapping whose backend sees the host as the client.
const masqueraded = "8084->172.30.0.3:8095"

// hostLinks and the others are what makes the site, in the words of ip(8).
const (
	hostLinks = `
link add up0 type veth peer name e0 netns CLIENT
link add up1 type veth peer name e0 netns OTHER
link add br0 address 02:00:00:00:00:b0 type bridge
link add vb1 type veth peer name e0 netns BACKEND1
link add vb2 type veth peer name e0 netns BACKEND2
link add pt0 type veth peer name e0 netns BACKEND3
link set vb1 master br0
link set vb2 master br0
addr add 192.0.2.1/24 dev up0
addr add 192.0.2.9/24 dev up0
addr add 2001:db8:1::1/64 dev up0 nodad
addr add 2001:db8:1::9/64 dev up0 nodad
addr add 198.51.100.1/24 dev up1
addr add 2001:db8:2::1/64 dev up1 nodad
addr add 172.30.0.1/24 dev br0
addr add fd30::1/64 dev br0 nodad
addr add 10.40.0.1/24 dev pt0
addr add fd40::1/64 dev pt0 nodad
link set up0 up
link set up1 up
link set vb1 up
link set vb2 up
link set br0 up
link set pt0 up
route add default via 192.0.2.2
route add 203.0.113.0/24 via 192.0.2.2
route add default via 2001:db8:1::2
route add 2001:db8:f::/64 via 2001:db8:1::2
`
	clientLinks = `
addr add 192.0.2.2/24 dev e0
addr add 192.0.2.3/24 dev e0
addr add 2001:db8:1::2/64 dev e0 nodad
addr add 2001:db8:1::3/64 dev e0 nodad
addr add 203.0.113.2/32 dev lo
addr add 2001:db8:f::2/128 dev lo nodad
link set e0 up
route add default via 192.0.2.1
route add default via 2001:db8:1::1
`
)

// hostInterfaces are those of the host.
var hostInterfaces = []string{"up0", "up1", "br0", "vb1", "vb2", "pt0"}

// leaf makes the links of a namespace with one interface.
func leaf(v4, v6, gateway4, gateway6 string) string {
	return "addr add " + v4 + "/24 dev e0\naddr add " + v6 + "/64 dev e0 nodad\nlink set e0 up\n" +
		"route add default via " + gateway4 + "\nroute add default via " + gateway6 + "\n"
}

func newSite(tb testing.TB) *site {
	tb.Helper()
	labtest.Require(tb)
	s := &site{TB: tb, legacy: map[string]bool{}, handles: map[*lab.NS]*netlink.Handle{}}
	s.client, s.other, s.host = labtest.NewNS(tb, "client"), labtest.NewNS(tb, "other"), labtest.NewNS(tb, "host")
	s.backend1, s.backend2 = labtest.NewNS(tb, "backend1"), labtest.NewNS(tb, "backend2")
	s.backend3, s.markers = labtest.NewNS(tb, "backend3"), labtest.NewNS(tb, "markers")
	all := []*lab.NS{s.client, s.other, s.host, s.backend1, s.backend2, s.backend3}
	for _, ns := range all {
		s.quicken(ns)
	}
	for _, ns := range []*lab.NS{s.backend1, s.backend2, s.backend3} {
		// They remember no client that has not completed its connection (tcp(7)): one to whom masquerading gives the port of an
		// earlier one, which the host has forgotten, or of explain, would be taken for that one.
		require.NoError(tb, ns.Sysctl("net.ipv4.tcp_syncookies", "2"))
	}
	links := strings.NewReplacer("CLIENT", s.client.Path(), "OTHER", s.other.Path(), "BACKEND1", s.backend1.Path(),
		"BACKEND2", s.backend2.Path(), "BACKEND3", s.backend3.Path()).Replace(hostLinks)
	s.ip(s.host, links)
	s.ip(s.client, clientLinks)
	s.ip(s.other, leaf("198.51.100.2", "2001:db8:2::2", "198.51.100.1", "2001:db8:2::1"))
	s.ip(s.backend1, leaf("172.30.0.2", "fd30::2", "172.30.0.1", "fd30::1"))
	s.ip(s.backend2, leaf("172.30.0.3", "fd30::3", "172.30.0.1", "fd30::1"))
	s.ip(s.backend3, leaf("10.40.0.2", "fd40::2", "10.40.0.1", "fd40::1"))
	for _, ns := range all {
		links := []string{"e0"}
		if ns == s.host {
			links = hostInterfaces
		}
		for _, link := range links {
			for _, family := range []string{"ipv4", "ipv6"} {
				neigh := "net." + family + ".neigh." + link
				require.NoError(tb, ns.Sysctl(neigh+".retrans_time_ms", "100"))
				require.NoError(tb, ns.Sysctl(neigh+".base_reachable_time_ms", "86400000"))
			}
		}
	}
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		require.NoError(tb, s.host.Sysctl(key, "1"))
	}
	s.bridgeNF(false)
	s.ip(s.markers, "link add mk0 type veth peer name mk1\nlink set mk0 up\nlink set mk1 up\n")
	s.publish()
	s.enter()
	s.openMarker()
	for _, ns := range []*lab.NS{s.backend1, s.backend2, s.backend3} {
		s.backends = append(s.backends, s.serve(ns))
	}
	s.trace = s.newTracer()
	s.warm()
	return s
}

// quicken sets what makes a packet's end known at once: no limit of ICMP errors, and no
// retransmissions.
func (s *site) quicken(ns *lab.NS) {
	s.Helper()
	for _, k := range []struct{ key, value string }{
		{"net.ipv4.icmp_ratelimit", "0"},
		{"net.ipv6.icmp.ratelimit", "0"},
		{"net.ipv4.tcp_synack_retries", "0"},
		{"net.ipv4.tcp_max_syn_backlog", "65535"},
		{"net.core.somaxconn", "65535"},
		{"net.ipv4.ip_local_port_range", "1024 9999"}, // by which explain asks: clients have others
		{"net.ipv4.tcp_syncookies", "0"},
		{"net.ipv6.conf.default.dad_transmits", "0"},
		{"net.ipv6.conf.default.router_solicitations", "0"},
	} {
		require.NoError(s, ns.Sysctl(k.key, k.value))
	}
}

// bridgeNF sends bridged frames through the hooks of IP, or not.
func (s *site) bridgeNF(on bool) {
	s.Helper()
	for _, family := range []string{"ip", "ip6"} {
		require.NoError(s, s.host.Sysctl("net.bridge.bridge-nf-call-"+family+"tables", map[bool]string{true: "1", false: "0"}[on]))
	}
}

// publish publishes the mappings, as --direct does without proxies.
func (s *site) publish() {
	s.Helper()
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Options{NetNS: s.host.Path(), NoProxies: true, NoOwner: true})
	require.NoError(s, err)
	for _, text := range append(slices.Clone(published), masqueraded) {
		m, err := nat.ParseMappingText(text)
		require.NoError(s, err)
		m.NoProxy = true
		m.Masquerade = text == masqueraded
		_, err = e.Publish(ctx, nat.PublishOptions{}, m)
		require.NoError(s, err)
	}
	for _, text := range holed {
		m, err := nat.ParseMappingText(text)
		require.NoError(s, err)
		_, err = e.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{m}})
		require.NoError(s, err)
		s.holes = append(s.holes, m)
	}
	for _, text := range given {
		m, err := nat.ParseMappingText(text)
		require.NoError(s, err)
		m.NoProxy = true
		_, err = e.Publish(ctx, nat.PublishOptions{Replace: true}, m)
		require.NoError(s, err)
	}
	s.mappings, err = e.Mappings(ctx)
	require.NoError(s, err)
	require.NoError(s, e.Close())
	s.nftnat = s.run(s.host, "", "nft", "list", "table", "inet", "nftnat")
}

// ip runs lines of ip(8) in a namespace.
func (s *site) ip(ns *lab.NS, lines string) {
	s.Helper()
	if out, err := s.tryIP(ns, lines); err != nil {
		s.Fatalf("ip in %s: %v\n%s\n%s", ns, err, out, lines)
	}
}

// tryIP runs lines of ip(8); those that begin with -6 are of IPv6.
func (s *site) tryIP(ns *lab.NS, lines string) (string, error) {
	s.Helper()
	for len(lines) > 0 {
		var batch strings.Builder
		six := strings.HasPrefix(lines, "-6 ")
		for len(lines) > 0 && strings.HasPrefix(lines, "-6 ") == six {
			line, rest, _ := strings.Cut(lines, "\n")
			batch.WriteString(strings.TrimPrefix(line, "-6 ") + "\n")
			lines = rest
		}
		args := []string{"-batch", "-"}
		if six {
			args = []string{"-6", "-batch", "-"}
		}
		if out, err := s.try(ns, batch.String(), "ip", args...); err != nil {
			return out, err
		}
	}
	return "", nil
}

// run runs a program in a namespace. It must succeed.
func (s *site) run(ns *lab.NS, input, name string, args ...string) string {
	s.Helper()
	out, err := s.try(ns, input, name, args...)
	if err != nil {
		s.Fatalf("%s in %s: %v\n%s", name, ns, err, out)
	}
	return out
}

// try runs a program in a namespace, and returns what it printed.
func (s *site) try(ns *lab.NS, input, name string, args ...string) (string, error) {
	s.Helper()
	cmd := exec.Command(labtest.Tool(s, name), args...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	err := ns.Do(cmd.Run)
	return out.String(), err
}

// enter keeps the goroutine on one thread and one processor until the test ends. The thread is in
// the namespace of the tests.
func (s *site) enter() {
	s.Helper()
	runtime.LockOSThread()
	var set unix.CPUSet
	require.NoError(s, unix.SchedGetaffinity(0, &set))
	old := set
	var one unix.CPUSet
	for cpu := range 1024 {
		if set.IsSet(cpu) {
			one.Set(cpu)
			if labtest.Number(s, envProcessor, -1) < 0 || labtest.Number(s, envProcessor, -1) == cpu {
				break
			}
			one.Zero()
		}
	}
	require.NoError(s, unix.SchedSetaffinity(0, &one))
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(s, err)
	s.home = fd
	s.Cleanup(func() {
		s.leave()
		_ = unix.SchedSetaffinity(0, &old)
		_ = unix.Close(fd)
		runtime.UnlockOSThread()
	})
}

// envProcessor is the processor on which a run sends, so that two runs do not share one.
const envProcessor = "NFTNAT_PROCESSOR"

// leave takes the thread back to the namespace of the tests.
func (s *site) leave() {
	if err := unix.Setns(s.home, unix.CLONE_NEWNET); err != nil {
		s.Fatalf("leave namespace: %v", err)
	}
}

// in calls f on this thread in a namespace: other than by lab.NS.Do, sockets that f makes and packets that
// it sends are of this thread and processor.
func (s *site) in(ns *lab.NS, f func()) {
	s.Helper()
	fd, err := unix.Open(ns.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(s, err)
	err = unix.Setns(fd, unix.CLONE_NEWNET)
	_ = unix.Close(fd)
	require.NoError(s, err)
	defer s.leave()
	f()
}
