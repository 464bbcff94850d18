// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func TestValidateAddresses(t *testing.T) {
	const (
		zone     = "an address with a zone, which means different hosts on different links"
		loopback = "a loopback address, which packets from outside cannot be sent to"
		thisNet  = `in 0.0.0.0/8, "this network" (RFC 1122 section 3.2.1.3)`
		llBack   = "an IPv6 link-local address, which needs a zone and cannot be the target of DNAT"
		llFront  = "an IPv6 link-local address, which needs a zone"
		none     = "the unspecified address, which is no host"
		mapped4  = "an IPv4 address written as IPv6"
	)
	for addr, tt := range map[string]struct{ frontend, backend string }{
		"192.0.2.1":          {},
		"10.0.0.0":           {},
		"169.254.1.1":        {}, // IPv4 link-local addresses are routed to by microVM hosts
		"240.0.0.1":          {},
		"255.255.255.254":    {},
		"2001:db8::1":        {},
		"fd00::2":            {},
		"0.0.0.0":            {backend: none},
		"::":                 {backend: none},
		"0.0.0.1":            {backend: thisNet},
		"0.255.255.255":      {backend: thisNet},
		"1.0.0.0":            {},
		"127.0.0.1":          {backend: loopback},
		"127.255.255.254":    {backend: loopback},
		"::1":                {backend: loopback},
		"224.0.0.1":          {"a multicast address", "a multicast address"},
		"239.255.255.255":    {"a multicast address", "a multicast address"},
		"ff02::1":            {"a multicast address", "a multicast address"},
		"255.255.255.255":    {"the broadcast address", "the broadcast address"},
		"fe80::1":            {llFront, llBack},
		"febf::1":            {llFront, llBack},
		"fec0::1":            {},
		"fe80::1%eth0":       {zone, zone},
		"2001:db8::1%eth0":   {zone, zone},
		"::ffff:192.0.2.1":   {mapped4, mapped4},
		"::ffff:127.0.0.1":   {mapped4, mapped4},
		"::ffff:0.0.0.0":     {mapped4, mapped4},
		"::ffff:224.0.0.1":   {mapped4, mapped4},
		"::ffff:1.2.3.4%lo0": {zone, zone},
	} {
		a := netip.MustParseAddr(addr)
		other := netip.MustParseAddr("172.17.0.2")
		if a.Is6() {
			other = netip.MustParseAddr("fd00::2")
		}
		check := func(m nat.Mapping, side, kind string) {
			err := m.Validate()
			if kind == "" {
				require.NoError(t, err, m)
				return
			}
			require.EqualError(t, err, `invalid mapping "`+m.String()+`": the `+side+" is "+kind)
			require.ErrorIs(t, err, nat.ErrInvalid)
		}
		check(nat.Mapping{Proto: nat.TCP, Frontend: netip.AddrPortFrom(a, 80), Backend: netip.AddrPortFrom(other, 80)}, "frontend", tt.frontend)
		check(nat.Mapping{Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 80), Backend: netip.AddrPortFrom(a, 80)}, "backend", tt.backend)
	}
}

func TestValidateFamilies(t *testing.T) {
	for _, text := range []string{
		"80->172.17.0.2", "80->fd00::2", "0->172.17.0.2:80", "0.0.0.0:80->172.17.0.2", "[::]:80->fd00::2",
		"127.0.0.1:80->172.17.0.2", "127.9.9.9:80->172.17.0.2", "[::1]:80->fd00::2",
	} {
		require.NoError(t, nattest.Mapping(t, text).Validate(), text)
	}
	for text, want := range map[string]string{
		"0.0.0.0:80->fd00::2": "of IPv4 and the backend of IPv6", "192.0.2.1:80->fd00::2": "of IPv4 and the backend of IPv6",
		"[::]:80->172.17.0.2": "of IPv6 and the backend of IPv4", "[2001:db8::1]:0->172.17.0.2:80": "of IPv6 and the backend of IPv4",
		"127.0.0.1:80->fd00::2": "a loopback address", "[::1]:80->172.17.0.2": "a loopback address",
		"127.0.0.1:80->172.17.0.2": "a loopback address",
	} {
		m := nattest.Mapping(t, text)
		require.NoError(t, m.Validate(), text)
		m.NoProxy = true
		require.EqualError(t, m.Validate(), `invalid mapping "`+m.String()+`": the frontend is `+want+
			", which only a proxy serves, and the mapping has none")
	}
}

