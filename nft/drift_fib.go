// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// "fib ... missing" is loaded in two ways: nft(8) 1.1.3 and earlier compare the whole
// register with zero, and so do we; nft(8) 1.1.7 compares its first byte. The kernel
// zeroes the register before it stores 0 or 1 in that byte (nft_reg_store8), so both
// match the same packets.

// asksPresence reports whether the expression stores only whether there is a result.
func asksPresence(name string, data []byte) bool {
	flags := nlwire.Attrs{Payload: nlwire.Find(data, unix.NFTA_FIB_FLAGS)}
	return name == "fib" && flags.BE32()&unix.NFTA_FIB_F_PRESENT != 0
}

// sameAbsence reports whether both expressions compare the same register with zero, in
// the same way, over one byte or all four.
func sameAbsence(name string, want, have []byte) bool {
	if name != "cmp" {
		return false
	}
	for _, typ := range []uint16{unix.NFTA_CMP_SREG, unix.NFTA_CMP_OP} {
		if !bytes.Equal(nlwire.Find(want, typ), nlwire.Find(have, typ)) {
			return false
		}
	}
	return comparesWithZero(want) && comparesWithZero(have)
}

func comparesWithZero(cmp []byte) bool {
	value := nlwire.Find(nlwire.Find(cmp, unix.NFTA_CMP_DATA), unix.NFTA_DATA_VALUE)
	return (len(value) == 1 || len(value) == 4) && bytes.Count(value, []byte{0}) == len(value)
}
