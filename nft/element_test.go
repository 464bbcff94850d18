// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// TestElementRoundTrip encodes and decodes random elements of every type.
func TestElementRoundTrip(t *testing.T) {
	r := newRand(t)
	for _, c := range holdable(sample()) {
		for range 300 {
			e := randomElement(r, c)
			require.NoError(t, c.check(&e))
			b := c.appendMember(nil, &e, (*Set).appendElement)
			require.Less(t, len(b), largestElement)
			list := nlwire.Attrs{Data: b}
			key, end := c.next(&list)
			require.Empty(t, list.Data)
			var got Element
			require.NoError(t, c.decodeNext(&got, key, end), e)
			require.Equal(t, e, got)
			// What deletes it is its key.
			require.True(t, strings.HasPrefix(string(key), string(c.openElement(nil, &e.Key))))
		}
	}
}

// TestLargestElement holds the bound that keeps a list of elements within its attribute.
func TestLargestElement(t *testing.T) {
	c := Set{Name: "m", Key: Type{IPv6Addr, IPv6Addr}, Value: Type{IPv6Addr, InetService}, Interval: true, Timeout: true}
	e := Element{
		Key: PairKey(netip.MustParsePrefix("2001:db8::/32")), Value: netip.MustParseAddrPort("[fd00::1]:80"),
		Timeout: math.MaxInt64, Expires: math.MaxInt64, Comment: strings.Repeat("x", maxComment),
	}
	require.NoError(t, c.check(&e))
	require.Less(t, len(c.appendMember(nil, &e, (*Set).appendElement)), largestElement)
	c.Key, c.Value = Type{IPv6Addr}, nil
	e.Key, e.Value = PrefixKey(netip.MustParsePrefix("2001:db8::/32")), netip.AddrPort{}
	require.NoError(t, c.check(&e))
	require.Less(t, len(c.appendMember(nil, &e, (*Set).appendElement)), largestElement)
}

func TestTimeouts(t *testing.T) {
	c := named(sample(), "tcp4")
	e := Element{Set: "tcp4", Key: PortKey(1), Value: netip.MustParseAddrPort("192.0.2.1:1")}
	for _, tt := range []struct{ give, want time.Duration }{
		{0, 0},
		{1, time.Millisecond}, // zero would be for ever
		{time.Millisecond, time.Millisecond},
		{time.Millisecond + 1, 2 * time.Millisecond},
		{math.MaxInt64, time.Duration(math.MaxInt64).Truncate(time.Millisecond)},
	} {
		e.Timeout, e.Expires = tt.give, tt.give
		got, err := c.decode(c.appendElement(nil, &e))
		require.NoError(t, err)
		require.Equal(t, tt.want, got.Timeout)
		require.Equal(t, tt.want, got.Expires)
	}
	// Others can set what no Duration holds: it must not become negative, or short.
	e.Timeout, e.Expires = 0, 0
	b := nlwire.AppendBE64(c.appendElement(nil, &e), unix.NFTA_SET_ELEM_TIMEOUT, math.MaxUint64)
	got, err := c.decode(b)
	require.NoError(t, err)
	require.Equal(t, time.Duration(math.MaxInt64).Truncate(time.Millisecond), got.Timeout)
	require.NotContains(t, got.String(), "-")
}

// TestLastMoment: an element that is about to end has something left, or adding what
// was read would give it a new life.
func TestLastMoment(t *testing.T) {
	c := named(sample(), "tcp4")
	e := Element{Set: "tcp4", Key: PortKey(1), Value: netip.MustParseAddrPort("192.0.2.1:1"), Timeout: time.Hour}
	got, err := c.decode(nlwire.AppendBE64(c.appendElement(nil, &e), unix.NFTA_SET_ELEM_EXPIRATION, 0))
	require.NoError(t, err)
	require.Equal(t, time.Millisecond, got.Expires)
}

