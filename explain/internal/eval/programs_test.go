// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/rulestest"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// programHost is a host with the recorded rules of a program.
type programHost struct {
	*testing.T
	name      string
	addresses []netip.Addr
}

// recordedFacts have the rules of a recording.
type recordedFacts struct {
	facts
	*rules.Reader
}

func (f *recordedFacts) Rules(c *rules.Chain) ([]*rules.Rule, error) { return f.Reader.Rules(c) }

func (f *recordedFacts) Get(s *rules.Set, key []byte) (rules.Element, bool, error) {
	return f.Reader.Get(s, key)
}

func (f *recordedFacts) Elements(s *rules.Set, limit int) ([]rules.Element, bool, error) {
	return f.Reader.Elements(s, limit)
}

func (f *recordedFacts) Object(t *rules.Table, typ uint32, name string) (rules.Object, error) {
	return f.Reader.Object(t, typ, name)
}

func (f *recordedFacts) Recent(string) ([]xt.RecentEntry, error) { return nil, nil }

// recorded reads a recording: one of testdata, of a host that has nftnat's rules as well, or one of rulestest.
func recorded(t *testing.T, name string) (*rules.Ruleset, *recordedFacts) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".gz"))
	if errors.Is(err, fs.ErrNotExist) {
		r, rs := rulestest.Open(t, name)
		return rs, &recordedFacts{Reader: r}
	}
	require.NoError(t, err)
	source, err := rulestest.Load(b)
	require.NoError(t, err)
	r := rules.NewReader(source)
	rs, err := r.Read(t.Context())
	require.NoError(t, err)
	return rs, &recordedFacts{Reader: r}
}

// fibOf answers for a host that has some addresses. An address is reached by the interface that asks.
func fibOf(addresses []netip.Addr) func(p *Packet, hook, flags, result uint32) ([]byte, error) {
	return func(p *Packet, _, flags, result uint32) ([]byte, error) {
		const saddr, present = 1, 1 << 5
		a := p.Dst
		if flags&saddr != 0 {
			a = p.Src
		}
		if result == unix.NFT_FIB_RESULT_OIF && flags&present != 0 {
			return []byte{1}, nil
		}
		if result == unix.NFT_FIB_RESULT_OIF {
			return binary.NativeEndian.AppendUint32(nil, uint32(p.In.Index)), nil
		}
		typ := uint32(unix.RTN_UNICAST)
		switch {
		case slices.Contains(addresses, a):
			typ = unix.RTN_LOCAL
		case a.IsMulticast():
			typ = unix.RTN_MULTICAST
		}
		return binary.NativeEndian.AppendUint32(nil, typ), nil
	}
}

// stops runs a packet through hooks, and says what becomes of it: "passes", or by what it is stopped or may be.
// It returns the packet as it leaves.
func (h *programHost) stops(p Packet, hooks ...Hook) (string, Packet) {
	h.Helper()
	rs, facts := recorded(h.T, h.name)
	facts.fib = fibOf(h.addresses)
	var may []string
	for _, hook := range hooks {
		out, err := Run(rs, hook, p, facts)
		require.NoError(h, err)
		on := -1
		for i, o := range out {
			if o.End == Accepted && on < 0 {
				on = i
				continue
			}
			what := fmt.Sprintf("%s by %s of %s %s %s", o.End, "policy", o.Chain.Table.Family, o.Chain.Table.Name, o.Chain.Name)
			if o.By != nil {
				what = strings.Replace(what, "policy", fmt.Sprintf("rule %d", o.By.Index), 1)
			}
			if len(o.If) > 0 {
				may = append(may, fmt.Sprintf("%s if %s", what, o.If[0].Reason))
				continue
			}
			return what, o.Packet
		}
		if on < 0 {
			break
		}
		p = out[on].Packet
	}
	if len(may) > 0 {
		return strings.Join(may, "; "), p
	}
	return "passes", p
}

// forwarded is a client's packet to a frontend, and the answer of the backend that it is led to.
func (h *programHost) forwarded(from, to string, in, out Interface) (request, answer string, backend netip.AddrPort) {
	h.Helper()
	src, frontend := netip.MustParseAddr(from), netip.MustParseAddrPort(to)
	p := Packet{
		EtherType: unix.ETH_P_IP, Proto: unix.IPPROTO_TCP, TCPFlags: tcpSYN, Src: src, Dst: frontend.Addr(), DstPort: frontend.Port(),
		In: in, TTL: 64, Len: 60,
	}
	if src.Is6() {
		p.EtherType = unix.ETH_P_IPV6
	}
	request, p = h.stops(p, Prerouting)
	if request != "passes" {
		return request, "", backend
	}
	backend = netip.AddrPortFrom(p.Dst, p.DstPort)
	p.Out = out
	if request, p = h.stops(p, Forward, Postrouting); request != "passes" {
		return request, "", backend
	}
	conn := p.CT
	conn.State, conn.Reply, conn.Seen = Established, true, false
	conn.Status |= SeenReply | Confirmed
	a := Packet{
		EtherType: p.EtherType, Proto: p.Proto, TCPFlags: tcpSYN | tcpACK, Src: backend.Addr(), SrcPort: backend.Port(),
		Dst: p.Src, In: out, TTL: 64, Len: 60, CT: conn,
	}
	if answer, a = h.stops(a, Prerouting); answer != "passes" {
		return request, answer, backend
	}
	a.Out = in
	answer, a = h.stops(a, Forward, Postrouting)
	if answer == "passes" {
		require.Equal(h, frontend, netip.AddrPortFrom(a.Src, a.SrcPort), "the client knows the frontend alone")
		require.Equal(h, src, a.Dst)
	}
	return request, answer, backend
}

