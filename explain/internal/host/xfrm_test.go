// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A policy of IPsec is said to stop the packets that it stops.
func TestXFRM(t *testing.T) {
	l := newHostLab(t)
	batch(t, l.client, "route add default via 192.0.2.1\n")
	labtest.EchoTCP(t, l.backend, "web", "172.30.0.2:80")
	// met reports whether a connection to the backend fails, and what is said of its packets.
	met := func() (string, error) {
		h := open(t, l.host)
		eth0, err := h.LinkByName("eth0")
		require.NoError(t, err)
		br0, err := h.LinkByName("br0")
		require.NoError(t, err)
		q := RouteQuery{
			Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("172.30.0.2"), Iif: eth0.Index, Oif: br0.Index,
			Proto: unix.IPPROTO_TCP, SrcPort: 40000, DstPort: 80,
		}
		_, dial := l.client.Dial(contextOf(t, 60*time.Millisecond), "tcp", "172.30.0.2:80")
		for _, dir := range []XFRMDir{XFRMForward, XFRMOut} {
			p, certain, err := h.XFRM(dir, q)
			require.NoError(t, err)
			require.True(t, certain)
			if p != nil {
				return p.Text, dial
			}
		}
		return "", dial
	}
	for _, c := range []struct{ policy, want string }{
		{"src 0.0.0.0/0 dst 172.30.0.3/32 dir fwd action block", ""},
		{"src 0.0.0.0/0 dst 172.30.0.2/32 dir fwd action block", "src 0.0.0.0/0 dst 172.30.0.2/32 dir fwd action block"},
		{"src 192.0.2.0/24 dst 0.0.0.0/0 proto tcp dport 80 dir fwd action block", "src 192.0.2.0/24 dst 0.0.0.0/0 proto tcp dport 80 dir fwd action block"},
		{"src 192.0.2.0/24 dst 0.0.0.0/0 proto tcp dport 81 dir fwd action block", ""},
		{"src 192.0.2.0/24 dst 0.0.0.0/0 proto udp dir fwd action block", ""},
		{"src 0.0.0.0/0 dst 172.30.0.2/32 dir out action block priority 9", "src 0.0.0.0/0 dst 172.30.0.2/32 dir out action block priority 9"},
		{"src 0.0.0.0/0 dst 172.30.0.2/32 dir in action block", ""},
		{"src 0.0.0.0/0 dst 172.30.0.2/32 dir fwd mark 1 mask 1 action block", ""},
		{"src 0.0.0.0/0 dst 172.30.0.2/32 dir fwd tmpl proto esp mode transport", "src 0.0.0.0/0 dst 172.30.0.2/32 dir fwd"},
		{"src 0.0.0.0/0 dst 172.30.0.2/32 dir fwd tmpl proto esp mode transport level use", ""},
	} {
		labtest.Exec(t, l.host, "sh", "-ec", "ip xfrm policy add "+c.policy)
		text, dial := met()
		require.Equal(t, c.want, text, c.policy)
		require.Equal(t, c.want != "", dial != nil, "%s: %v", c.policy, dial)
		labtest.Exec(t, l.host, "ip", "xfrm", "policy", "flush")
	}
	labtest.Exec(t, l.host, "sh", "-ec", "ip xfrm policy add src 0.0.0.0/0 dst 172.30.0.2/32 dir fwd action block priority 5; ip xfrm policy add src 0.0.0.0/0 dst 172.30.0.0/24 dir fwd priority 4")
	text, dial := met()
	require.Empty(t, text)
	require.NoError(t, dial)
	labtest.Exec(t, l.host, "ip", "xfrm", "policy", "flush")
	labtest.Exec(t, l.host, "ip", "xfrm", "policy", "setdefault", "fwd", "block")
	text, dial = met()
	require.Equal(t, "default fwd block", text)
	require.Error(t, dial)
	for _, link := range []string{"eth0", "br0"} { // for the answer as well
		require.NoError(t, l.host.Sysctl("net.ipv4.conf."+link+".disable_policy", "1"))
	}
	text, dial = met()
	require.Empty(t, text)
	require.NoError(t, dial)
}

// A policy for ports that are not known may be met.
func TestXFRMPorts(t *testing.T) {
	any := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	policy := func(port uint16, blocks bool) *XFRMPolicy {
		return &XFRMPolicy{Dir: XFRMForward, Blocks: blocks, src: any, dst: any, srcPort: port, srcMask: 0xffff}
	}
	q := RouteQuery{Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("172.30.0.2"), Proto: unix.IPPROTO_TCP, DstPort: 80}
	for _, c := range []struct {
		policies      []*XFRMPolicy
		port          uint16
		stop, certain bool
	}{
		{[]*XFRMPolicy{policy(5000, true)}, 5000, true, true},
		{[]*XFRMPolicy{policy(5000, true)}, 5001, false, true},
		{[]*XFRMPolicy{policy(5000, true)}, 0, true, false},
		{[]*XFRMPolicy{policy(5000, false), policy(5001, true)}, 5000, false, true},
		{[]*XFRMPolicy{policy(5000, false), {Dir: XFRMForward, Blocks: true, src: any, dst: any}}, 0, true, false},
	} {
		q.SrcPort = c.port
		p, certain, err := (&Host{xfrm: &c.policies}).XFRM(XFRMForward, q)
		require.NoError(t, err)
		require.Equal(t, c.stop, p != nil, c)
		require.Equal(t, c.certain, certain, c)
	}
}
