// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// designFile is the file of the design, and what it says.
func designFile(tb testing.TB) (string, nat.State) {
	tb.Helper()
	inside, err := nat.ParseNetwork("inside", "172.30.0.0/24", "172.30.0.1")
	require.NoError(tb, err)
	web, err := nat.ParseEndpointSpec("web", "inside", "172.30.0.2", "8080:80", "53:53/udp")
	require.NoError(tb, err)
	return `networks:  [{name: inside, prefix: 172.30.0.0/24, gateway: 172.30.0.1}]
endpoints: [{name: web, network: inside, address: 172.30.0.2, ports: ["8080:80", "53:53/udp"]}]
mappings:
  - 8081->172.17.0.2:80
  - {mapping: "54->172.17.0.2:53/udp", name: dns, proxy: false, expires: 2027-01-01T00:00:00Z}
`, nat.State{
			Networks: []nat.Network{inside}, Endpoints: []nat.EndpointSpec{web},
			Mappings: []nat.Mapping{mapped(tb, "8081->172.17.0.2:80"), func() nat.Mapping {
				m := named(tb)
				m.Frontend = netip.AddrPortFrom(netip.Addr{}, 54)
				return m
			}()},
		}
}

func TestDecodeSections(t *testing.T) {
	text, want := designFile(t)
	network := func(words ...string) nat.Network {
		n, err := nat.ParseNetwork(words[0], words[1], words[2])
		require.NoError(t, err)
		return n
	}
	quiet := network("q", "fd00::/64", "fd00::9")
	quiet.NoMasquerade, quiet.NoGuard, quiet.Next = true, true, netip.MustParseAddr("fd00::")
	web := nat.EndpointSpec{Name: "web", Address: netip.MustParseAddr("10.0.0.2")}
	for name, tt := range map[string]struct {
		text string
		want nat.State
	}{
		"design":         {text, want},
		"other order":    {"endpoints: [{address: 10.0.0.2, name: web}]\nnetworks: [{prefix: 10.0.0.0/8, name: a}]\n", nat.State{Networks: []nat.Network{network("a", "10.0.0.0/8", "")}, Endpoints: []nat.EndpointSpec{web}}},
		"empty sections": {"networks: []\nendpoints: []\nmappings: []\n", nat.State{}},
		"network alone":  {"networks: [{name: a, prefix: 10.0.0.0/8}]", nat.State{Networks: []nat.Network{network("a", "10.0.0.0/8", "")}}},
		"all of a network": {"networks:\n- name: q\n  prefix: fd00::/64\n  gateway: fd00::9\n  next: \"fd00::\"\n  masquerade: false\n  guard: false\n",
			nat.State{Networks: []nat.Network{quiet}}},
		"what is so anyway": {"networks: [{name: a, prefix: 10.0.0.0/8, masquerade: true, guard: true}]\nendpoints:\n- name: web\n  address: 10.0.0.2\n  ports:\n",
			nat.State{Networks: []nat.Network{network("a", "10.0.0.0/8", "")}, Endpoints: []nat.EndpointSpec{web}}},
		"aliases": {"networks: [{name: &n a, prefix: 10.0.0.0/8}]\nendpoints: [{name: web, network: *n, address: &a 10.0.0.2}]\n", nat.State{
			Networks: []nat.Network{network("a", "10.0.0.0/8", "")}, Endpoints: []nat.EndpointSpec{{Name: "web", Network: "a", Address: web.Address}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(strings.NewReader(tt.text), "f")
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestDecodeSectionErrors(t *testing.T) {
	const (
		net = "networks:\n- {name: a, prefix: 10.0.0.0/24}\n"
		web = net + "endpoints:\n- {name: web, network: a, address: 10.0.0.2, ports: [\"8080:80\"]}\n"
	)
	for _, tt := range []struct{ text, want string }{
		{"networks: 5\n", `f:1: invalid networks "5": not a list`},
		{"networks:\n- a\n", `f:2: invalid network "a": not an object`},
		{"networks:\n- {name: a, prefix: 10.0.0.0}\n", `f:2: invalid prefix "10.0.0.0": a network is written ADDRESS/LENGTH, as in 172.30.0.0/24`},
		{"networks:\n- {name: a}\n", `f:2: invalid prefix "": a network is written ADDRESS/LENGTH, as in 172.30.0.0/24`},
		{"networks:\n- {prefix: 10.0.0.0/8}\n", `f:2: invalid network " 10.0.0.0/8": no name is given`},
		{"networks:\n- {name: 5, prefix: 10.0.0.0/8}\n", `f:2: invalid name "5": not a text; quote it`},
		{"networks:\n- {name: \"5 a\", prefix: 10.0.0.0/8}\n", `f:2: invalid network "5 a 10.0.0.0/8": name has a byte other than letters, digits, dots, dashes and underscores at byte 2`},
		{"networks:\n- name: a\n  prefix: 10.0.0.1/8\n", `f:2: invalid network "a 10.0.0.1/8": the address has bits beyond the prefix; the network is 10.0.0.0/8`},
		{"networks:\n- name: a\n  prefix: 10.0.0.0/8\n  gateway: 11.0.0.1\n", `f:2: invalid network "a 10.0.0.0/8": the gateway 11.0.0.1 is not in it`},
		{"networks:\n- name: a\n  prefix: 10.0.0.0/8\n  next: soon\n", `f:2: invalid next address "soon": it is not an IP address`},
		{"networks:\n- name: a\n  prefix: 10.0.0.0/8\n  guard: no\n", `f:4: invalid guard "no": true or false`},
		{"networks:\n- name: a\n  prefix: 10.0.0.0/8\n  guard:\n", `f:4: invalid key "guard": it has no value`},
		{"networks:\n- name: a\n  prefix: 10.0.0.0/8\n  ports: []\n", `f:4: invalid key "ports": an item of networks has the keys name, prefix, gateway, next, masquerade and guard`},
		{net + "- {name: a, prefix: 11.0.0.0/8}\n", `f:3: invalid network "a 11.0.0.0/8": there are two of that name (the first is in line 2)`},
		{net + "- {name: b, prefix: 10.9.0.0/16}\n- {name: c, prefix: 10.0.0.0/8}\n", `f:4: invalid network "c 10.0.0.0/8": it overlaps network a 10.0.0.0/24 (the first is in line 2)`},

		{"endpoints:\n- web\n", `f:2: invalid endpoint "web": not an object`},
		{net + "endpoints:\n- {name: web, host: b}\n", `f:4: invalid key "host": not known`},
		{net + "endpoints:\n- {name: web, prefix: b}\n", `f:4: invalid key "prefix": an item of endpoints has the keys name, network, address and ports`},
		{net + "endpoints:\n- {address: 10.0.0.2}\n", `f:4: invalid endpoint "": no name is given`},
		{net + "endpoints:\n- {name: web}\n", `f:4: invalid endpoint "web": it has no address, and a file says which`},
		{net + "endpoints:\n- {name: web, address: 10.0.0.x}\n", `f:4: invalid address "10.0.0.x": "10.0.0.x" is not an IP address`},
		{net + "endpoints:\n- {name: web, address: 127.0.0.1}\n", `f:4: invalid address "127.0.0.1": it is a loopback address, which packets from outside cannot be sent to`},
		{net + "endpoints:\n- {name: web, address: 10.0.1.2}\n", `f:4: invalid endpoint "web": address 10.0.1.2 is in no network of the file`},
		{net + "endpoints:\n- {name: web, address: 9.0.1.2}\n", `f:4: invalid endpoint "web": address 9.0.1.2 is in no network of the file`},
		{"endpoints:\n- {name: web, address: 10.0.0.2}\n", `f:2: invalid endpoint "web": address 10.0.0.2 is in no network of the file`},
		{net + "endpoints:\n- {name: web, network: b, address: 10.0.0.2}\n", `f:4: invalid endpoint "web": address 10.0.0.2 is in network a 10.0.0.0/24, and not in b`},
		{net + "endpoints:\n- {name: web, address: 10.0.0.1}\n", `f:4: invalid endpoint "web": address 10.0.0.1 is the gateway of network a 10.0.0.0/24`},
		{net + "endpoints:\n- {name: web, address: 10.0.0.0}\n", `f:4: invalid endpoint "web": address 10.0.0.0 is the first of network a 10.0.0.0/24, which no host has`},
		{net + "endpoints:\n- {name: web, address: 10.0.0.255}\n", `f:4: invalid endpoint "web": address 10.0.0.255 is the broadcast address of network a 10.0.0.0/24`},
		{"networks: [{name: a, prefix: 10.0.0.0/31}]\nendpoints: [{name: web, address: 10.0.0.0}]\n", `f:2: invalid endpoint "web": address 10.0.0.0 is the gateway of network a 10.0.0.0/31`},
		{web + "- {name: web, address: 10.0.0.3}\n", `f:5: invalid endpoint "web": there are two of that name (the first is in line 4)`},
		{web + "- {name: dns, address: 10.0.0.2}\n", `f:5: invalid endpoint "dns": address 10.0.0.2 is that of endpoint web (the first is in line 4)`},
		{net + "endpoints:\n- name: web\n  address: 10.0.0.2\n  ports:\n  - 8080:80\n  - 4503/tcp/udp\n", `f:8: Invalid port format: "4503/tcp/udp"`},
		{net + "endpoints:\n- name: web\n  address: 10.0.0.2\n  ports:\n  - 8080:80\n  - 80/tcpgarbage\n", `f:8: Invalid port format: unknown protocol tcpgarbage.`},
		{net + "endpoints:\n- name: web\n  address: 10.0.0.2\n  ports: [80]\n", `f:6: invalid ports "80": not a text; quote it`},
		{net + "endpoints:\n- name: web\n  address: 10.0.0.2\n  ports: \"80:80\"\n", `f:6: invalid ports "80:80": not a list`},
		{net + "endpoints:\n- name: web\n  address: 10.0.0.2\n  ports:\n  - 8080:80\n  - \"80\"\n", `f:8: invalid port "80": frontend 0 asks for a free port, and a file says which`},
		{net + "endpoints:\n- name: web\n  address: 10.0.0.2\n  ports:\n  - \"[ff02::1]:8080:80\"\n", `f:7: invalid mapping "[ff02::1]:8080->10.0.0.2:80": the frontend is a multicast address`},
		{net + "endpoints:\n- name: web\n  address: 10.0.0.2\n  ports:\n  - 8080:80\n  - 8080:81\n", `f:8: mappings 8080->10.0.0.2:80 and 8080->10.0.0.2:81 overlap: both claim tcp port 8080 (the first is in line 7)`},
		{web + "mappings:\n- 1->10.0.0.2\n- 8080->1.2.3.4\n", `f:7: mappings 8080->10.0.0.2:80 and 8080->1.2.3.4:8080 overlap: both claim tcp port 8080 (the first is in line 4)`},
		{"endpoints: [{ports: [[[[", `f:1: invalid YAML "[": nested too deeply`},
	} {
		s, err := Decode(strings.NewReader(tt.text), "f")
		require.EqualError(t, err, tt.want, "%q", tt.text)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.Zero(t, s)
	}
}

// A few bytes of aliases stand for no millions of ports.
func TestDecodeAliasesOfLists(t *testing.T) {
	text := "networks: [{name: a, prefix: 10.0.0.0/8}]\nendpoints:\n- {name: e, address: 10.0.0.2, ports: &p [" + strings.Repeat(`"1:1",`, 10000) + "]}\n" +
		strings.Repeat("- {name: e, address: 10.0.0.2, ports: *p}\n", 10000)
	_, err := Decode(strings.NewReader(text), "f")
	require.ErrorIs(t, err, nat.ErrInvalid)
	require.ErrorContains(t, err, "aliases make more of it than there can be")
}

func TestEncodeSections(t *testing.T) {
	_, s := designFile(t)
	six, err := nat.ParseNetwork("6.x", "fd00:30::/64", "")
	require.NoError(t, err)
	six.Next, six.NoMasquerade, six.NoGuard = netip.MustParseAddr("fd00:30::"), true, true
	null, err := nat.ParseEndpointSpec("null", "6.x", "fd00:30::7", "[2001:db8::1]:80:80", "9001:81", "9000:80", "55:53/udp")
	require.NoError(t, err)
	s.Networks = append(s.Networks, six)
	s.Endpoints = append(s.Endpoints, null, nat.EndpointSpec{Name: "bare", Address: netip.MustParseAddr("172.30.0.9")})
	s.Endpoints[0].Ports[1].Frontend = netip.MustParseAddrPort("192.0.2.1:53")
	before := slices.Clone(s.Endpoints)
	require.Equal(t, endPromise+`
version: 1
networks:
  - {name: "6.x", prefix: "fd00:30::/64", next: "fd00:30::", masquerade: false, guard: false}
  - {name: inside, prefix: 172.30.0.0/24, gateway: 172.30.0.1}
endpoints:
  - {name: bare, address: 172.30.0.9}
  - {name: "null", network: "6.x", address: "fd00:30::7", ports: ["9000-9001:80-81", "[2001:db8::1]:80:80", "55:53/udp"]}
  - {name: web, network: inside, address: 172.30.0.2, ports: ["8080:80", "192.0.2.1:53:53/udp"]}
mappings:
  - 8081->172.17.0.2:80
  - {mapping: "54->172.17.0.2:53/udp", name: dns, proxy: false, expires: 2027-01-01T00:00:00Z}
...
`, encodeState(t, s))
	require.Equal(t, before, s.Endpoints, "the argument is left alone")

	s.Endpoints[0].Ports[0].Frontend = netip.AddrPort{}
	var b strings.Builder
	require.EqualError(t, Encode(&b, s), `encode state: invalid port "80": frontend 0 asks for a free port, and a file says which`)
	s.Networks = s.Networks[:1]
	require.EqualError(t, Encode(&b, s), `encode state: invalid port "80": frontend 0 asks for a free port, and a file says which`)
	s.Endpoints = s.Endpoints[1:]
	require.EqualError(t, Encode(&b, s), `encode state: invalid endpoint "null": address fd00:30::7 is in no network of the file`)
	require.Zero(t, b.Len(), "nothing is begun")
}

func encodeState(tb testing.TB, s nat.State) string {
	tb.Helper()
	var b strings.Builder
	require.NoError(tb, Encode(&b, s))
	return b.String()
}

// randomState is a valid state in canonical order.
func randomState(r *rand.Rand) nat.State {
	s := nat.State{Mappings: nat.Collapse(randomMappings(r))}
	for i := range r.IntN(4) {
		n := nat.Network{Name: randomLabel(r, i), Prefix: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/%d", i, 16+r.IntN(15)))}
		if r.IntN(2) == 0 {
			n.Prefix = netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/%d", i, 64+r.IntN(63)))
		}
		if r.IntN(2) == 0 {
			n.Gateway, n.Next = n.Prefix.Addr().Next(), n.Prefix.Addr()
		}
		n.NoMasquerade, n.NoGuard = r.IntN(3) == 0, r.IntN(3) == 0
		s.Networks = append(s.Networks, n)
		at := n.Prefix.Addr().Next().Next()
		for j := range r.IntN(3) {
			a := nat.EndpointSpec{Name: randomLabel(r, 10*i+j), Address: at}
			if r.IntN(4) != 0 {
				a.Network = n.Name
			}
			at = at.Next()
			for range r.IntN(4) {
				a.Ports = append(a.Ports, nat.PortSpec{
					Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(1000+r.IntN(1000))),
					Backend: uint16(1 + r.IntN(9)), More: uint16(r.IntN(3)),
				})
			}
			if with := (nat.State{Networks: s.Networks, Endpoints: append(slices.Clone(s.Endpoints), a), Mappings: s.Mappings}); (&document{state: with}).validate() == nil {
				s.Endpoints = with.Endpoints
			}
		}
	}
	slices.SortFunc(s.Networks, byNetworkName)
	slices.SortFunc(s.Endpoints, byEndpointName)
	for i, a := range s.Endpoints {
		ms := make([]nat.Mapping, len(a.Ports))
		for j, spec := range a.Ports {
			ms[j] = spec.Mapping(a.Name, a.Address)
		}
		s.Endpoints[i].Ports = nil
		for _, m := range nat.Collapse(ms) {
			s.Endpoints[i].Ports = append(s.Endpoints[i].Ports, nat.PortSpec{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend.Port(), More: m.More})
		}
	}
	return s
}

// randomLabel is the i-th name, which means something to YAML.
func randomLabel(r *rand.Rand, i int) string {
	heads := []string{"web", "null", "1e5", "0x1", "yes", "a.b", "_", "5"}
	return strings.TrimLeft(heads[r.IntN(len(heads))], "_") + fmt.Sprintf("%02d", i)
}

func TestDecodeUndoesEncodeSections(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	endpoints := 0
	for range 2000 {
		want := randomState(r)
		require.Nil(t, (&document{state: want}).validate(), "%v", want)
		endpoints += len(want.Endpoints)
		text := encodeState(t, want)
		got, err := Decode(strings.NewReader(text), "f")
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		stored, err := decodeFile(written(t, nat.StoredState{State: want}), "f")
		require.NoError(t, err, text)
		require.Equal(t, want, stored.State, text)
		slow, fault := decodeYAML(strings.Replace(written(t, nat.StoredState{State: want}), "\"checksum\"", "#", 1))
		require.Nil(t, fault, "JSON is YAML: %s", text)
		require.Equal(t, want, slow, text)
	}
	require.Greater(t, endpoints, 1000)
}