// TestLongestTimeoutRoundsUp makes sure that rounding up does not overflow.
func TestLongestTimeoutRoundsUp(t *testing.T) {
	require.Equal(t, uint64(math.MaxInt64/int64(time.Millisecond)+1), milliseconds(math.MaxInt64))
}

func TestComment(t *testing.T) {
	long := strings.Repeat("x", 253)
	for _, tt := range []struct {
		name  string
		udata string
		want  string
	}{
		{"none", "", ""},
		{"comment", "\x00\x04web\x00", "web"},
		{"empty", "\x00\x01\x00", ""},
		{"no bytes", "\x00\x00", ""},
		{"no NUL", "\x00\x03web", "web"},
		{"text behind NUL", "\x00\x07web\x00abc", "web"},
		{"behind another type", "\x05\x02ab\x00\x04web\x00", "web"},
		{"behind an empty type", "\x01\x00\x02\x00\x00\x02a\x00", "a"},
		{"the first counts", "\x00\x02a\x00\x00\x02b\x00", "a"},
		{"another type alone", "\x07\x04web\x00", ""},
		{"too short a header", "\x00", ""},
		{"longer than there is", "\x00\x05web\x00", ""},
		{"another type longer than there is", "\x05\xff\x00\x02a\x00", ""},
		{"the whole of 256 bytes", "\x00\xfe" + long + "\x00", long},
		{"invalid UTF-8", "\x00\x03\xff\xc0\x00", "\xff\xc0"},
		{"control characters", "\x00\x05\n\x1b[2J\x00"[:6] + "\x00", "\n\x1b[2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, comment([]byte(tt.udata)))
		})
	}
}

