// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func newAddrs(tb testing.TB, p string, reserved ...string) *Addrs {
	tb.Helper()
	var rs []netip.Addr
	for _, r := range reserved {
		rs = append(rs, addr(r))
	}
	a, err := NewAddrs(prefix(p), rs...)
	require.NoError(tb, err)
	return a
}

// lease calls Next n times.
func lease(tb testing.TB, a *Addrs, n int) []string {
	tb.Helper()
	var got []string
	for range n {
		ip, err := a.Next()
		require.NoError(tb, err)
		got = append(got, ip.String())
	}
	return got
}

func requireExhausted(tb testing.TB, a *Addrs) {
	tb.Helper()
	for range 3 {
		ip, err := a.Next()
		require.ErrorIs(tb, err, ErrExhausted)
		require.ErrorContains(tb, err, a.Prefix().String())
		require.False(tb, ip.IsValid())
	}
}

func release(tb testing.TB, a *Addrs, ips ...string) {
	tb.Helper()
	for _, ip := range ips {
		require.True(tb, a.Release(addr(ip)), ip)
	}
}

func leases(a *Addrs) []string {
	var got []string
	for ip := range a.Leases() {
		got = append(got, ip.String())
	}
	return got
}

// The sequence that lazy cyclic allocation was first specified with.
func TestAddrsSequenceOf2013(t *testing.T) {
	a := newAddrs(t, "127.0.0.1/29", "127.0.0.1")
	require.Equal(t, prefix("127.0.0.0/29"), a.Prefix())
	require.Equal(t, []string{"127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"}, lease(t, a, 5))
	requireExhausted(t, a)
	release(t, a, "127.0.0.5", "127.0.0.4", "127.0.0.6")
	require.Equal(t, []string{"127.0.0.5", "127.0.0.6", "127.0.0.4"}, lease(t, a, 3))
	requireExhausted(t, a)
}

