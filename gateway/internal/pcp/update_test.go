// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package pcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// TestUpdates changes the WAN's address and compares what clients of PCP are told with RFC 6887 section 14.2: three
// times each, until they ask themselves.
func TestUpdates(t *testing.T) {
	f := newFake()
	run(t, f, func(t *testing.T, sock *fakeSocket) {
		t.Helper()
		ask := func(from string, q []byte) {
			sock.requests <- packet(netip.MustParseAddrPort(from), q)
			synctest.Wait()
		}
		one, two := netip.MustParseAddr("192.168.1.10"), netip.MustParseAddr("192.168.1.11")
		filtered := appendOption(request(one, 3600, 5000, 0), option{code: optFilter, data: filter(netip.MustParsePrefix("203.0.113.0/24"))})
		ask("192.168.1.10:40000", filtered)
		ask("192.168.1.10:40001", request(one, 3600, 5001, 0))
		ask("192.168.1.10:40009", request(one, 3600, 5002, 0))
		ask("192.168.1.10:40009", request(one, 0, 5002, 0)) // ended
		exact := request(two, 3600, 6000, 9000)
		copy(exact[headerLen+atSuggested:], appendAddress(nil, f.wan))
		exact = appendOption(exact, option{code: optPreferFailure})
		ask("192.168.1.11:40002", exact)
		ask("192.168.1.11:40003", appendOption(request(two, 3600, 6001, 9001), option{code: optPreferFailure}))
		ask("192.168.1.11:40004", []byte{0, 1, 0, 0, 0x1b, 0x58, 0, 0, 0, 0, 0x0e, 0x10}) // NAT-PMP, port 7000
		time.Sleep(5 * time.Minute)
		sock.takeSent()

		changed := time.Since(sock.began)
		f.setWAN(netip.MustParseAddr("198.51.100.2"))
		time.Sleep(firstInterval + 300*time.Millisecond)
		ask("192.168.1.10:40001", request(one, 3600, 5001, 0)) // now it knows
		time.Sleep(5 * time.Minute)

		got := map[string][]time.Duration{}
		for _, a := range sock.takeSent() {
			if a.to.Addr().IsMulticast() {
				continue
			}
			require.Equal(t, []byte{pcpVersion, opMap | response}, a.data[:2])
			m := a.data[headerLen:]
			text := fmt.Sprintf("%v %v %d %d->%v options %d", a.to, result(a.data[atResult]), binary.BigEndian.Uint32(a.data[atLifetime:]),
				binary.BigEndian.Uint16(m[atInternal:]), netip.AddrPortFrom(address(m[atSuggested:]), binary.BigEndian.Uint16(m[atExternal:])), len(m)-mapLen)
			assert.Equal(t, "nonce nonce!", string(m[:nonceLen]))
			assert.Equal(t, byte(nat.UDP), m[atProto])
			got[text] = append(got[text], a.at-changed)
		}
		three := []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, 1000 * time.Millisecond}
		assert.Equal(t, map[string][]time.Duration{
			"192.168.1.10:40000 SUCCESS 3600 5000->198.51.100.2:5000 options 24":              three,
			"192.168.1.10:40001 SUCCESS 3600 5001->198.51.100.2:5001 options 0":               append(slices.Clone(three[:2]), 550*time.Millisecond),
			"192.168.1.11:40002 CANNOT_PROVIDE_EXTERNAL 30 6000->198.51.100.1:9000 options 4": three,
			"192.168.1.11:40003 SUCCESS 3600 6001->198.51.100.2:9001 options 4":               three,
		}, got)
	})
}

// TestForget keeps no client for long that has no lease.
func TestForget(t *testing.T) {
	f := newFake()
	s := f.server()
	for i := range 5 * sweepAt {
		client := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		q := request(client, 3600, 5000, 0)
		s.note(packet(netip.AddrPortFrom(client, 40000), q), s.Answer(t.Context(), nil, q, client))
		if i >= 10 {
			f.all = f.all[:10] // the others are gone
		}
	}
	assert.LessOrEqual(t, len(s.clients.of), sweepAt)
	assert.Len(t, s.clients.origins, 1)
}
