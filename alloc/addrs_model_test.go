// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// naiveAddrs does what Addrs does, one address at a time.
type naiveAddrs struct {
	prefix   netip.Prefix
	reserved map[netip.Addr]bool
	leased   map[netip.Addr]bool
	cursor   netip.Addr
}

func newNaiveAddrs(p netip.Prefix, reserved []netip.Addr) *naiveAddrs {
	m := &naiveAddrs{prefix: p.Masked(), reserved: map[netip.Addr]bool{}, leased: map[netip.Addr]bool{}}
	for _, r := range reserved {
		m.reserved[r] = true
	}
	m.seek(m.prefix.Addr())
	return m
}

// leasable is whether an address of the prefix may ever be leased.
func (m *naiveAddrs) leasable(a netip.Addr) bool {
	few := a.BitLen()-m.prefix.Bits() <= 1
	switch {
	case m.reserved[a] || a.Is4In6():
		return false
	case few:
		return true
	case a == m.prefix.Addr():
		return false
	case a.Is4() && !m.prefix.Contains(a.Next()):
		return false
	}
	return true
}

// after is the address that follows, the first one after the last.
func (m *naiveAddrs) after(a netip.Addr) netip.Addr {
	if a.Is4In6() {
		a = netip.MustParseAddr("::ffff:255.255.255.255") // 2^32 steps at once
	}
	if a = a.Next(); !m.prefix.Contains(a) && !a.Is4In6() {
		a = m.prefix.Addr()
	}
	return a
}

// seek moves the cursor to the first free address from a on, and reports
// whether there is one.
func (m *naiveAddrs) seek(a netip.Addr) bool {
	m.cursor = a
	// There are not more addresses in the way than this, IPv4-mapped ones being
	// passed in two steps: after more steps than that, all have been seen.
	for range len(m.leased) + len(m.reserved) + 6 {
		if m.leasable(a) && !m.leased[a] {
			m.cursor = a
			return true
		}
		a = m.after(a)
	}
	return false
}

func (m *naiveAddrs) exhausted() bool { return !m.seek(m.cursor) }

func (m *naiveAddrs) next() (netip.Addr, error) {
	if m.exhausted() {
		return netip.Addr{}, ErrExhausted
	}
	a := m.cursor
	m.leased[a] = true
	m.seek(a)
	return a, nil
}

func (m *naiveAddrs) reserve(a netip.Addr) error {
	switch {
	case !m.prefix.Contains(a) || a.Is4In6():
		return ErrRange
	case !m.leasable(a):
		return ErrReserved
	case m.leased[a]:
		return ErrInUse
	}
	m.leased[a] = true
	m.seek(m.cursor)
	return nil
}

func (m *naiveAddrs) release(a netip.Addr) bool {
	if !m.leased[a] {
		return false
	}
	if m.exhausted() {
		m.cursor = a
	}
	delete(m.leased, a)
	return true
}