func TestDecodeElementRefuses(t *testing.T) {
	value := func(typ uint16, payload ...byte) []byte {
		return nlwire.AppendAttr(nil, nlwire.Nested|typ, nlwire.AppendAttr(nil, unix.NFTA_DATA_VALUE, payload...)...)
	}
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	port := value(unix.NFTA_SET_ELEM_KEY, 0, 80)
	addr := value(unix.NFTA_SET_ELEM_DATA, 192, 0, 2, 1, 0, 80, 0, 0)
	verdict := nlwire.AppendAttr(nil, nlwire.Nested|unix.NFTA_SET_ELEM_DATA, nlwire.AppendAttr(nil, nlwire.Nested|unix.NFTA_DATA_VERDICT, nlwire.AppendBE32(nil, 1, 1)...)...)
	key := func(b ...byte) []byte { return value(unix.NFTA_SET_ELEM_KEY, b...) }
	end := func(b ...byte) []byte { return value(nftaSetElemKeyEnd, b...) }
	mixed := Set{Name: "mixed", Key: Type{InetService, InetService}, Value: Type{InetService}}
	for _, tt := range []struct {
		name string
		set  Set
		b    []byte
		want string
	}{
		{"nothing", named(sample(), "tcp4"), nil, "a key of 0 bytes is no inet_service"},
		{"no key: the wildcard element", named(sample(), "tcp4"), addr, "a key of 0 bytes"},
		{"long key", named(sample(), "tcp4"), join(key(0, 80, 0, 0), addr), "a key of 4 bytes is no inet_service"},
		{"short key", named(sample(), "tcp4_host"), join(port, addr), "a key of 2 bytes is no ipv4_addr . inet_service"},
		{"no value", named(sample(), "tcp4"), port, "a value of 0 bytes is no ipv4_addr . inet_service"},
		{"verdict", named(sample(), "tcp4"), join(port, verdict), "a value of 0 bytes"},
		{"value of the other family", named(sample(), "tcp6"), join(port, addr), "a value of 8 bytes is no ipv6_addr"},
		{"range that is no prefix", named(sample(), "inside4"), join(key(10, 0, 0, 1, 10, 0, 0, 1), end(10, 0, 0, 9, 10, 0, 0, 9)), "is no pair of one prefix"},
		{"range of two prefixes", named(sample(), "inside4"), join(key(10, 0, 0, 0, 11, 0, 0, 0), end(10, 0, 0, 255, 11, 0, 0, 255)), "is no pair of one prefix"},
		{"range backwards", named(sample(), "inside4"), join(key(10, 0, 0, 255, 10, 0, 0, 255), end(10, 0, 0, 0, 10, 0, 0, 0)), "is no pair of one prefix"},
		{"short end", named(sample(), "inside4"), join(key(10, 0, 0, 0, 10, 0, 0, 0), end(10, 0, 0, 0)), "is no pair of one prefix"},
		{"other intervals", Set{Name: "odd", Key: Type{Mark}, Interval: true}, key(0, 0, 0, 80), "there are no keys of type mark"},
		{"address of the other family", named(sample(), "leases4"), key(make([]byte, 16)...), "a key of 16 bytes is no ipv4_addr"},
		{"range of the other family", named(sample(), "networks6"), key(10, 0, 0, 0), "a key of 4 bytes is no ipv6_addr"},
		{"short name", named(sample(), "links"), key('l', 'o', 0, 0), "a key of 4 bytes is no ifname"},
		{"long name", named(sample(), "links"), key([]byte("abcdefghijklmnop")...), `"abcdefghijklmnop" is no interface name`},
		{"no name", named(sample(), "links"), key(make([]byte, 16)...), "is no interface name"},
		{"name with more behind it", named(sample(), "links"), key([]byte("lo\x00o\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")...), `"lo\x00o\x00\x00\x00\x00`},
		{"hostile name", named(sample(), "links"), key([]byte("a\"\n\x1b[2J\x00\x00\x00\x00\x00\x00\x00\x00\x00")...), `"a\"\n\x1b[2J\x00`},
		{"end of a range", named(sample(), "leases4"), join(nlwire.AppendBE32(nil, unix.NFTA_SET_ELEM_FLAGS, 1), key(10, 0, 0, 0)), "the end of a range is no ipv4_addr"},
		{"short flags", named(sample(), "leases4"), join(nlwire.AppendAttr(nil, unix.NFTA_SET_ELEM_FLAGS, nil...), key(10, 0, 0, 0)), nlwire.ErrMalformed.Error()},
		{"other keys", mixed, key(0, 1, 0, 0, 0, 2, 0, 0), "there are no keys of type inet_service . inet_service"},
		{"short time-out", named(sample(), "tcp4"), join(port, addr, nlwire.AppendBE32(nil, unix.NFTA_SET_ELEM_TIMEOUT, 1)), nlwire.ErrMalformed.Error()},
		{"cut short", named(sample(), "tcp4"), join(port, addr)[:30], nlwire.ErrMalformed.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.set.decode(tt.b)
			require.ErrorContains(t, err, tt.want)
		})
	}
	link := append([]byte("br0"), make([]byte, 13)...)
	ends := func(first, second []byte, a ...byte) []byte { return slices.Concat(first, second, a) }
	segments := named(sample(), "segments4")
	for name, b := range map[string][]byte{
		"two links":   key(ends(link, append([]byte("br1"), link[3:]...), 10, 0, 0, 1)...),
		"no prefix":   join(key(ends(link, link, 10, 0, 0, 1)...), end(ends(link, link, 10, 0, 0, 9)...)),
		"links":       join(key(ends(link, link, 10, 0, 0, 0)...), end(ends(bytes.Repeat([]byte{0xff}, 16), link, 10, 0, 0, 255)...)),
		"short end":   join(key(ends(link, link, 10, 0, 0, 0)...), end(10, 0, 0, 255)),
		"no name":     key(ends(make([]byte, 16), make([]byte, 16), 10, 0, 0, 0)...),
		"short":       key(ends(link, link)...),
		"bad of name": key(ends(append([]byte(`a"b`), link[3:]...), append([]byte(`a"b`), link[3:]...), 10, 0, 0, 0)...),
	} {
		_, err := segments.decode(b)
		require.Error(t, err, name)
	}
	mapped := append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 10, 0, 0, 1)
	_, err := named(sample(), "segments6").decode(key(ends(link, link, mapped...)...))
	require.ErrorContains(t, err, "is no prefix of one link")
	one, err := segments.decode(key(ends(link, link, 10, 0, 0, 1)...))
	require.NoError(t, err)
	require.Equal(t, SegmentKey("br0", netip.MustParsePrefix("10.0.0.1/32")), one.Key)
	one, err = named(sample(), "inside4").decode(key(10, 0, 0, 1, 10, 0, 0, 1))
	require.NoError(t, err)
	require.Equal(t, PairKey(netip.MustParsePrefix("10.0.0.1/32")), one.Key)
}

