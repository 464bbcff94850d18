// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

const (
	// benchTable is how full the table is that the benchmark looks for its
	// flows in: the default net.netfilter.nf_conntrack_max of hosts with
	// 4 GiB and more. Where the limit is lower, the limit.
	benchTable = 262144

	// benchFlows is how many of them it deletes.
	benchFlows = 64
)

// BenchmarkDelete deletes 64 flows out of 262,144. The processor time is that
// of the process, in the kernel and outside it; the memory the most that the
// process held, Go's runtime and the benchmark's own included.
func BenchmarkDelete(b *testing.B) {
	ns := labtest.NewNS(b, "table")
	_, limit, err := dial(b, ns).Count()
	require.NoError(b, err)
	entries := benchTable
	if limit != 0 {
		entries = min(entries, limit)
	}
	fill(b, ns, entries-benchFlows, func(i int) Flow {
		// Half UDP, half TCP, on 32 addresses and 4,096 ports.
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 40000)
		dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 32)}), uint16(20000+i%4096))
		proto := uint8(unix.IPPROTO_UDP)
		if i%2 == 0 {
			proto = unix.IPPROTO_TCP
		}
		return Flow{Proto: proto, Src: src, Dst: dst, ReplySrc: dst, ReplyDst: src, Status: StatusAssured | StatusSeenReply}
	})
	victim := func(i int) Flow {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 0, byte(i)}), 40000)
		dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, 1}), 53)
		return Flow{Proto: unix.IPPROTO_UDP, Src: src, Dst: dst, ReplySrc: dst, ReplyDst: src, Status: StatusAssured | StatusSeenReply}
	}
	for _, bc := range []struct {
		name   string
		filter Filter
		off    bool
	}{
		{"addr-port", Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("198.51.100.1"), FirstPort: 53}, false},
		{"ipv4-port", Filter{Proto: unix.IPPROTO_UDP, Dst: netip.IPv4Unspecified(), FirstPort: 53}, false},
		{"port", Filter{Proto: unix.IPPROTO_UDP, FirstPort: 53}, false},
		{"addr-range", Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("198.51.100.1"), FirstPort: 1, LastPort: 10000}, false},
		{"range", Filter{Proto: unix.IPPROTO_UDP, FirstPort: 1, LastPort: 10000}, false},
		{"unanswered-port", Filter{Proto: unix.IPPROTO_UDP, FirstPort: 53, Unanswered: true}, false},
		{"port-no-kernel-filter", Filter{Proto: unix.IPPROTO_UDP, FirstPort: 53}, true},
	} {
		b.Run(bc.name, func(b *testing.B) {
			c := dial(b, ns)
			c.noFilter = bc.off
			var spent time.Duration
			require.NoError(b, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600))
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				fill(b, ns, benchFlows, func(i int) Flow {
					f := victim(i)
					if bc.filter.Unanswered {
						f.Status = 0
					}
					return f
				})
				b.StartTimer()
				before := cpu(b)
				n, err := c.Delete(bc.filter, nil)
				spent += cpu(b) - before
				require.NoError(b, err)
				require.Equal(b, benchFlows, n)
			}
			b.ReportMetric(spent.Seconds()*1000/float64(b.N), "cpu-ms/op")
			b.ReportMetric(peak(b), "peak-MiB")
			b.ReportMetric(float64(entries), "entries")
		})
	}
}

func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	require.NoError(tb, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peak returns the most memory that the process held since the last reset.
func peak(tb testing.TB) float64 {
	tb.Helper()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(tb, err)
	_, rest, ok := strings.Cut(string(status), "VmHWM:")
	require.True(tb, ok)
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(tb, err)
	return float64(kib) / 1024
}
