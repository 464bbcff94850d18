// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestLocalEntry(t *testing.T) {
	for _, e := range []LocalEntry{
		entry(TCP, "0.0.0.0:80", "172.30.0.2:80"),
		entry(UDP, "[::]:65535", "[fd00::1]:1"),
		entry(TCP, "127.0.0.1:80", "[fd00::1]:1"),
		entry(TCP, "[::1]:80", "172.30.0.2:80"),
		{Protocol: UDP, Frontend: netip.MustParseAddrPort("127.255.255.254:1")},
	} {
		k, err := e.key()
		require.NoError(t, err)
		require.Equal(t, e, entryOf(k, e.value()))
	}
	for _, e := range []LocalEntry{
		entry(3, "0.0.0.0:80", "172.30.0.2:80"),
		entry(TCP, "192.0.2.1:80", "172.30.0.2:80"),
		entry(TCP, "0.0.0.0:0", "172.30.0.2:80"),
		ranged(TCP, "0.0.0.0:80", 79, "172.30.0.2:80"),
		ranged(TCP, "0.0.0.0:80", 90, "172.30.0.2:81"),
		{Protocol: TCP, Backend: netip.MustParseAddrPort("172.30.0.2:80")},
	} {
		_, err := e.key()
		require.ErrorIs(t, err, unix.EINVAL, "%v", e)
	}
}

// TestLocalBlocks: the blocks of a range are its ports, each once, and not many.
func TestLocalBlocks(t *testing.T) {
	check := func(first, last uint16) {
		e := ranged(TCP, netip.AddrPortFrom(netip.IPv4Unspecified(), first).String(), last, netip.AddrPortFrom(netip.IPv6Loopback(), first).String())
		k, err := e.key()
		require.NoError(t, err)
		next, n := uint32(first), 0
		require.NoError(t, e.blocks(k, func(b localBlock) error {
			require.Equal(t, k[:entryPort], b[4:4+entryPort])
			require.Equal(t, next, uint32(binary.BigEndian.Uint16(b[4+entryPort:])))
			size := uint32(1) << (8*entryLen - binary.NativeEndian.Uint32(b[:]))
			require.Zero(t, next%size)
			next += size
			n++
			return nil
		}))
		require.Equal(t, uint32(last)+1, next)
		require.LessOrEqual(t, n, 30)
	}
	for _, r := range [][2]uint16{{1, 65535}, {1, 65534}, {1, 1}, {65535, 65535}, {32768, 65535}, {10000, 60000}, {1024, 2047}} {
		check(r[0], r[1])
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		first := uint16(1 + r.IntN(65535))
		check(first, first+uint16(r.IntN(65536-int(first))))
	}
}

// openMaps is a Local without programs. False: this process may not.
func openMaps(t *testing.T) (*Local, bool) {
	t.Helper()
	maps, err := newMaps(localSpecs())
	err = unsupported(err)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		t.Log(err) // tests of a user namespace, or emulation
		return nil, false
	}
	require.NoError(t, err)
	l := &Local{maps: maps}
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l, true
}

// backendOf looks a frontend up as the programs do.
func (l *Local) backendOf(t *testing.T, protocol uint32, frontend netip.AddrPort) netip.AddrPort {
	t.Helper()
	for _, addr := range []netip.Addr{frontend.Addr(), anyOf(frontend.Addr())} {
		k, err := LocalEntry{Protocol: protocol, Frontend: netip.AddrPortFrom(addr, frontend.Port())}.key()
		require.NoError(t, err)
		var v localValue
		if l.maps[mapPorts].Lookup(k[:], v[:]) == nil {
			if v[valueFamily] == 0 {
				continue
			}
			return entryOf(k, v).Backend
		}
		var b localBlock
		binary.NativeEndian.PutUint32(b[:], 8*entryLen)
		copy(b[4:], k[:])
		if l.maps[mapRanges].Lookup(b[:], v[:]) == nil {
			return netip.AddrPortFrom(entryOf(k, v).Backend.Addr(), frontend.Port())
		}
	}
	return netip.AddrPort{}
}