func TestKey(t *testing.T) {
	ap := netip.MustParseAddrPort("192.0.2.1:80")
	require.Equal(t, ap, AddrPortKey(ap).AddrPort())
	require.Equal(t, netip.AddrPortFrom(netip.Addr{}, 80), PortKey(80).AddrPort())
	require.Zero(t, PairKey(netip.MustParsePrefix("10.0.0.0/8")).AddrPort())
	require.Equal(t, PairKey(netip.MustParsePrefix("10.0.0.0/8")), PairKey(netip.MustParsePrefix("10.1.2.3/8")))
	p, ok := PairKey(netip.MustParsePrefix("0.0.0.0/0")).Pair()
	require.True(t, ok)
	require.Equal(t, netip.MustParsePrefix("0.0.0.0/0"), p)
	_, ok = PortKey(80).Pair()
	require.False(t, ok)
	_, ok = PairKey(netip.Prefix{}).Pair()
	require.False(t, ok, "a prefix that is none makes no key")
}

func TestSegmentKey(t *testing.T) {
	for _, prefix := range []string{"0.0.0.0/0", "10.1.2.3/8", "172.30.0.2/32", "::/0", "fd00::1/64", "fe80::1/128"} {
		p := netip.MustParsePrefix(prefix)
		link, got, ok := SegmentKey("br0", p).Segment()
		require.True(t, ok)
		require.Equal(t, "br0", link)
		require.Equal(t, p.Masked(), got)
		require.NotEqual(t, SegmentKey("br1", p), SegmentKey("br0", p))
		require.Negative(t, SegmentKey("br0", p).Compare(SegmentKey("br1", p)))
		e := Element{Set: "segments4", Key: SegmentKey("br0", p)}
		require.Equal(t, `segments4 { "br0" . "br0" . `+strings.TrimSuffix(strings.TrimSuffix(p.Masked().String(), "/128"), "/32")+" }", e.String())
	}
	p := netip.MustParsePrefix("10.0.0.0/8")
	for _, name := range []string{"", "a b", `a"b`, "eth*", `a\b`, "abcdefghijklmnop"} {
		require.Zero(t, SegmentKey(name, p), name)
	}
	require.Zero(t, SegmentKey("br0", netip.Prefix{}))
	require.Zero(t, SegmentKey("br0", netip.MustParsePrefix("::ffff:10.0.0.0/104")))
}

