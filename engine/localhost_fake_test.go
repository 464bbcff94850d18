// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/hooks"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// fakeLocalhost is what the programs of eBPF for localhost have as their maps: single ports, and ports of ranges.
type fakeLocalhost struct {
	singles, ranges map[localPort]netip.AddrPort
	// before and after are called with each change; an error of before is its answer, and so is one of after.
	before, after func(op string) error
}

type localPort struct {
	protocol uint32
	frontend netip.AddrPort
}

func newFakeLocalhost() *fakeLocalhost {
	return &fakeLocalhost{singles: map[localPort]netip.AddrPort{}, ranges: map[localPort]netip.AddrPort{}}
}

func (l *fakeLocalhost) Change(remove, put []bpf.LocalEntry) error {
	return l.change("change localhost", func() {
		l.each(remove, func(in map[localPort]netip.AddrPort, p localPort, _ netip.AddrPort) { delete(in, p) })
		l.each(put, func(in map[localPort]netip.AddrPort, p localPort, to netip.AddrPort) { in[p] = to })
	})
}

func (l *fakeLocalhost) Replace(put []bpf.LocalEntry) error {
	return l.change("replace localhost", func() {
		clear(l.singles)
		clear(l.ranges)
		l.each(put, func(in map[localPort]netip.AddrPort, p localPort, to netip.AddrPort) { in[p] = to })
	})
}

func (l *fakeLocalhost) change(op string, do func()) error {
	if l.before != nil {
		if err := l.before(op); err != nil {
			return err
		}
	}
	do()
	if l.after != nil {
		return l.after(op)
	}
	return nil
}

// each calls f with the map, the port and the backend of each port of the entries.
func (l *fakeLocalhost) each(entries []bpf.LocalEntry, f func(in map[localPort]netip.AddrPort, p localPort, to netip.AddrPort)) {
	for _, e := range entries {
		if e.Last == 0 {
			f(l.singles, localPort{e.Protocol, e.Frontend}, e.Backend)
			continue
		}
		for port := int(e.Frontend.Port()); port <= int(e.Last); port++ {
			f(l.ranges, localPort{e.Protocol, netip.AddrPortFrom(e.Frontend.Addr(), uint16(port))}, netip.AddrPortFrom(e.Backend.Addr(), uint16(port)))
		}
	}
}

func (*fakeLocalhost) AnyLed() bool { return false }

func (*fakeLocalhost) Connected(uint64) (frontend, backend netip.AddrPort, ok bool) {
	return frontend, backend, false
}

// leads is where a socket is led, as the programs find it.
func (l *fakeLocalhost) leads(protocol uint32, asked netip.AddrPort) netip.AddrPort {
	any := netip.IPv6Unspecified()
	if asked.Addr().Is4() {
		any = netip.IPv4Unspecified()
	}
	for _, a := range []netip.Addr{asked.Addr(), any} {
		p := localPort{protocol, netip.AddrPortFrom(a, asked.Port())}
		for _, in := range []map[localPort]netip.AddrPort{l.singles, l.ranges} {
			to, ok := in[p]
			if !ok {
				continue
			}
			if to.Addr().IsValid() {
				return to
			}
			break // a hole
		}
	}
	return netip.AddrPort{}
}

// ledTo lists where sockets are led, and requires that it is where they are to be. Nil: where they are to be.
func ledTo(t *testing.T, l *fakeLocalhost, e *Engine, first, last uint16, what string) (lines []string) {
	t.Helper()
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		protocol := uint32(bpf.TCP)
		if proto == nat.UDP {
			protocol = bpf.UDP
		}
		for _, a := range []string{"127.0.0.1", "127.0.0.9", "::1"} {
			for port := first; port <= last; port++ {
				asked := netip.AddrPortFrom(netip.MustParseAddr(a), port)
				to := hooks.Backend(&e.core.mappings, proto, asked)
				if l != nil {
					require.Equal(t, to.String(), l.leads(protocol, asked).String(), "%s\nlocalhost, %s %s", what, proto, asked)
				}
				if to.IsValid() {
					lines = append(lines, fmt.Sprintf("%s %s to %s", proto, asked, to))
				}
			}
		}
	}
	return lines
}

// Where localhost could not be led to what others have changed, it is as soon as that is possible: by the next call, or by Run.
func TestLocalhostTriedAgain(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprint("running ", running), func(t *testing.T) {
			b := newTestbed()
			b.localhost = newFakeLocalhost()
			e := b.open(t)
			holdPorts(t, e)
			publish(t, e, "18000->172.30.0.2:80", "18001->172.30.0.3:80/udp")
			b.write(t, foreign("tcp4", "18002", "10.9.0.2:80", "theirs"))
			b.edit(t, func(table *nfttest.Table) {
				table.Elements = slices.DeleteFunc(table.Elements, func(el nft.Element) bool { return el.Set == "udp4" })
			})
			b.localhost.before = func(string) error { return errors.New("no memory") }
			require.NoError(t, e.core.adopt(t.Context()))
			require.Equal(t, []string{"18000->172.30.0.2:80", "18002->10.9.0.2:80 theirs"}, publishedBy(e))
			require.True(t, b.localhost.leads(bpf.UDP, netip.MustParseAddrPort("127.0.0.1:18001")).IsValid())
			if running {
				_, again := e.expire() // which Run calls
				require.True(t, again)
			}
			b.localhost.before = nil
			if running {
				_, again := e.expire()
				require.False(t, again)
			} else {
				publish(t, e, "18003->172.30.0.4:80")
			}
			require.NotEmpty(t, ledTo(t, b.localhost, e, 18000, 18011, "after that"))
		})
	}
}