func TestAddrsOrder(t *testing.T) {
	t.Run("reserved in the middle", func(t *testing.T) {
		a := newAddrs(t, "10.0.0.3/29", "10.0.0.3")
		require.Equal(t, []string{"10.0.0.1", "10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"}, lease(t, a, 5))
		requireExhausted(t, a)
	})
	t.Run("released comes last", func(t *testing.T) {
		a := newAddrs(t, "10.0.0.0/29", "10.0.0.1")
		lease(t, a, 2)
		release(t, a, "10.0.0.2")
		require.Equal(t, []string{"10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"}, lease(t, a, 4))
		requireExhausted(t, a)
	})
	t.Run("wrapping round skips what is in use", func(t *testing.T) {
		a := newAddrs(t, "10.0.0.0/29")
		lease(t, a, 6)
		release(t, a, "10.0.0.6", "10.0.0.1", "10.0.0.2")
		require.Equal(t, []string{"10.0.0.6", "10.0.0.1", "10.0.0.2"}, lease(t, a, 3))
	})
	t.Run("released before the cursor reaches it", func(t *testing.T) {
		a := newAddrs(t, "10.0.0.0/29")
		lease(t, a, 1)
		require.NoError(t, a.Reserve(addr("10.0.0.2")), "moves the cursor to .3")
		release(t, a, "10.0.0.2")
		require.Equal(t, []string{"10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"}, lease(t, a, 5))
	})
	t.Run("reserved elsewhere does not move the cursor", func(t *testing.T) {
		a := newAddrs(t, "10.0.0.0/29")
		require.NoError(t, a.Reserve(addr("10.0.0.5")))
		require.Equal(t, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.6"}, lease(t, a, 5))
	})
	t.Run("exhausted by Reserve", func(t *testing.T) {
		a := newAddrs(t, "10.0.0.0/29")
		lease(t, a, 5)
		require.NoError(t, a.Reserve(addr("10.0.0.6")))
		requireExhausted(t, a)
		release(t, a, "10.0.0.3", "10.0.0.1")
		require.Equal(t, []string{"10.0.0.3", "10.0.0.1"}, lease(t, a, 2))
	})
}

func TestAddrsEdges(t *testing.T) {
	const all1 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
	for _, tt := range []struct {
		prefix string
		want   []string // all there is
	}{
		{"192.0.2.9/30", []string{"192.0.2.9", "192.0.2.10"}},
		{"192.0.2.9/31", []string{"192.0.2.8", "192.0.2.9"}},
		{"192.0.2.9/32", []string{"192.0.2.9"}},
		{"0.0.0.0/31", []string{"0.0.0.0", "0.0.0.1"}},
		{"0.0.0.0/30", []string{"0.0.0.1", "0.0.0.2"}},
		{"255.255.255.255/32", []string{"255.255.255.255"}},
		{"255.255.255.255/30", []string{"255.255.255.253", "255.255.255.254"}},
		{"2001:db8::5/126", []string{"2001:db8::5", "2001:db8::6", "2001:db8::7"}},
		{"2001:db8::5/127", []string{"2001:db8::4", "2001:db8::5"}},
		{"2001:db8::5/128", []string{"2001:db8::5"}},
		{"::/127", []string{"::", "::1"}},
		{"::/128", []string{"::"}},
		{all1 + "/128", []string{all1}},
		{all1 + "/127", []string{all1[:38] + "e", all1}},
		{all1 + "/126", []string{all1[:38] + "d", all1[:38] + "e", all1}},
		{"::ffff:192.0.2.9/126", []string{"192.0.2.9", "192.0.2.10"}},
		{"::ffff:192.0.2.9/128", []string{"192.0.2.9"}},
	} {
		t.Run(tt.prefix, func(t *testing.T) {
			a := newAddrs(t, tt.prefix)
			require.Equal(t, tt.want, lease(t, a, len(tt.want)))
			requireExhausted(t, a)
			require.Equal(t, tt.want, leases(a))
			require.Equal(t, len(tt.want), a.Len())

			// From the last one round to the first.
			last := tt.want[len(tt.want)-1]
			release(t, a, tt.want...)
			require.NoError(t, a.SetCursor(addr(last)))
			require.Equal(t, append([]string{last}, tt.want[:len(tt.want)-1]...), lease(t, a, len(tt.want)))
			requireExhausted(t, a)

			// All of them reserved.
			a = newAddrs(t, tt.prefix, tt.want...)
			requireExhausted(t, a)
			require.Empty(t, leases(a))
			for _, ip := range tt.want {
				require.False(t, a.Release(addr(ip)))
				require.ErrorIs(t, a.Reserve(addr(ip)), ErrReserved)
			}
			require.NoError(t, a.SetCursor(a.Cursor()))
			requireExhausted(t, a)
		})
	}
}

func TestAddrsWide(t *testing.T) {
	for _, tt := range []struct {
		prefix, cursor string
		want           []string
	}{
		{"10.0.0.0/8", "10.255.255.253", []string{"10.255.255.253", "10.255.255.254", "10.0.0.1"}},
		{"10.0.0.0/8", "10.255.255.255", []string{"10.0.0.1"}},
		{"10.0.0.0/8", "10.0.0.0", []string{"10.0.0.1"}},
		{"0.0.0.0/0", "255.255.255.254", []string{"255.255.255.254", "0.0.0.1"}},
		{"0.0.0.0/0", "127.255.255.255", []string{"127.255.255.255", "128.0.0.0"}},
		{"2001:db8::/64", "2001:db8::", []string{"2001:db8::1"}},
		{"2001:db8::/64", "2001:db8::ffff:ffff:ffff:ffff", []string{"2001:db8::ffff:ffff:ffff:ffff", "2001:db8::1"}},
		{"2001:db8::/32", "2001:db8::ffff:ffff:ffff:ffff", []string{"2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::"}},
		{"::/0", "::", []string{"::1", "::2"}},
		{"::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", []string{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1"}},
		// Around the IPv4-mapped ones.
		{"::/0", "::fffe:ffff:ffff", []string{"::fffe:ffff:ffff", "::1:0:0:0", "::1:0:0:1"}},
		{"::/64", "::fffe:ffff:ffff", []string{"::fffe:ffff:ffff", "::1:0:0:0"}},
		{"::/80", "::fffe:ffff:ffff", []string{"::fffe:ffff:ffff", "::1"}},
		{"::fffe:0:0/95", "::fffe:ffff:ffff", []string{"::fffe:ffff:ffff", "::fffe:0:1"}},
	} {
		t.Run(tt.prefix+" from "+tt.cursor, func(t *testing.T) {
			a := newAddrs(t, tt.prefix)
			require.NoError(t, a.SetCursor(addr(tt.cursor)))
			require.Equal(t, tt.want, lease(t, a, len(tt.want)))
			release(t, a, tt.want...)
			require.Zero(t, a.Len())
			require.Nil(t, a.used.root)
		})
	}
}

func TestAddrsErrors(t *testing.T) {
	a := newAddrs(t, "192.0.2.0/24", "192.0.2.1", "192.0.2.1", "192.0.2.0", "192.0.2.255")
	require.NoError(t, a.Reserve(addr("192.0.2.7")))
	require.NoError(t, a.Reserve(addr("::ffff:192.0.2.8")), "IPv4-mapped")
	before, cursor := leases(a), a.Cursor()
	for _, tt := range []struct {
		ip   netip.Addr
		want error
	}{
		{addr("192.0.2.0"), ErrReserved},
		{addr("192.0.2.255"), ErrReserved},
		{addr("192.0.2.1"), ErrReserved},
		{addr("192.0.2.7"), ErrInUse},
		{addr("::ffff:192.0.2.7"), ErrInUse},
		{addr("192.0.2.8"), ErrInUse},
		{addr("192.0.1.255"), ErrRange},
		{addr("192.0.3.0"), ErrRange},
		{addr("::192.0.2.9"), ErrRange},
		{addr("2001:db8::9"), ErrRange},
		{addr("::ffff:192.0.2.9%eth0"), ErrRange},
		{netip.Addr{}, ErrRange},
	} {
		err := a.Reserve(tt.ip)
		require.ErrorIs(t, err, tt.want, tt.ip)
		require.ErrorContains(t, err, "reserve "+tt.ip.String()+" in 192.0.2.0/24: ")
		if !errors.Is(tt.want, ErrInUse) {
			require.False(t, a.Release(tt.ip), tt.ip)
		}
		if errors.Is(tt.want, ErrRange) {
			require.ErrorIs(t, a.SetCursor(tt.ip), ErrRange, tt.ip)
		}
	}
	require.False(t, a.Release(addr("192.0.2.9")), "free")
	require.Equal(t, before, leases(a))
	require.Equal(t, cursor, a.Cursor())
	require.True(t, a.Release(addr("::ffff:192.0.2.7")))
	require.False(t, a.Release(addr("192.0.2.7")), "released twice")

	six := newAddrs(t, "fe80::/64")
	require.ErrorIs(t, six.Reserve(addr("fe80::1%eth0")), ErrRange)
	require.ErrorIs(t, six.Reserve(addr("fe80::")), ErrReserved)
	require.ErrorIs(t, newAddrs(t, "::/0").Reserve(addr("::ffff:192.0.2.7")), ErrRange)
}

// A foreign or free address released while the pool is exhausted is not made
// the next one.
func TestAddrsReleaseForeignWhenExhausted(t *testing.T) {
	a := newAddrs(t, "10.0.0.0/29", "10.0.0.1")
	lease(t, a, 5)
	for _, ip := range []string{"10.9.9.9", "10.0.0.0", "10.0.0.7", "10.0.0.1", "2001:db8::1"} {
		require.False(t, a.Release(addr(ip)), ip)
	}
	require.False(t, a.Release(netip.Addr{}))
	requireExhausted(t, a)
	require.Equal(t, 5, a.Len())
}

func TestNewAddrsErrors(t *testing.T) {
	for _, p := range []netip.Prefix{
		{},
		netip.PrefixFrom(addr("10.0.0.0"), 33),
		netip.PrefixFrom(addr("10.0.0.0"), -1),
		netip.PrefixFrom(netip.Addr{}, 8),
		netip.PrefixFrom(addr("::ffff:10.0.0.0"), 8),
		netip.PrefixFrom(addr("::ffff:10.0.0.0"), 95),
	} {
		_, err := NewAddrs(p)
		require.ErrorIs(t, err, ErrRange, p)
	}
	for _, r := range []netip.Addr{addr("10.0.1.0"), addr("2001:db8::1"), addr("::10.0.0.1"), {}} {
		_, err := NewAddrs(prefix("10.0.0.0/24"), addr("10.0.0.1"), r)
		require.ErrorIs(t, err, ErrRange, r)
		require.ErrorContains(t, err, r.String())
	}
	a, err := NewAddrs(prefix("10.0.0.0/30"), addr("::ffff:10.0.0.1"))
	require.NoError(t, err)
	require.Equal(t, []string{"10.0.0.2"}, lease(t, a, 1))
	requireExhausted(t, a)
}

func TestAddrsLeases(t *testing.T) {
	a := newAddrs(t, "10.0.0.0/24", "10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.254")
	for _, ip := range []string{"10.0.0.200", "10.0.0.2", "10.0.0.5", "10.0.0.253"} {
		require.NoError(t, a.Reserve(addr(ip)))
	}
	require.Equal(t, []string{"10.0.0.2", "10.0.0.5", "10.0.0.200", "10.0.0.253"}, leases(a))
	for range a.Leases() {
		break
	}
	// The body may call any method.
	for ip := range a.Leases() {
		require.True(t, a.Release(ip))
	}
	require.Empty(t, leases(a))
	require.Zero(t, a.Len())
}

// restart makes a pool from what an engine knows of another one: its prefix,
// reserved addresses, leases in no particular order, and cursor.
func restart(tb testing.TB, a *Addrs, cursorFirst bool, reserved ...netip.Addr) *Addrs {
	tb.Helper()
	b, err := NewAddrs(a.Prefix(), reserved...)
	require.NoError(tb, err)
	if cursorFirst {
		require.NoError(tb, b.SetCursor(a.Cursor()))
	}
	all := slices.Collect(a.Leases())
	slices.Reverse(all)
	for _, ip := range all {
		require.NoError(tb, b.Reserve(ip))
	}
	if !cursorFirst {
		require.NoError(tb, b.SetCursor(a.Cursor()))
	}
	return b
}

// The rule for an exhausted pool survives a restart at any point of it.
func TestAddrsCursorSurvivesRestart(t *testing.T) {
	for restartAt := range 9 {
		for _, cursorFirst := range []bool{false, true} {
			a := newAddrs(t, "127.0.0.1/29", "127.0.0.1")
			step := 0
			do := func(f func()) {
				if step == restartAt {
					a = restart(t, a, cursorFirst, addr("127.0.0.1"))
				}
				f()
				step++
			}
			do(func() { lease(t, a, 4) })
			do(func() { lease(t, a, 1) })
			do(func() { requireExhausted(t, a) })
			do(func() { release(t, a, "127.0.0.5") })
			do(func() { release(t, a, "127.0.0.4") })
			do(func() { release(t, a, "127.0.0.6") })
			do(func() { require.Equal(t, []string{"127.0.0.5"}, lease(t, a, 1)) })
			do(func() { require.Equal(t, []string{"127.0.0.6", "127.0.0.4"}, lease(t, a, 2)) })
			do(func() { requireExhausted(t, a) })
		}
	}
}

func TestSetCursorOnWhatIsInUse(t *testing.T) {
	a := newAddrs(t, "10.0.0.0/29", "10.0.0.4")
	require.NoError(t, a.Reserve(addr("10.0.0.5")))
	for cursor, want := range map[string]string{
		"10.0.0.0": "10.0.0.1", // network
		"10.0.0.4": "10.0.0.6", // reserved, and the next one leased
		"10.0.0.5": "10.0.0.6", // leased
		"10.0.0.7": "10.0.0.1", // broadcast
		"10.0.0.2": "10.0.0.2",
	} {
		require.NoError(t, a.SetCursor(addr(cursor)))
		require.Equal(t, addr(want), a.Cursor(), cursor)
		require.Equal(t, []string{want}, lease(t, a, 1))
		release(t, a, want)
	}
}