// TestKinds: each accessor tells of one kind of key and of no other.
func TestKinds(t *testing.T) {
	prefix, addr := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr("10.0.0.0")
	keys := map[string]Key{
		"port": PortKey(0), "addr": AddrKey(addr), "addrport": AddrPortKey(netip.AddrPortFrom(addr, 0)),
		"interface": InterfaceKey("veth0"), "prefix": PrefixKey(prefix), "pair": PairKey(prefix),
		"segment": SegmentKey("veth0", prefix), "none": {},
		"service": ServiceKey(0, netip.AddrPortFrom(addr, 0)), "any": ServiceKey(0, netip.AddrPortFrom(netip.IPv4Unspecified(), 0)),
		"called": CalledKey(0, netip.AddrPortFrom(addr, 0), addr), "clients": ClientsKey(netip.AddrPortFrom(addr, 0), prefix),
	}
	seen := map[Key]string{}
	for kind, k := range keys {
		require.NotContains(t, seen, k, kind)
		seen[k] = kind
		a, ok := k.Addr()
		require.Equal(t, kind == "addr", ok)
		require.Equal(t, kind == "addr", a == addr)
		p, ok := k.Prefix()
		require.Equal(t, kind == "prefix", ok)
		require.Equal(t, kind == "prefix", p == prefix)
		p, ok = k.Pair()
		require.Equal(t, kind == "pair", ok)
		require.Equal(t, kind == "pair", p == prefix)
		_, p, ok = k.Segment()
		require.Equal(t, kind == "segment", ok)
		require.Equal(t, kind == "segment", p == prefix)
		name, ok := k.Interface()
		require.Equal(t, kind == "interface", ok)
		require.Equal(t, kind == "interface", name == "veth0")
		require.Equal(t, kind == "addrport", k.AddrPort().Addr().IsValid())
		_, _, ok = k.Service()
		require.Equal(t, kind == "service" || kind == "any", ok)
		_, _, called, ok := k.Called()
		require.Equal(t, kind == "called", ok)
		require.Equal(t, kind == "called", called == addr)
		_, clients, ok := k.Clients()
		require.Equal(t, kind == "clients", ok)
		require.Equal(t, kind == "clients", clients == prefix)
	}
	// A table of 60,000 elements is held in memory.
	require.Equal(t, uintptr(32), unsafe.Sizeof(Key{}))
}

func TestInterfaceKey(t *testing.T) {
	for _, name := range []string{"l", "lo", "abcdefghijklmno", "veth-0.1@x", "wörk0", "...", "\xff\xfe"} {
		got, ok := InterfaceKey(name).Interface()
		require.True(t, ok, name)
		require.Equal(t, name, got)
	}
	for _, name := range []string{"", ".", "..", "abcdefghijklmnop", "a/b", "a b", "a\x00b", "a\nb", "a\x7f", `a"b`, `a\b`, "eth*", "a:1"} {
		require.Equal(t, Key{}, InterfaceKey(name), "%q", name)
	}
}

func TestPrefixKey(t *testing.T) {
	require.Equal(t, PrefixKey(netip.MustParsePrefix("10.0.0.0/8")), PrefixKey(netip.MustParsePrefix("10.1.2.3/8")))
	for _, p := range []string{"0.0.0.0/0", "::/0", "255.255.255.255/32", "2001:db8::/32"} {
		got, ok := PrefixKey(netip.MustParsePrefix(p)).Prefix()
		require.True(t, ok)
		require.Equal(t, p, got.String())
	}
	require.Equal(t, Key{}, PrefixKey(netip.Prefix{}))
	require.Equal(t, Key{}, PrefixKey(netip.PrefixFrom(netip.IPv4Unspecified(), 33)))
}

func TestKeySet(t *testing.T) {
	var s keySet
	r := newRand(t)
	model := map[Key]bool{}
	for range 2000 {
		k := PortKey(uint16(r.Uint32N(700)))
		if r.IntN(2) == 0 {
			k = AddrPortKey(netip.AddrPortFrom(netip.AddrFrom4([4]byte{1, 1, 1, byte(r.Uint32N(9))}), uint16(r.Uint32N(100))))
		}
		require.Equal(t, !model[k], s.add(k))
		model[k] = true
	}
	require.True(t, s.add(PortKey(math.MaxUint16)))
	require.False(t, s.add(PortKey(math.MaxUint16)))
}

// TestPortsAreBigEndian pins the one place where byte order could slip through a
// round trip.
func TestPortsAreBigEndian(t *testing.T) {
	ports := named(sample(), "ports")
	key := PortKey(0x1234)
	b := ports.openElement(nil, &key)
	require.Equal(t, []byte{0x12, 0x34}, nlwire.Find(nlwire.Find(b, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE))
	require.Equal(t, uint16(nlwire.Nested|unix.NFTA_SET_ELEM_KEY), binary.NativeEndian.Uint16(b[2:]))
}
