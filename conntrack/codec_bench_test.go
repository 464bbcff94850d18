// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// BenchmarkDecode decodes one entry of a dump: those that the filter turns down, which
// are nearly all of them, and those whose flow is made of it.
func BenchmarkDecode(b *testing.B) {
	payload := entryPayload(dnatted())
	for _, bc := range []struct {
		name string
		port uint16
	}{{"match", dnatted().Dst.Port()}, {"other", dnatted().Dst.Port() + 1}} {
		b.Run(bc.name, func(b *testing.B) {
			filter, err := Filter{Proto: dnatted().Proto, FirstPort: bc.port}.normal()
			require.NoError(b, err)
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			var e entry
			for b.Loop() {
				if _, err := decodeEntry(payload, &e); err != nil {
					b.Fatal(err)
				}
				if !filter.matches(e.origTuple, e.flags()) {
					continue
				}
				if _, err := e.flow(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncode encodes the requests.
func BenchmarkEncode(b *testing.B) {
	b.Run("delete", func(b *testing.B) {
		var e entry
		_, err := decodeEntry(entryPayload(dnatted()), &e)
		require.NoError(b, err)
		var buf []byte
		b.ReportAllocs()
		for b.Loop() {
			buf = appendDelete(buf[:0], &e)
		}
	})
	b.Run("dump", func(b *testing.B) {
		f := Filter{Proto: unix.IPPROTO_UDP, Dst: dnatted().Dst.Addr(), FirstPort: 53, LastPort: 53}
		b.ReportAllocs()
		for b.Loop() {
			_ = filteredDumpRequest(unix.AF_INET, f)
		}
	})
}