func TestValidateRest(t *testing.T) {
	good := nattest.Mapping(t, "8080->172.17.0.2:80")
	good.Name, good.NoProxy, good.Expires = strings.Repeat("n", 63), true, time.Date(2027, 1, 1, 0, 0, 0, 5, time.UTC)
	require.NoError(t, good.Validate())
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.Addr{}, port) }
	back := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("172.17.0.2"), port)
	}
	for _, tt := range []struct {
		change func(*nat.Mapping)
		want   string // "": good
	}{
		{func(m *nat.Mapping) { m.Proto = 0 }, "no protocol is given"},
		{func(m *nat.Mapping) { m.Proto = 132 }, "protocol 132 is neither tcp (6) nor udp (17)"},
		{func(m *nat.Mapping) { m.Backend = netip.AddrPort{} }, "no backend address is given"},
		{func(m *nat.Mapping) { m.Backend = back(0) }, "the backend port is 0"},
		{func(m *nat.Mapping) { m.Frontend = at(65535) }, ""},
		{func(m *nat.Mapping) { m.Frontend, m.More = at(65535), 1 }, "the frontend range passes port 65535"},
		{func(m *nat.Mapping) { m.Frontend, m.More = at(65534), 1 }, ""},
		{func(m *nat.Mapping) { m.Backend, m.More = back(65535), 1 }, "the backend range passes port 65535"},
		{func(m *nat.Mapping) { m.Frontend, m.Backend, m.More = at(1), back(1), 65534 }, ""},
		{func(m *nat.Mapping) { m.Frontend, m.Backend, m.More = at(0), back(1), 65534 }, ""},
		{func(m *nat.Mapping) { m.Frontend, m.Backend, m.More = at(0), back(1), 65535 }, "the backend range passes port 65535"},
		{func(m *nat.Mapping) { m.Frontend = netip.MustParseAddrPort("127.0.0.1:80") },
			"the frontend is a loopback address, which only a proxy serves, and the mapping has none"},
		{func(m *nat.Mapping) { m.Name = "" }, ""},
		{func(m *nat.Mapping) { m.Name = "Zoë's web 1/\\{}()'`" }, ""},
		{func(m *nat.Mapping) { m.Name = strings.Repeat("n", 4096) }, ""},
		{func(m *nat.Mapping) { m.Name = strings.Repeat("n", 4097) }, "name has 4097 bytes, more than 4096"},
		{func(m *nat.Mapping) { m.Name = strings.Repeat("n", 99) + "\n" }, "name has a control character at byte 100"},
		{func(m *nat.Mapping) { m.Name = strings.Repeat("n", 99) + " [no-proxy]" }, ""},
		{func(m *nat.Mapping) { m.Hold = nat.HoldShared }, ""},
		{func(m *nat.Mapping) { m.Hold = 2 }, "Hold(2) is neither own nor shared"},
		{func(m *nat.Mapping) { m.Frontend, m.Hold = at(0), nat.HoldShared }, "the port is shared, so that it has to be given: a free one is nobody's"},
		{func(m *nat.Mapping) { m.Name = "ab\x01c" }, "name has a control character at byte 3"},
		{func(m *nat.Mapping) { m.Name = "é\n" }, "name has a control character at byte 3"},
		{func(m *nat.Mapping) { m.Name = "\u0085" }, "name has a control character at byte 1"},
		{func(m *nat.Mapping) { m.Name = "a\x7f" }, "name has a control character at byte 2"},
		{func(m *nat.Mapping) { m.Name = "a\xffb" }, "name is not UTF-8 at byte 2"},
		{func(m *nat.Mapping) { m.Name = "a\ufffdb" }, ""},
		{func(m *nat.Mapping) { m.Name = `a"` }, `name has a " at byte 2`},
		{func(m *nat.Mapping) { m.Name = "  [a] b]\u00a0" }, ""},
		{func(m *nat.Mapping) { m.Name = "a[no-proxy]" }, ""},
		{func(m *nat.Mapping) { m.Name = "a [no-proxy] " }, ""},
		{func(m *nat.Mapping) { m.Name = "a [one-family]" }, "name ends in [one-family], which says how a mapping is published"},
		{func(m *nat.Mapping) { m.Name = "a [shared]" }, "name ends in [shared], which says how a mapping is published"},
		{func(m *nat.Mapping) { m.Name = "[x no-proxy]" }, "name ends in [x no-proxy], which says how a mapping is published"},
		{func(m *nat.Mapping) { m.Expires = time.Time{} }, ""},
		{func(m *nat.Mapping) { m.Expires = time.Now().UTC() }, ""},
		{func(m *nat.Mapping) { m.Expires = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }, ""},
		{func(m *nat.Mapping) { m.Expires = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "expires in year 10000, which is not of four digits"},
		{func(m *nat.Mapping) { m.Expires = time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC) }, "expires in year 0, which is not of four digits"},
	} {
		m := good
		tt.change(&m)
		err := m.Validate()
		if tt.want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, `invalid mapping "`+m.String()+`": `+tt.want)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.ErrorIs(t, nat.ValidateAll(good, m), nat.ErrInvalid, "ValidateAll looks at each")
	}
}

