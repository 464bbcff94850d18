// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// portsHosts are the hosts to compare on. The first three are wildcards, in the
// order in which a conflict names them; the others ascend.
func portsHosts() []netip.Addr {
	return []netip.Addr{
		netip.IPv6Unspecified(), netip.IPv4Unspecified(), IPv6Only(),
		addr("127.0.0.1"), addr("192.0.2.1"), addr("192.0.2.2"),
		addr("::1"), addr("2001:db8::1"), addr("2001:db8::2"),
	}
}

// naiveOverlap reports by definition whether two sockets can get the same packets: by
// looking at every address.
func naiveOverlap(a, b netip.Addr) bool {
	gets := func(host, packet netip.Addr) bool {
		switch host {
		case netip.IPv6Unspecified():
			return true
		case netip.IPv4Unspecified():
			return packet.Is4()
		case IPv6Only():
			return packet.Is6()
		}
		return host == packet
	}
	for _, packet := range portsHosts()[3:] {
		if gets(a, packet) && gets(b, packet) {
			return true
		}
	}
	return false
}

// naivePorts does what Ports does, with a list of reservations.
type naivePorts struct {
	first, last, cursor int
	avoid               map[int]bool
	have                map[int][]netip.Addr // by port
}

// conflict is the reservation that conflicts with the host, to be named in an error.
func (m *naivePorts) conflict(host netip.Addr, port int) (netip.AddrPort, bool) {
	for _, other := range portsHosts() { // in the order of naming
		for _, have := range m.have[port] {
			if have == other && naiveOverlap(host, have) {
				return netip.AddrPortFrom(have, uint16(port)), true
			}
		}
	}
	return netip.AddrPort{}, false
}

func (m *naivePorts) nextRun(host netip.Addr, n int) (int, error) {
	if n < 1 || n > m.last-m.first+1 {
		return 0, ErrRange
	}
	port := m.cursor
	for range m.last - m.first + 1 {
		if port+n-1 <= m.last && m.free(host, port, n) {
			for i := range n {
				m.have[port+i] = append(m.have[port+i], host)
			}
			if m.cursor = port + n; m.cursor > m.last {
				m.cursor = m.first
			}
			return port, nil
		}
		if port++; port > m.last {
			port = m.first
		}
	}
	return 0, ErrExhausted
}

func (m *naivePorts) free(host netip.Addr, port, n int) bool {
	for i := range n {
		if _, taken := m.conflict(host, port+i); taken || m.avoid[port+i] {
			return false
		}
	}
	return true
}

func (m *naivePorts) reserveRun(host netip.Addr, port, n int) error {
	if port < 1 || n < 1 || port+n-1 > 65535 {
		return ErrRange
	}
	for i := range n {
		if have, taken := m.conflict(host, port+i); taken {
			return &InUseError{have}
		}
	}
	for i := range n {
		m.have[port+i] = append(m.have[port+i], host)
	}
	return nil
}

func (m *naivePorts) release(host netip.Addr, port int) bool {
	for i, have := range m.have[port] {
		if have == host {
			m.have[port] = append(m.have[port][:i], m.have[port][i+1:]...)
			return true
		}
	}
	return false
}

// A portsPair is a Ports and its model.
type portsPair struct {
	got  *Ports
	want *naivePorts
}

func newPortsPair(tb testing.TB, first, last int) *portsPair {
	tb.Helper()
	return &portsPair{newPorts(tb, uint16(first), uint16(last)), &naivePorts{
		first: first, last: last, cursor: first,
		avoid: map[int]bool{}, have: map[int][]netip.Addr{},
	}}
}

// portsRanges are the dynamic ranges to compare on.
func portsRanges() [][2]int {
	return [][2]int{
		{100, 100}, {100, 101}, {100, 109}, {1000, 1130}, {1, 70}, {65400, 65535}, {65535, 65535},
		{4090, 4300}, // two blocks
		{8000, 8700},
	}
}

