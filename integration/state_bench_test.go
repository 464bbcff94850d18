// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// BenchmarkKept publishes and unpublishes a mapping, which are two changes, in a state with
// mappings that form no ranges, with a file and without, and after as many others were removed
// as a file records.
func BenchmarkKept(b *testing.B) {
	for _, count := range []int{100, 10_000, 60_000} {
		for _, c := range []struct {
			kept    bool
			removed int
		}{{}, {true, 0}, {true, 4096}} {
			b.Run(fmt.Sprintf("mappings=%d/file=%t/removed=%d", count, c.kept, c.removed), func(b *testing.B) {
				ns := labtest.NewNS(b, "host")
				o := engine.Options{NetNS: ns.Path(), NoProxies: true, NoSysctl: true}
				if c.kept {
					file := state.NewFile(filepath.Join(b.TempDir(), "state.yaml"))
					b.Cleanup(func() { require.NoError(b, file.Close()) })
					o.Store = file
				}
				e, err := engine.Open(b.Context(), o)
				require.NoError(b, err)
				b.Cleanup(func() { require.NoError(b, e.Close()) })
				mapping := func(i int) nat.Mapping {
					return nat.Mapping{
						Proto:    nat.TCP,
						Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(i+1)),
						Backend:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 80),
					}
				}
				ms := make([]nat.Mapping, count)
				for i := range ms {
					ms[i] = mapping(i)
				}
				_, err = e.Publish(b.Context(), nat.PublishOptions{}, ms...)
				require.NoError(b, err)
				others := make([]nat.Mapping, c.removed)
				for i := range others {
					others[i] = mapping(i)
					others[i].Proto = nat.UDP
				}
				if c.removed > 0 {
					_, err = e.Publish(b.Context(), nat.PublishOptions{}, others...)
					require.NoError(b, err)
					_, err = e.Remove(b.Context(), nat.Removal{Mappings: others})
					require.NoError(b, err)
				}
				for b.Loop() {
					_, err = e.Publish(b.Context(), nat.PublishOptions{}, mapping(count))
					require.NoError(b, err)
					_, err = e.Remove(b.Context(), nat.Removal{Mappings: []nat.Mapping{mapping(count)}})
					require.NoError(b, err)
				}
			})
		}
	}
}