func TestValidateAll(t *testing.T) {
	require.NoError(t, nat.ValidateAll())
	for _, tt := range []struct {
		a, b string
		port string // "": no overlap
	}{
		{"80->1.2.3.4", "81->1.2.3.4", ""},
		{"80->1.2.3.4", "80->1.2.3.4/udp", ""},
		{"80->1.2.3.4", "80->1.2.3.4", "80"},
		{"80->1.2.3.4", "80->1.2.3.5", "80"},
		{"80->1.2.3.4", "0.0.0.0:80->1.2.3.5", "80"},
		{"80->1.2.3.4", "[::]:80->fd00::2", "80"},
		{"80->1.2.3.4", "192.0.2.1:80->1.2.3.5", "80"},
		{"80->1.2.3.4", "[2001:db8::1]:80->fd00::2", "80"},
		{"0.0.0.0:80->1.2.3.4", "192.0.2.1:80->1.2.3.5", "80"},
		{"0.0.0.0:80->1.2.3.4", "[2001:db8::1]:80->fd00::2", ""},
		{"0.0.0.0:80->1.2.3.4", "[::]:80->fd00::2", ""},
		{"0.0.0.0:80->1.2.3.4", "0.0.0.0:80->1.2.3.5", "80"},
		{"[::]:80->fd00::2", "[2001:db8::1]:80->fd00::2", "80"},
		{"[::]:80->fd00::2", "192.0.2.1:80->1.2.3.5", ""},
		{"[::]:80->fd00::2", "[::]:80->fd00::3", "80"},
		{"192.0.2.1:80->1.2.3.4", "192.0.2.1:80->1.2.3.5", "80"},
		{"192.0.2.1:80->1.2.3.4", "192.0.2.2:80->1.2.3.4", ""},
		{"80-89->1.2.3.4", "89-99->1.2.3.4", "89"},
		{"80-89->1.2.3.4", "90-99->1.2.3.4", ""},
		{"80-89->1.2.3.4", "192.0.2.1:85->1.2.3.5", "85"},
		{"1-65535->1.2.3.4", "65535->1.2.3.5", "65535"},
		{"0->1.2.3.4:80", "0->1.2.3.4:80", ""},
		{"0->1.2.3.4:1-9999", "80->1.2.3.4", ""},
	} {
		a, b := nattest.Mapping(t, tt.a), nattest.Mapping(t, tt.b)
		for _, pair := range [][]nat.Mapping{{a, b}, {b, a}} {
			err := nat.ValidateAll(pair...)
			if tt.port == "" {
				require.NoError(t, err)
				continue
			}
			require.EqualError(t, err, "mappings "+pair[0].String()+" and "+pair[1].String()+" overlap: both claim tcp port "+tt.port)
			require.ErrorIs(t, err, nat.ErrInvalid)
			var typed *nat.OverlapError
			require.ErrorAs(t, err, &typed)
			require.Equal(t, nat.OverlapError{A: pair[0], B: pair[1], I: 0, J: 1}, *typed)
		}
	}
}

// overlaps is what ValidateAll sweeps for, in the words of the contract.
func overlaps(a, b nat.Mapping) bool {
	fa, fb := a.Frontend, b.Frontend
	if a.Proto != b.Proto || fa.Port() == 0 || fb.Port() == 0 ||
		int(fa.Port())+int(a.More) < int(fb.Port()) || int(fb.Port())+int(b.More) < int(fa.Port()) {
		return false
	}
	ha, hb := fa.Addr(), fb.Addr()
	if !ha.IsValid() || !hb.IsValid() {
		return true
	}
	return ha == hb || ha.BitLen() == hb.BitLen() && (ha.IsUnspecified() || hb.IsUnspecified())
}

func TestValidateAllAgainstEveryPair(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	verdicts := map[bool]int{}
	for range 3000 {
		ms := disjoint(r, r.IntN(8))
		ms = append(ms, nattest.Random(r))
		r.Shuffle(len(ms), func(i, j int) { ms[i], ms[j] = ms[j], ms[i] })
		want := false
		for i, a := range ms {
			want = want || slices.ContainsFunc(ms[i+1:], func(b nat.Mapping) bool { return overlaps(a, b) })
		}
		err := nat.ValidateAll(ms...)
		require.Equal(t, want, err != nil, "%v: %v", ms, err)
		verdicts[want]++
		if want {
			var typed *nat.OverlapError
			require.ErrorAs(t, err, &typed)
			require.Less(t, typed.I, typed.J)
			require.Equal(t, ms[typed.I], typed.A)
			require.Equal(t, ms[typed.J], typed.B)
			require.True(t, overlaps(typed.A, typed.B))
		}
	}
	require.Greater(t, min(verdicts[true], verdicts[false]), 300, "both verdicts were tried")
}

func BenchmarkValidateAll(b *testing.B) {
	singles := many(b, 60000)
	hosts := slices.Clone(singles) // the worst for the sweep: every address its own, all ports shared
	for i := range hosts {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		hosts[i].Frontend, hosts[i].More = netip.AddrPortFrom(a, 1000), 64000
		hosts[i].Backend = netip.AddrPortFrom(hosts[i].Backend.Addr(), 1000)
	}
	for name, ms := range map[string][]nat.Mapping{"ports": singles, "hosts": hosts} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := nat.ValidateAll(ms...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