// do applies one operation of four bytes to both and compares what they say.
func (p *portsPair) do(tb testing.TB, op, h, x, y byte) {
	tb.Helper()
	hosts := portsHosts()
	host := hosts[int(h)%len(hosts)]
	size := p.want.last - p.want.first + 1
	// Near the dynamic range, which may be out of range altogether.
	port := p.want.first - 4 + (int(x)<<8|int(y))%(size+8)
	port = min(max(port, 0), 65535)
	n := 1 + int(x^y)%8
	what := func() string {
		return fmt.Sprintf("%d-%d: op %d of %v %d %d", p.want.first, p.want.last, op%16, host, port, n)
	}
	switch op % 16 {
	case 0, 1, 2, 3:
		p.nextRun(tb, host, 1, what)
	case 4, 5:
		p.nextRun(tb, host, n, what)
	case 6: // longer than a word
		p.nextRun(tb, host, int(x), what)
	case 7, 8:
		p.reserveRun(tb, host, port, 1, what)
	case 9:
		p.reserveRun(tb, host, port, n, what)
	case 10:
		p.reserveRun(tb, host, port, int(x), what)
	case 11: // the model releases one by one
		n, run := 0, int(x)*4
		for port := range run {
			if p.want.release(host, p.want.first+port) {
				n++
			}
		}
		requireSame(tb, n, p.got.ReleaseRun(netip.AddrPortFrom(host, uint16(p.want.first)), run), what)
	case 12, 13:
		for port := range n {
			port += p.want.first + int(y)%size
			requireSame(tb, p.want.release(host, port), p.got.Release(netip.AddrPortFrom(host, uint16(port))), what)
		}
	case 14:
		if x%8 == 0 {
			last := min(port+n-1, 65535)
			require.NoError(tb, p.got.Avoid(uint16(port), uint16(last)), what())
			for port := port; port <= last; port++ {
				p.want.avoid[port] = true
			}
		}
	case 15: // all that one host has
		for port := 1; port <= 65535 && x%8 == 0; port++ {
			if len(p.want.have[port]) > 0 {
				requireSame(tb, p.want.release(host, port), p.got.Release(netip.AddrPortFrom(host, uint16(port))), what)
			}
		}
	}
}

func (p *portsPair) nextRun(tb testing.TB, host netip.Addr, n int, what func() string) {
	tb.Helper()
	want, wantErr := p.want.nextRun(host, n)
	got, err := p.got.NextRun(host, n)
	requireSame(tb, want, int(got), what)
	requireSameError(tb, wantErr, err, what)
}

func (p *portsPair) reserveRun(tb testing.TB, host netip.Addr, port, n int, what func() string) {
	tb.Helper()
	wantErr := p.want.reserveRun(host, port, n)
	err := p.got.ReserveRun(netip.AddrPortFrom(host, uint16(port)), n)
	var want, got *InUseError
	if errors.As(wantErr, &want) && errors.As(err, &got) {
		requireSame(tb, want.Have, got.Have, what)
		return
	}
	requireSameError(tb, wantErr, err, what)
}

// check compares what is reserved, and releases it.
func (p *portsPair) check(tb testing.TB) {
	tb.Helper()
	for port, hosts := range p.want.have {
		for _, host := range hosts {
			require.True(tb, p.got.Release(netip.AddrPortFrom(host, uint16(port))), "%v %d", host, port)
		}
	}
	require.Equal(tb, union{}, usedUnion(p.got))
	require.Empty(tb, p.got.hosts.m)
	require.Zero(tb, usedCounts(p.got))
}

func TestPortsAgainstModel(t *testing.T) {
	for _, rng := range portsRanges() {
		t.Run(fmt.Sprint(rng), func(t *testing.T) {
			r := newRand(t)
			for range 3 {
				p := newPortsPair(t, rng[0], rng[1])
				for range 500 {
					p.do(t, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()))
				}
				p.check(t)
			}
		})
	}
}

func FuzzPorts(f *testing.F) {
	ranges := portsRanges()
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 {
			return
		}
		rng := ranges[int(data[0])%len(ranges)]
		p := newPortsPair(t, rng[0], rng[1])
		for ops := data[1:min(len(data), 1500)]; len(ops) >= 4; ops = ops[4:] {
			p.do(t, ops[0], ops[1], ops[2], ops[3])
		}
		p.check(t)
	})
}