func anyOf(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// TestLocalChange: random changes against a model of one slot a port.
func TestLocalChange(t *testing.T) {
	l, ok := openMaps(t)
	if !ok {
		return
	}
	type slot struct {
		addr netip.Addr // the frontend's
		port uint16
	}
	r := rand.New(rand.NewPCG(3, 4))
	addrs := []netip.Addr{netip.IPv4Unspecified(), netip.MustParseAddr("127.0.0.1"), netip.IPv6Unspecified(), netip.IPv6Loopback()}
	const ports = 200
	single, wide := map[slot]netip.AddrPort{}, map[slot]netip.Addr{}
	ranges := map[slot]LocalEntry{} // by their first port
	for step := range labtest.Rounds(t, "random changes", 300, 3000) {
		addr := addrs[r.IntN(len(addrs))]
		port := uint16(1000 + r.IntN(ports))
		backend := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 30, 0, byte(r.IntN(4))}), port)
		frontend := netip.AddrPortFrom(addr, port)
		var remove, put []LocalEntry
		switch r.IntN(5) {
		case 0: // a port, or a hole
			e := LocalEntry{Protocol: TCP, Frontend: frontend, Backend: netip.AddrPortFrom(backend.Addr(), 80)}
			if r.IntN(2) == 0 {
				e.Backend = netip.AddrPort{}
			}
			put, single[slot{addr, port}] = append(put, e), e.Backend
		case 1: // none
			remove = append(remove, LocalEntry{Protocol: TCP, Frontend: frontend})
			delete(single, slot{addr, port})
		default: // a range in place of those that it overlaps
			last := port + uint16(r.IntN(1200-int(port)))
			for at, old := range ranges {
				if at.addr == addr && old.Frontend.Port() <= last && old.Last >= port {
					remove = append(remove, old)
					delete(ranges, at)
					for p := old.Frontend.Port(); p <= old.Last; p++ {
						delete(wide, slot{addr, p})
					}
				}
			}
			if r.IntN(4) > 0 {
				e := LocalEntry{Protocol: TCP, Frontend: frontend, Last: last, Backend: backend}
				put, ranges[slot{addr, port}] = append(put, e), e
				for p := port; p <= last; p++ {
					wide[slot{addr, p}] = backend.Addr()
				}
			}
		}
		require.NoError(t, l.Change(remove, put))
		for _, at := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"), netip.IPv6Loopback()} {
			for p := uint16(999); p <= 1000+ports; p++ {
				var want netip.AddrPort
				for _, a := range []netip.Addr{at, anyOf(at)} {
					if b, ok := single[slot{a, p}]; ok {
						if want = b; b.IsValid() {
							break
						}
						continue
					}
					if b, ok := wide[slot{a, p}]; ok {
						want = netip.AddrPortFrom(b, p)
						break
					}
				}
				if step%10 == 0 || p == port {
					require.Equal(t, want, l.backendOf(t, TCP, netip.AddrPortFrom(at, p)), "step %d, %s %d", step, at, p)
				}
			}
		}
	}
	// All of it, as it is listed, is what it is replaced by without a change.
	all, err := l.All()
	require.NoError(t, err)
	require.NotEmpty(t, all)
	require.NoError(t, l.Replace(all))
	again, err := l.All()
	require.NoError(t, err)
	require.Equal(t, all, again)
	other := []LocalEntry{entry(UDP, "0.0.0.0:80", "172.30.0.2:80"), ranged(UDP, "[::]:1", 65535, "[fd00::1]:1"), all[0]}
	require.NoError(t, l.Replace(other))
	got, err := l.All()
	require.NoError(t, err)
	require.ElementsMatch(t, other, got)
	require.NoError(t, l.Delete(other...))
	require.NoError(t, l.Delete(other...))
	got, err = l.All()
	require.NoError(t, err)
	require.Empty(t, got)
}

// memory is what the kernel has allocated for a map.
func memory(t *testing.T, m *sys.Map) (bytes int) {
	t.Helper()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", m.FD()))
	require.NoError(t, err)
	for line := range strings.Lines(string(info)) {
		if _, err := fmt.Sscanf(line, "memlock: %d", &bytes); err == nil {
			return bytes
		}
	}
	t.Fatal("the kernel does not tell the memory of maps")
	return 0
}

// TestLocalMany: 60,000 of each protocol, and more than there is room for.
func TestLocalMany(t *testing.T) {
	l, ok := openMaps(t)
	if !ok {
		return
	}
	many := func(protocol uint32, addr netip.Addr) (entries []LocalEntry) {
		for p := uint16(1); p <= 60000; p++ {
			entries = append(entries, LocalEntry{
				Protocol: protocol, Frontend: netip.AddrPortFrom(addr, p),
				Backend: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(p >> 8), byte(p)}), 80),
			})
		}
		return entries
	}
	empty := memory(t, l.maps[mapPorts])
	entries := append(many(TCP, netip.IPv4Unspecified()), many(UDP, netip.IPv4Unspecified())...)
	require.NoError(t, l.Put(entries...))
	used := memory(t, l.maps[mapPorts]) - empty
	require.Less(t, used, 20<<20)
	err := l.Put(many(TCP, netip.IPv6Unspecified())...)
	require.ErrorIs(t, err, ErrFull)
	require.NoError(t, l.Replace(entries))
	all, err := l.All()
	require.NoError(t, err)
	require.Len(t, all, len(entries))
	require.Equal(t, entries[0], all[0])
	require.NoError(t, l.Delete(entries[:len(entries)-1]...))
	all, err = l.All()
	require.NoError(t, err)
	require.Equal(t, entries[len(entries)-1:], all)

	for _, protocol := range []uint32{TCP, UDP} {
		for _, addr := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			require.NoError(t, l.Put(LocalEntry{Protocol: protocol, Frontend: netip.AddrPortFrom(addr, 1), Last: 65535, Backend: netip.MustParseAddrPort("10.0.0.1:1")}))
		}
	}
	if used == 0 {
		t.Log("the kernel tells what maps may take at most") // before Linux 6.4
		return
	}
	for which, limit := range map[int]int{mapRanges: 64 << 10, mapMore: 2 << 20} {
		require.Less(t, memory(t, l.maps[which]), limit, which)
	}
}
