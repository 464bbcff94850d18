// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// has looks a port up as programs do.
func (p *Ports) has(t *testing.T, s scope, port uint16) bool {
	t.Helper()
	key := s.key()
	binary.NativeEndian.PutUint32(key[keyLength:], keyBits)
	binary.BigEndian.PutUint16(key[keyPort:], port)
	err := p.ports.Lookup(key, make([]byte, 4))
	if !errors.Is(err, unix.ENOENT) {
		require.NoError(t, err)
	}
	return err == nil
}

func (p *Ports) entries(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, p.ports.Each(func(_, _ []byte) { n++ }))
	return n
}

// openPorts opens a set of ports. False: this machine may not.
func openPorts(t *testing.T) (*Ports, bool) {
	t.Helper()
	labtest.Require(t)
	m, err := sys.NewMap(portsSpec("test"))
	if errors.Is(err, fs.ErrPermission) {
		t.Log(err) // a user namespace
		return nil, false
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return portsOf(m), true
}

func TestRunPrefixes(t *testing.T) {
	for _, r := range []run{{1, 1}, {1, 65535}, {1, 65534}, {10000, 60000}, {8000, 8007}, {65535, 65535}, {32768, 65535}, {7, 8}} {
		prefixes := r.prefixes(nil)
		require.LessOrEqual(t, len(prefixes), 30)
		next := int(r.first)
		for _, x := range prefixes {
			require.EqualValues(t, next, x.run().first)
			next = int(x.run().last) + 1
		}
		require.Equal(t, int(r.last)+1, next)
	}
}

// TestPorts: random changes, against an array for each address and family.
func TestPorts(t *testing.T) {
	p, ok := openPorts(t)
	if !ok {
		return
	}
	addrs := []netip.Addr{
		{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"),
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:192.0.2.1"),
	}
	model := map[scope]*[64]bool{}
	at := func(s scope) *[64]bool {
		if model[s] == nil {
			model[s] = &[64]bool{}
		}
		return model[s]
	}
	const base = 49152 - 32
	random := rand.New(rand.NewPCG(1, 2))
	check := func() {
		for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			for _, addr := range addrs {
				scopes, err := Range{Proto: proto, Addr: addr, First: 1, Last: 1}.scopes()
				require.NoError(t, err)
				for _, s := range scopes {
					for i, want := range at(s) {
						require.Equal(t, want, p.has(t, s, base+uint16(i)), "%v %d", s, i)
					}
				}
			}
			for _, kind := range []uint8{kind4, kind6} {
				for i := range 64 {
					some := false
					for s, set := range model {
						some = some || s.kind == kind && s.proto == proto && s.single() && set[i]
					}
					require.Equal(t, some, p.has(t, scope{kind: kind | anywhere, proto: proto}, base+uint16(i)))
				}
			}
		}
	}
	for round := range 600 {
		first := random.IntN(64)
		last := first + random.IntN(64-first)
		if random.IntN(3) == 0 {
			last = first
		}
		r := Range{Proto: unix.IPPROTO_TCP, Addr: addrs[random.IntN(len(addrs))], First: base + uint16(first), Last: base + uint16(last)}
		if random.IntN(2) == 0 {
			r.Proto = unix.IPPROTO_UDP
		}
		add := random.IntN(2) == 0
		if add {
			require.NoError(t, p.Add(r))
		} else {
			require.NoError(t, p.Remove(r))
		}
		scopes, err := r.scopes()
		require.NoError(t, err)
		for _, s := range scopes {
			for i := first; i <= last; i++ {
				at(s)[i] = add
			}
		}
		if round%20 == 0 {
			check()
		}
	}
	check()

	// Another process reads the same.
	again := portsOf(p.ports)
	require.NoError(t, again.read())
	require.Equal(t, p.sets, again.sets)
	one := Range{Proto: unix.IPPROTO_TCP, First: 10000, Last: 60000}
	require.NoError(t, again.Replace([]Range{one}))
	require.True(t, p.has(t, scope{kind: kind4, proto: unix.IPPROTO_TCP}, 60000))
	require.False(t, p.has(t, scope{kind: kind4, proto: unix.IPPROTO_TCP}, 60001))
	require.LessOrEqual(t, again.entries(t), 2*30)
	require.NoError(t, again.Replace(nil))
	require.Zero(t, again.entries(t))
	require.Empty(t, again.sets)
}

func TestPortsBadInput(t *testing.T) {
	p := &Ports{sets: map[scope][]run{}}
	for _, r := range []Range{{}, {Proto: unix.IPPROTO_TCP}, {Proto: unix.IPPROTO_TCP, First: 2, Last: 1}, {Proto: unix.IPPROTO_SCTP, First: 1, Last: 1}} {
		require.ErrorIs(t, p.Add(r), unix.EINVAL)
	}
	require.Empty(t, p.sets)
	require.EqualError(t, p.Add(Range{Proto: unix.IPPROTO_UDP, Last: 9}), "add udp * ports 0-9: udp * ports 0-9 of protocol 17: invalid argument")
}

// TestPortsFull: after an error the set is as before.
func TestPortsFull(t *testing.T) {
	if _, ok := openPorts(t); !ok {
		return
	}
	m, err := sys.NewMap(&sys.MapSpec{Type: unix.BPF_MAP_TYPE_LPM_TRIE, KeySize: keySize, ValueSize: 4, MaxEntries: 8, Flags: unix.BPF_F_NO_PREALLOC})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	p := portsOf(m)
	require.NoError(t, p.Add(Range{Proto: unix.IPPROTO_TCP, Addr: netip.MustParseAddr("192.0.2.1"), First: 8, Last: 15}))
	sets, entries := p.sets, p.entries(t)
	require.ErrorIs(t, p.Add(Range{Proto: unix.IPPROTO_TCP, First: 1, Last: 65534}), unix.ENOSPC)
	require.Equal(t, sets, p.sets)
	require.Equal(t, entries, p.entries(t))
	require.ErrorIs(t, p.Add(Range{Proto: unix.IPPROTO_TCP, Addr: netip.MustParseAddr("192.0.2.2"), First: 1, Last: 33}), unix.ENOSPC)
	require.Equal(t, sets, p.sets)
	require.Equal(t, entries, p.entries(t))
}
