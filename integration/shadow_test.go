// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// shadowAttempts is the number of flows that an attacker begins towards one port of a client.
const shadowAttempts = 10_000

// shadowed are the frontends that an attacker tries to imitate: some below 512, because the
// kernel replaces a port below 512 by another one below 512, so that an attacker gets each of
// them sooner or later; some above; and some in the range from which frontends are chosen.
func shadowed() []int { return []int{53, 80, 123, 443, 500, 8080, 49153, 65535} }

// Port shadow (CVE-2021-3773): a backend sends to a client from many ports. If one is
// masqueraded to the port of another mapping, the client's packets to that port are treated as
// answers to the backend. With nftnat the client always reaches the right backend.
func TestPortShadow(t *testing.T) {
	s := newShadow(t)
	for _, f := range families(s.top) {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(network+"/"+f.name, func(t *testing.T) { require.Empty(t, s.attack(t, network, f)) })
		}
	}
}

// The same with a sibling that calls a frontend of the victim from many ports, and is
// masqueraded for the hairpin: packets that the victim sends to the host from the port that it
// serves are not treated as answers to the sibling.
func TestPortShadowOfSiblings(t *testing.T) {
	s := newShadow(t)
	for _, f := range families(s.top) {
		t.Run(f.name, func(t *testing.T) { require.Empty(t, s.attackVictim(t, f)) })
	}
}

// With other masquerade rules the attack succeeds, so that the test above shows something.
// Random ports of the whole range are not enough, because enough attempts find each port.
func TestPortShadowSucceeds(t *testing.T) {
	labtest.LongOnly(t, "attacks that succeed where the rules are not as they should be")
	s := newShadow(t)
	for _, f := range families(s.top) {
		t.Run("siblings/"+f.name, func(t *testing.T) {
			ip := map[int]string{32: "ip", 128: "ip6"}[f.bits]
			load(t, s.top.Host, fmt.Sprintf("insert rule inet nftnat nat-postrouting ct status dnat %s saddr %s masquerade\n", ip, f.backend2))
			require.Equal(t, shadowed(), s.attackVictim(t, f))
		})
		s.anyMasquerade = true
		replaceWayOut(t, s.top.Host, f, "masquerade")
		for _, network := range []string{"tcp", "udp"} {
			t.Run("masquerade/"+network+"/"+f.name, func(t *testing.T) {
				require.Equal(t, shadowed(), s.attack(t, network, f))
			})
		}
		replaceWayOut(t, s.top.Host, f, "masquerade fully-random")
		for _, network := range []string{"tcp", "udp"} {
			t.Run("masquerade fully-random/"+network+"/"+f.name, func(t *testing.T) {
				require.NotEmpty(t, s.attack(t, network, f))
			})
		}
	}
}

// shadow is a topology with a victim, backend 1, and an attacker, backend 2, in a masqueraded
// network.
type shadow struct {
	top  *lab.Topology
	next uint16 // the port that the client uses next
	// anyMasquerade is whether the way out is not that of an engine.
	anyMasquerade bool
}

func newShadow(t *testing.T) *shadow {
	t.Helper()
	s := &shadow{top: newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2}), next: 20000}
	e := open(t, s.top.Host, engine.Options{})
	for _, n := range []nat.Network{{Name: "inside4", Prefix: s.top.Inside4}, {Name: "inside6", Prefix: s.top.Inside6}} {
		_, err := e.CreateNetwork(t.Context(), n)
		require.NoError(t, err)
	}
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, s.top.Backend1, network, "victim", ":80")
		for _, f := range families(s.top) {
			for _, port := range shadowed() {
				publish(t, e, toward(f.wildcard, port, port)+"->"+at(f.backend1, 80)+suffix(network))
			}
		}
	}
	for _, f := range families(s.top) {
		publish(t, e, toward(f.wildcard, portOfPeer, portOfPeer)+"->"+at(f.backend1, portOfPeer)+"/udp")
		for port, front := range attackersFrontends() {
			for _, network := range []string{"tcp", "udp"} {
				publish(t, e, toward(f.wildcard, front, front)+"->"+at(f.backend2, port)+suffix(network))
			}
		}
	}
	// Closed, so that the engine does not repair the rules that the test replaces.
	require.NoError(t, e.Close())
	// The victim does not store what the attacker sends.
	load(t, s.top.Backend1, fmt.Sprintf(`table inet firewall { chain input {
		type filter hook input priority filter;
		udp dport %d udp length 8 drop; }; }`, portOfPeer))
	// Like most clients behind a firewall, this one does not answer unexpected packets: a
	// reset or an ICMP error would end the attacker's flow.
	load(t, s.top.Client, `table inet firewall { chain input {
		type filter hook input priority filter;
		meta l4proto { tcp, udp } ct state new drop; }; }`)
	return s
}

