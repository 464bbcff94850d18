// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"

	"github.com/nftnat/nftnat/internal/rules"
)

func bitwise(x rules.Bitwise, g *regs) {
	from, ok1 := span(x.Sreg, x.Len)
	to, ok2 := span(x.Dreg, x.Len)
	if !ok1 || !ok2 {
		return
	}
	val, known, part := g.val, g.known, g.part
	out := make([]byte, 0, nregs)
	bits := make([]byte, 0, nregs)
	keep := true
	switch x.Op {
	case rules.BitwiseLshift, rules.BitwiseRshift:
		out, bits = shift(val[from:from+x.Len], x.Op == rules.BitwiseLshift, x.Shift), shift(known[from:from+x.Len], x.Op == rules.BitwiseLshift, x.Shift)
		fill := shift(ones(x.Len), x.Op == rules.BitwiseLshift, x.Shift)
		for i := range bits {
			bits[i] |= ^fill[i]
		}
		keep = x.Shift == 0
	case rules.BitwiseAnd, rules.BitwiseOr, rules.BitwiseXor:
		var v, k [nregs]byte
		if at, ok := span(x.Sreg2, x.Len); ok && x.Sreg2 != 0 {
			copy(v[:], val[at:at+x.Len])
			copy(k[:], known[at:at+x.Len])
		} else {
			copy(v[:], x.Data)
			for i := range min(len(x.Data), x.Len) {
				k[i] = 0xff
			}
		}
		keep = false
		for i := range x.Len {
			a, ka, b, kb := val[from+i], known[from+i], v[i], k[i]
			switch x.Op {
			case rules.BitwiseAnd:
				out, bits = append(out, a&b), append(bits, ka&kb|ka&^a|kb&^b)
			case rules.BitwiseOr:
				out, bits = append(out, a|b), append(bits, ka&kb|ka&a|kb&b)
			default:
				out, bits = append(out, a^b), append(bits, ka&kb)
			}
		}
	default: // NFT_BITWISE_MASK_XOR
		for i := range x.Len {
			var mask, xor byte
			if i < len(x.Mask) {
				mask = x.Mask[i]
			}
			if i < len(x.Xor) {
				xor = x.Xor[i]
			}
			keep = keep && mask == 0xff && xor == 0
			out, bits = append(out, val[from+i]&mask^xor), append(bits, known[from+i]|^mask)
		}
	}
	for i := range (x.Len + 3) &^ 3 {
		if to+i >= nregs {
			break
		}
		g.val[to+i], g.known[to+i], g.part[to+i] = 0, 0xff, 0
		if i < x.Len {
			g.val[to+i], g.known[to+i] = out[i], bits[i]
			if keep {
				g.part[to+i] = part[from+i]
			}
		}
	}
}

func ones(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0xff
	}
	return b
}

// shift shifts fields of 4 bytes, the last of which, or the first, is the lowest.
func shift(b []byte, left bool, n uint32) []byte {
	words := (len(b) + 3) / 4
	in := make([]byte, words*4)
	copy(in, b)
	out := make([]byte, words*4)
	n %= 32
	var carry uint32
	for i := range words {
		at := 4 * i
		if left {
			at = 4 * (words - 1 - i)
		}
		v := binary.NativeEndian.Uint32(in[at:])
		if left {
			binary.NativeEndian.PutUint32(out[at:], v<<n|carry)
			carry = v >> (32 - n)
		} else {
			binary.NativeEndian.PutUint32(out[at:], v>>n|carry)
			carry = v << (32 - n)
		}
	}
	return out[:len(b)]
}

// byteorder swaps bytes, where the host's order is not the network's.
func byteorder(x rules.Byteorder, g *regs) {
	from, ok1 := span(x.Sreg, x.Len)
	to, ok2 := span(x.Dreg, x.Len)
	if !ok1 || !ok2 || x.Size < 1 || x.Size > 8 {
		return
	}
	swap := binary.NativeEndian.Uint16([]byte{0, 1}) != 1
	old := *g
	for i := 0; i+x.Size <= x.Len; i += x.Size {
		for j := range x.Size {
			k := from + i + j
			if swap {
				k = from + i + x.Size - 1 - j
			}
			g.val[to+i+j], g.known[to+i+j], g.part[to+i+j] = old.val[k], old.known[k], old.part[k]
		}
	}
}