// arriving is a client's packet to the host itself.
func (h *programHost) arriving(proto uint8, from, to string, in Interface) string {
	h.Helper()
	src, dst := netip.MustParseAddr(from), netip.MustParseAddrPort(to)
	p := Packet{
		EtherType: unix.ETH_P_IP, Proto: proto, Src: src, Dst: dst.Addr(), DstPort: dst.Port(), In: in, TTL: 64, Len: 60,
	}
	if proto == unix.IPPROTO_TCP {
		p.TCPFlags = tcpSYN
	}
	if src.Is6() {
		p.EtherType = unix.ETH_P_IPV6
	}
	what, _ := h.stops(p, Prerouting, Input)
	return what
}

// The rules are those that the programs make, recorded while they ran (ufw, firewalld, dockerd, libvirtd), or
// in the structure that they have (fw4, kube-proxy, Docker's nftables).
func TestPrograms(t *testing.T) {
	lan := Interface{
		Index: 2, Name: "lan0", Type: unix.ARPHRD_ETHER, Kind: "veth",
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8:1::1/64")},
	}
	link := func(name, addr string) Interface {
		return Interface{Index: 3, Name: name, Type: unix.ARPHRD_ETHER, Kind: "bridge", Addresses: []netip.Prefix{netip.MustParsePrefix(addr)}}
	}
	br0 := link("br0", "172.30.0.1/24")
	addresses := []netip.Addr{}
	for _, a := range []string{"192.0.2.1", "2001:db8:1::1", "172.30.0.1", "172.17.0.1", "192.168.1.1", "203.0.113.5", "127.0.0.1"} {
		addresses = append(addresses, netip.MustParseAddr(a))
	}
	const client, frontend, backend = "192.0.2.2", "192.0.2.1:8080", "172.30.0.2:80"
	for _, tt := range []struct {
		rules             string
		from, to, backend string
		in, out           Interface
		request, answer   string
	}{
		{"beside-ufw", client, frontend, backend, lan, br0, "dropped by policy of ip filter FORWARD", ""},
		{"beside-ufw-allowed", client, frontend, backend, lan, br0, "passes", "passes"},
		{"beside-ufw-allowed", "172.30.0.3", frontend, backend, br0, br0, "passes", "passes"},
		{"beside-ufw-allowed", client, "192.0.2.1:9000", "192.0.2.1:9000", lan, br0, "dropped by policy of ip filter FORWARD", ""},
		{"beside-firewalld", client, frontend, backend, lan, br0, "passes", "passes"},
		{"beside-firewalld", "2001:db8:1::2", "[2001:db8:1::1]:8081", "[fd00:30::2]:80", lan, br0, "passes", "passes"},
		{"beside-firewalld", client, "172.30.0.2:80", "172.30.0.2:80", lan, br0, "dropped by rule 4 of inet nftnat filter-forward", ""},
		{"beside-docker", client, frontend, backend, lan, br0, "dropped by policy of ip filter FORWARD", ""},
		{"beside-docker", client, "192.0.2.1:8090", "172.17.0.2:80", lan, link("docker0", "172.17.0.1/16"), "passes", "passes"},
		{"beside-docker", "172.17.0.2", "198.51.100.1:443", "198.51.100.1:443", link("docker0", "172.17.0.1/16"), lan, "passes", "passes"},
		{"beside-docker-allowed", client, frontend, backend, lan, br0, "passes", "passes"},
		{"docker-nft", client, frontend, "172.17.0.2:80", lan, link("docker0", "172.17.0.1/16"), "passes", "passes"},
		{"docker-nft", client, "192.0.2.1:8081", "192.0.2.1:8081", lan, link("docker0", "172.17.0.1/16"), "dropped by rule 3 of ip docker-bridges filter-forward-in__docker0", ""},
		{"docker-nft", client, "172.17.0.2:80", "invalid AddrPort", lan, link("docker0", "172.17.0.1/16"), "dropped by rule 0 of ip docker-bridges raw-PREROUTING", ""},
		{"beside-libvirt", client, frontend, backend, lan, br0, "passes", "passes"},
		{"beside-libvirt", client, "192.0.2.1:8083", "192.168.122.50:80", lan, link("virbr0", "192.168.122.1/24"), "rejected by rule 1 of ip filter LIBVIRT_FWI", ""},
		{"beside-libvirt", "192.168.122.50", "198.51.100.1:443", "198.51.100.1:443", link("virbr0", "192.168.122.1/24"), lan, "passes", "passes"},
		{"fw4", "198.51.100.1", "203.0.113.5:8080", "192.168.1.10:80", link("wan", "203.0.113.5/24"), link("br-lan", "192.168.1.1/24"), "passes", "passes"},
		{"fw4", "192.168.1.20", "203.0.113.5:8080", "192.168.1.10:80", link("br-lan", "192.168.1.1/24"), link("br-lan", "192.168.1.1/24"), "passes", "passes"},
		{"fw4", "198.51.100.1", "203.0.113.5:8081", "203.0.113.5:8081", link("wan", "203.0.113.5/24"), link("br-lan", "192.168.1.1/24"), "rejected by rule 0 of inet fw4 handle_reject", ""},
		{"kube-proxy", client, "10.96.0.77:80", "10.96.0.77:80", lan, br0, "rejected by rule 0 of ip kube-proxy reject-chain", ""},
		{"kube-proxy", client, "10.96.0.1:81", "10.96.0.1:81", lan, br0, "rejected by rule 0 of ip kube-proxy cluster-ips-check", ""},
		{"kube-proxy", client, "10.96.3.1:81", "10.96.3.1:81", lan, br0, "dropped by rule 1 of ip kube-proxy cluster-ips-check", ""},
		{"kube-proxy", client, "172.30.0.2:81", "172.30.0.2:81", lan, br0, "passes", "passes"},
	} {
		t.Run(tt.rules+" "+tt.from+" "+tt.to, func(t *testing.T) {
			h := &programHost{t, tt.rules, addresses}
			request, answer, to := h.forwarded(tt.from, tt.to, tt.in, tt.out)
			require.Equal(t, tt.request, request)
			require.Equal(t, tt.answer, answer)
			require.Equal(t, tt.backend, to.String())
		})
	}
	for _, tt := range []struct {
		rules    string
		proto    uint8
		from, to string
		in       Interface
		want     string
	}{
		{"beside-ufw", unix.IPPROTO_TCP, client, "192.0.2.1:22", lan, "passes"},
		{"beside-ufw", unix.IPPROTO_TCP, client, "192.0.2.1:8082", lan, "dropped by policy of ip filter INPUT"},
		{"beside-ufw", unix.IPPROTO_TCP, client, "192.0.2.1:2222", lan, "passes"},
		{"beside-ufw", unix.IPPROTO_UDP, client, "192.0.2.1:68", lan, "dropped by rule 0 of ip filter ufw-skip-to-policy-input"},
		{"beside-ufw", unix.IPPROTO_TCP, "2001:db8:1::2", "[2001:db8:1::1]:8080", lan, "dropped by policy of ip6 filter INPUT"},
		{"beside-ufw-allowed", unix.IPPROTO_TCP, "2001:db8:1::2", "[2001:db8:1::1]:8080", lan, "passes"},
		{"beside-firewalld", unix.IPPROTO_TCP, "2001:db8:1::2", "[2001:db8:1::1]:8080", lan, "rejected by rule 8 of inet firewalld filter_IN_public"},
		{"fw4", unix.IPPROTO_TCP, "192.168.1.20", "192.168.1.1:80", link("br-lan", "192.168.1.1/24"), "dropped by rule 1 of inet fw4 syn_flood if a limit"},
		{"fw4", unix.IPPROTO_UDP, "192.168.1.20", "192.168.1.1:53", link("br-lan", "192.168.1.1/24"), "passes"},
		{"beside-libvirt", unix.IPPROTO_UDP, "192.168.122.50", "192.168.122.1:53", link("virbr0", "192.168.122.1/24"), "passes"},
		{"beside-docker", unix.IPPROTO_TCP, client, "192.0.2.1:22", lan, "passes"},
	} {
		t.Run(tt.rules+" "+tt.from+" "+tt.to, func(t *testing.T) {
			require.Equal(t, tt.want, (&programHost{t, tt.rules, addresses}).arriving(tt.proto, tt.from, tt.to, tt.in))
		})
	}
}

// A service of kube-proxy has two endpoints, of which each packet gets one.
func TestKubeProxy(t *testing.T) {
	for _, to := range []string{"10.96.0.10:80", "192.0.2.1:30080"} {
		rs, facts := recorded(t, "kube-proxy")
		facts.fib = fibOf([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
		p := syn()
		dst := netip.MustParseAddrPort(to)
		p.Dst, p.DstPort = dst.Addr(), dst.Port()
		p.Src = netip.MustParseAddr("10.1.1.1")
		out, err := Run(rs, Prerouting, p, facts)
		require.NoError(t, err)
		require.Len(t, out, 2)
		for _, o := range out {
			require.Equal(t, Accepted, o.End)
			require.Contains(t, o.If[0].Reason, "number")
			require.Contains(t, []string{"10.180.0.1", "10.180.0.2"}, o.Packet.Dst.String())
		}
	}
}