// attack returns the frontends at which the client reached the attacker.
func (s *shadow) attack(t *testing.T, network string, f family) (captured []int) {
	t.Helper()
	labtest.Exec(t, s.top.Host, "conntrack", "-F")
	s.next++
	client := netip.AddrPortFrom(f.client, s.next)
	labtest.Reaches(t, s.top.Client, network, at(f.host, 8080), "victim")
	require.Equal(t, shadowAttempts, spray(t, s.top.Backend2, network, f.backend2, client, shadowPorts()))
	for _, port := range shadowed() {
		// The kernel chooses to which of the host's addresses it masquerades.
		for _, host := range []netip.Addr{f.host, f.second} {
			name, _, err := askWithin(s.top.Client, network, at(host, port), client, answerTimeout)
			if err != nil || name != "victim" {
				t.Logf("%s %s: %s %v", network, at(host, port), name, err)
				captured = append(captured, port)
			}
		}
	}
	s.requireAttacked(t)
	s.requireOwnPorts(t, network, f)
	return captured
}

// attackersFrontends are what the attacker publishes, by its own ports: some that the victim has
// as frontends. What it sends from there leaves by its frontends.
func attackersFrontends() map[int]int {
	return map[int]int{53: 9053, 80: 9080, 8080: 9088, 500: 501, 40000: 65000}
}

// requireOwnPorts checks that the attacker left by its own frontends, and by ports of the range
// that is not for publishing.
func (s *shadow) requireOwnPorts(t *testing.T, network string, f family) {
	t.Helper()
	family := map[int]string{32: "ipv4", 128: "ipv6"}[f.bits]
	listing := labtest.Exec(t, s.top.Host, "conntrack", "-L", "-f", family, "-p", network, "-s", f.backend2.String())
	frontends := attackersFrontends()
	found := 0
	for _, flow := range attackersFlow.FindAllStringSubmatch(listing, -1) {
		var from, by int
		_, err := fmt.Sscan(flow[1]+" "+flow[2], &from, &by)
		require.NoError(t, err)
		if front, ok := frontends[from]; ok {
			require.True(t, s.anyMasquerade || by == front, "from %d by %d", from, by)
			found++
		} else {
			require.True(t, s.anyMasquerade || masqueradePort(uint16(by)), "from %d by %d", from, by)
		}
	}
	require.GreaterOrEqual(t, found, len(frontends)-1) // 40000 is not among the ports of the attack
}

// attackersFlow finds the source port of a flow, and the port by which it left.
var attackersFlow = regexp.MustCompile(`sport=(\d+) dport=\d+ .*dport=(\d+) `)

// portOfPeer is a port of the victim from which it also sends, as NTP and other peer-to-peer
// protocols do.
const portOfPeer = 85

// attackVictim returns the frontends at which the victim reached the attacker.
func (s *shadow) attackVictim(t *testing.T, f family) (captured []int) {
	t.Helper()
	labtest.Exec(t, s.top.Host, "conntrack", "-F")
	victim, err := s.top.Backend1.ListenPacket("udp", at(f.backend1, portOfPeer))
	require.NoError(t, err)
	defer func() { _ = victim.Close() }()
	frontend := netip.AddrPortFrom(f.host, portOfPeer)
	require.Equal(t, shadowAttempts, spray(t, s.top.Backend2, "udp", f.backend2, frontend, shadowPorts()))
	for i, port := range shadowed() {
		to := netip.AddrPortFrom(f.gateway, uint16(port))
		token := fmt.Sprint("token", i)
		_, err := victim.WriteTo([]byte(token), net.UDPAddrFromAddrPort(to))
		require.NoError(t, err)
		if name := answerTo(t, victim, token); name != "victim" {
			t.Logf("%s: %q", to, name)
			captured = append(captured, port)
		}
	}
	s.requireAttacked(t)
	return captured
}

// requireAttacked checks that the attacker's packets were sent.
func (s *shadow) requireAttacked(t *testing.T) {
	t.Helper()
	var flows int
	_, err := fmt.Sscan(labtest.Exec(t, s.top.Host, "conntrack", "-C"), &flows)
	require.NoError(t, err)
	require.Greater(t, flows, shadowAttempts*9/10)
}

// answerTo waits for the answer to one datagram among other answers, and returns the name of
// its server.
func answerTo(t *testing.T, c net.PacketConn, token string) string {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(silence)))
	buf := make([]byte, 512)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return err.Error()
		}
		if who, echo, _ := strings.Cut(string(buf[:n]), "\n"); echo == token {
			name, _, _ := strings.Cut(who, " ")
			return name
		}
	}
}

// shadowPorts returns the ports from which the attacker sends: first those that it wants to be
// masqueraded to, then all below 1024, then others.
func shadowPorts() []int {
	ports, twice := shadowed(), map[int]bool{}
	for _, port := range ports {
		twice[port] = true
	}
	for port := 1; len(ports) < shadowAttempts; port++ {
		if !twice[port] {
			ports = append(ports, port)
		}
	}
	return ports
}

// replaceWayOut replaces the masquerade rules of the networks.
func replaceWayOut(t *testing.T, host *lab.NS, f family, masquerade string) {
	t.Helper()
	ip, digit := "ip", "4"
	if f.bits == 128 {
		ip, digit = "ip6", "6"
	}
	load(t, host, fmt.Sprintf(
		"insert rule inet nftnat nat-postrouting %s saddr @masqueraded%s %s daddr != @networks%s %s\n", ip, digit, ip, digit, masquerade))
}