func (m *naiveAddrs) leases() []netip.Addr {
	var all []netip.Addr
	for a := range m.leased {
		all = append(all, a)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// addrsPool is a pool to compare on.
type addrsPool struct {
	prefix   netip.Prefix
	reserved []netip.Addr
	around   []netip.Addr // addresses near each of these are reserved, released and made the cursor
}

func addrsPools() []addrsPool {
	pool := func(p string, addrs ...string) addrsPool {
		var as []netip.Addr
		for _, a := range addrs {
			as = append(as, addr(a))
		}
		return addrsPool{prefix: prefix(p), reserved: as[:1], around: as}
	}
	return []addrsPool{
		pool("127.0.0.1/29", "127.0.0.1"),
		pool("10.0.0.0/30", "10.0.0.1"),
		pool("10.0.0.0/31", "10.0.0.1"),
		pool("10.0.0.0/32", "10.0.0.0"),
		pool("10.1.2.3/26", "10.1.2.3", "10.1.2.50"),
		pool("192.168.16.0/20", "192.168.16.1", "192.168.20.0", "192.168.31.200"),
		pool("10.0.0.0/8", "10.0.0.1", "10.128.0.0", "10.255.255.200"),
		pool("0.0.0.0/0", "0.0.0.1", "127.255.255.250", "255.255.255.200"),
		pool("2001:db8::/64", "2001:db8::1", "2001:db8::8000:0:0:0", "2001:db8::ffff:ffff:ffff:ff00"),
		pool("2001:db8::/121", "2001:db8::1", "2001:db8::60"),
		pool("2001:db8::/127", "2001:db8::1"),
		pool("2001:db8::/128", "2001:db8::"),
		pool("::/0", "::1", "::fffe:ffff:fff0", "::ffff:ffff:ffff:fff0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00"),
		pool("::fffe:0:0/95", "::fffe:0:1", "::fffe:ffff:fff0"),
	}
}

// An addrsPair is a pool and its model.
type addrsPair struct {
	addrsPool
	got  *Addrs
	want *naiveAddrs
}

func newAddrsPair(tb testing.TB, p addrsPool) *addrsPair {
	tb.Helper()
	got, err := NewAddrs(p.prefix, p.reserved...)
	require.NoError(tb, err)
	return &addrsPair{p, got, newNaiveAddrs(p.prefix, p.reserved)}
}

// addr is one of 256 addresses of each neighbourhood, of which some may be
// outside of the prefix.
func (p *addrsPair) addr(near, offset byte) netip.Addr {
	a := p.around[int(near)%len(p.around)]
	if p.prefix.Bits() < a.BitLen()-7 || offset&0xf0 == 0xf0 {
		a = a.Prev()
	} else {
		offset %= 1 << (a.BitLen() - p.prefix.Bits())
		a = p.prefix.Masked().Addr()
	}
	for range offset {
		if !a.IsValid() {
			break
		}
		a = a.Next()
	}
	return a
}

// do applies one operation of three bytes to both and compares what they say.
func (p *addrsPair) do(tb testing.TB, op, x, y byte) {
	tb.Helper()
	a := p.addr(x, y)
	what := func() string { return fmt.Sprintf("%v: op %d of %v", p.prefix, op%16, a) }
	switch op % 16 {
	case 0, 1, 2, 3, 4:
		p.next(tb, what)
	case 5, 6, 7:
		requireSameError(tb, p.want.reserve(a), p.got.Reserve(a), what)
	case 8, 9, 10, 11:
		requireSame(tb, p.want.release(a), p.got.Release(a), what)
	case 12:
		want := ErrRange
		if p.prefix.Contains(a) && !a.Is4In6() {
			want = nil
			p.want.seek(a)
		}
		requireSameError(tb, want, p.got.SetCursor(a), what)
	case 13: // many at once, so that blocks fill up
		for range int(x) * 2 {
			if !p.next(tb, what) {
				break
			}
		}
	case 14: // and empty again
		all := p.want.leases()
		for i, a := range all {
			if y&1 != 0 {
				a = all[len(all)-1-i]
			}
			if i > int(x)*2 {
				break
			}
			requireSame(tb, true, p.want.release(a) && p.got.Release(a), what)
		}
	case 15:
		if y < 64 {
			p.got = restart(tb, p.got, x&1 != 0, p.reserved...)
			old := p.got
			p.got = old.Clone()
			for range y % 80 { // which the clone does not see
				_, _ = old.Next()
			}
			p.check(tb)
		}
	}
	if !p.want.exhausted() {
		requireSame(tb, p.want.cursor, p.got.Cursor(), what)
	}
	requireSame(tb, len(p.want.leased), p.got.Len(), what)
}

// next calls Next on both and reports whether there was one.
func (p *addrsPair) next(tb testing.TB, what func() string) bool {
	tb.Helper()
	want, wantErr := p.want.next()
	got, err := p.got.Next()
	requireSame(tb, want, got, what)
	requireSameError(tb, wantErr, err, what)
	return err == nil
}

func (p *addrsPair) check(tb testing.TB) {
	tb.Helper()
	want, got := p.want.leases(), slices.Collect(p.got.Leases())
	if !slices.Equal(want, got) {
		require.Equal(tb, want, got)
	}
}

// requireSame is require.Equal, but costs little while things are well: millions
// of comparisons are made.
func requireSame[T comparable](tb testing.TB, want, got T, what func() string) {
	tb.Helper()
	if want != got {
		require.Equal(tb, want, got, what())
	}
}

func requireSameError(tb testing.TB, want, got error, what func() string) {
	tb.Helper()
	if (want == nil) != (got == nil) || !errors.Is(got, want) {
		require.ErrorIs(tb, got, want, what())
	}
}

func TestAddrsAgainstModel(t *testing.T) {
	for _, pool := range addrsPools() {
		t.Run(pool.prefix.String(), func(t *testing.T) {
			r := newRand(t)
			for range 4 {
				p := newAddrsPair(t, pool)
				for i := range 1000 {
					p.do(t, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()))
					if i%100 == 0 {
						p.check(t)
						checkNode(t, p.got.used.root)
					}
				}
				for _, a := range p.want.leases() {
					require.True(t, p.got.Release(a))
				}
				require.Empty(t, slices.Collect(p.got.Leases()))
			}
		})
	}
}

func FuzzAddrs(f *testing.F) {
	pools := addrsPools()
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		p := newAddrsPair(t, pools[int(data[0])%len(pools)])
		for ops := data[1:min(len(data), 1500)]; len(ops) >= 3; ops = ops[3:] {
			p.do(t, ops[0], ops[1], ops[2])
		}
		p.check(t)
		checkNode(t, p.got.used.root)
	})
}
