// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"math/big"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// newRand returns a source of random numbers, and logs its seed for a failure.
func newRand(tb testing.TB) *rand.Rand {
	tb.Helper()
	seed := rand.Uint64()
	tb.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// The numbers are written out: they must be these on big-endian machines, too.
func TestKeyOfIsBigEndian(t *testing.T) {
	for _, tt := range []struct {
		addr string
		want key
	}{
		{"0.0.0.0", key{}},
		{"10.1.2.3", key{lo: 0x0a010203}},
		{"255.255.255.255", key{lo: 0xffffffff}},
		{"::", key{}},
		{"::10.1.2.3", key{lo: 0x0a010203}},
		{"2001:db8:1:2:3:4:5:6", key{0x20010db800010002, 0x0003000400050006}},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", key{allOnes, allOnes}},
	} {
		a := netip.MustParseAddr(tt.addr)
		require.Equal(t, tt.want, keyOf(a), tt.addr)
		if a.Is4() {
			require.Equal(t, a, tt.want.addr4())
		} else {
			require.Equal(t, a, tt.want.addr6())
		}
	}
}

func TestKeyArithmetic(t *testing.T) {
	r := newRand(t)
	one := big.NewInt(1)
	all := new(big.Int).Lsh(one, 128)
	toBig := func(k key) *big.Int {
		b := new(big.Int).SetUint64(k.hi)
		return b.Or(b.Lsh(b, 64), new(big.Int).SetUint64(k.lo))
	}
	toKey := func(b *big.Int) key {
		b = new(big.Int).Mod(b, all)
		return key{new(big.Int).Rsh(b, 64).Uint64(), new(big.Int).And(b, new(big.Int).SetUint64(allOnes)).Uint64()}
	}
	// Bits are mostly alike, so that carries and equal halves occur.
	word := func() uint64 {
		switch r.IntN(4) {
		case 0:
			return 0
		case 1:
			return allOnes
		case 2:
			return allOnes << r.UintN(65)
		}
		return r.Uint64()
	}
	for range 20_000 {
		k, l := key{word(), word()}, key{word(), word()}
		b := toBig(k)
		require.Equal(t, toKey(new(big.Int).Add(b, one)), k.next())
		require.Equal(t, toKey(new(big.Int).Sub(b, one)), k.prev())
		require.Equal(t, b.Cmp(toBig(l)) < 0, k.less(l))
		require.EqualValues(t, new(big.Int).Xor(b, toBig(l)).BitLen(), k.differ(l))

		n := r.UintN(129)
		low := new(big.Int).Sub(new(big.Int).Lsh(one, n), one)
		require.Equal(t, toKey(new(big.Int).Or(b, low)), k.last(n), "last %d of %v", n, k)
		require.Equal(t, toKey(new(big.Int).AndNot(b, low)), k.first(n), "first %d of %v", n, k)

		shift := 6 * r.UintN(22)
		digit := uint(new(big.Int).Rsh(b, shift).Uint64() & 63)
		require.Equal(t, digit, k.digit(shift), "digit %d of %v", shift, k)
		without := new(big.Int).AndNot(b, new(big.Int).Lsh(big.NewInt(63), shift))
		require.Equal(t, k, toKey(without).plus(digit, shift), "digit %d of %v", shift, k)
	}
	require.Equal(t, key{}, key{1, 2}.first(132), "first of a level that covers more than there is")
	require.Equal(t, key{allOnes, allOnes}, key{1, 2}.last(132))
}
