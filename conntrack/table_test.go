// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// variousFlows is a table in which every flow differs from what the tests delete in
// one thing at least.
func variousFlows() []Flow {
	const tcp, udp, sctp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP
	flows := []Flow{
		plain(udp, "10.0.0.1:4000", "192.0.2.1:53"),
		plain(udp, "10.0.0.2:4000", "192.0.2.1:53"),
		plain(udp, "10.0.0.1:4000", "192.0.2.1:54"),
		plain(udp, "10.0.0.1:4000", "192.0.2.1:52"),
		plain(udp, "10.0.0.1:4000", "192.0.2.1:60"),
		plain(udp, "10.0.0.1:4000", "192.0.2.1:61"),
		plain(udp, "10.0.0.1:4000", "192.0.2.2:53"), // another address
		plain(tcp, "10.0.0.1:4000", "192.0.2.1:53"), // another protocol
		plain(tcp, "10.0.0.1:4000", "192.0.2.1:55"),
		plain(sctp, "10.0.0.1:4000", "192.0.2.1:53"),
		plain(udp, "10.0.0.1:53", "192.0.2.1:4000"),    // the port as source
		plain(udp, "192.0.2.1:53", "10.0.0.9:4000"),    // the whole address as source
		plain(udp, "10.0.0.1:4000", "192.0.2.1:13568"), // 53 in the other byte order
		plain(udp, "[2001:db8::9]:4000", "[2001:db8::1]:53"),
		plain(udp, "[2001:db8::9]:4001", "[2001:db8::1]:53"),
		plain(udp, "[2001:db8::9]:4000", "[2001:db8::2]:53"),
		plain(tcp, "[2001:db8::9]:4000", "[2001:db8::1]:53"),
		plain(udp, "[2001:db8::9]:4000", "[2001:db8::1]:54"),
	}
	// Opening: nobody has answered.
	opening := plain(tcp, "10.0.0.5:4000", "192.0.2.1:56")
	opening.Status = 0
	flows = append(flows, opening)
	// DNATed: 53 is the backend's port, and appears as source of the replies.
	f := plain(udp, "10.0.0.3:4000", "192.0.2.1:5300")
	f.ReplySrc = netip.MustParseAddrPort("172.17.0.2:53")
	flows = append(flows, f)
	// Masqueraded: 53 is the port it goes out by.
	f = plain(udp, "10.0.0.4:4000", "198.51.100.1:5300")
	f.ReplyDst = netip.MustParseAddrPort("192.0.2.1:53")
	return append(flows, f)
}

func TestDelete(t *testing.T) {
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		name   string
		filter Filter
		match  func(Flow) bool
		want   []string // what is gone, as "source->destination"
	}{
		{"port", Filter{Proto: udp, FirstPort: 53}, nil, []string{
			"10.0.0.1:4000->192.0.2.1:53", "10.0.0.2:4000->192.0.2.1:53", "10.0.0.1:4000->192.0.2.2:53",
			"[2001:db8::9]:4000->[2001:db8::1]:53", "[2001:db8::9]:4001->[2001:db8::1]:53", "[2001:db8::9]:4000->[2001:db8::2]:53"}},
		{"port, other protocol", Filter{Proto: tcp, FirstPort: 53}, nil, []string{
			"10.0.0.1:4000->192.0.2.1:53", "[2001:db8::9]:4000->[2001:db8::1]:53"}},
		{"protocol whose ports the kernel does not compare", Filter{Proto: unix.IPPROTO_SCTP, FirstPort: 53}, nil, []string{
			"10.0.0.1:4000->192.0.2.1:53"}},
		{"the same, other port", Filter{Proto: unix.IPPROTO_SCTP, FirstPort: 54}, nil, nil},
		{"any IPv4 address", Filter{Proto: udp, Dst: netip.IPv4Unspecified(), FirstPort: 53}, nil, []string{
			"10.0.0.1:4000->192.0.2.1:53", "10.0.0.2:4000->192.0.2.1:53", "10.0.0.1:4000->192.0.2.2:53"}},
		{"any IPv6 address", Filter{Proto: udp, Dst: netip.IPv6Unspecified(), FirstPort: 53}, nil, []string{
			"[2001:db8::9]:4000->[2001:db8::1]:53", "[2001:db8::9]:4001->[2001:db8::1]:53", "[2001:db8::9]:4000->[2001:db8::2]:53"}},
		{"address and port", Filter{Proto: udp, Dst: v4, FirstPort: 53}, nil, []string{
			"10.0.0.1:4000->192.0.2.1:53", "10.0.0.2:4000->192.0.2.1:53"}},
		{"IPv6 address and port", Filter{Proto: udp, Dst: v6, FirstPort: 53}, nil, []string{
			"[2001:db8::9]:4000->[2001:db8::1]:53", "[2001:db8::9]:4001->[2001:db8::1]:53"}},
		{"range", Filter{Proto: udp, Dst: v4, FirstPort: 53, LastPort: 60}, nil, []string{
			"10.0.0.1:4000->192.0.2.1:53", "10.0.0.2:4000->192.0.2.1:53", "10.0.0.1:4000->192.0.2.1:54", "10.0.0.1:4000->192.0.2.1:60"}},
		{"IPv6 range", Filter{Proto: udp, Dst: v6, FirstPort: 1, LastPort: 1000}, nil, []string{
			"[2001:db8::9]:4000->[2001:db8::1]:53", "[2001:db8::9]:4001->[2001:db8::1]:53", "[2001:db8::9]:4000->[2001:db8::1]:54"}},
		{"unanswered", Filter{Proto: tcp, FirstPort: 1, LastPort: 60, Unanswered: true}, nil, []string{"10.0.0.5:4000->192.0.2.1:56"}},
		{"unanswered, other port", Filter{Proto: tcp, FirstPort: 53, Unanswered: true}, nil, nil},
		{"no such port", Filter{Proto: udp, FirstPort: 9999}, nil, nil},
		{"match false", Filter{Proto: udp, FirstPort: 53}, func(Flow) bool { return false }, nil},
		{"match some", Filter{Proto: udp, FirstPort: 53}, func(f Flow) bool { return f.Src.Port() == 4001 }, []string{
			"[2001:db8::9]:4001->[2001:db8::1]:53"}},
	} {
		for _, off := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/kernel filter off=%t", tt.name, off), func(t *testing.T) {
				ns := labtest.NewNS(t, "table")
				flows := variousFlows()
				fill(t, ns, len(flows), func(i int) Flow { return flows[i] })
				c := dial(t, ns)
				c.noFilter = off

				var want, listing []string
				for _, f := range flows {
					gone := f.Proto == tt.filter.Proto && slices.Contains(tt.want, f.Src.String()+"->"+f.Dst.String())
					if !gone {
						want = append(want, f.String())
					} else {
						listing = append(listing, f.String())
					}
				}
				sort.Strings(want)
				require.Len(t, listing, len(tt.want))

				// Listing by the same filter first.
				var got []string
				require.NoError(t, c.Each(tt.filter, func(f Flow) error {
					if tt.match == nil || tt.match(f) {
						got = append(got, f.String())
					}
					return nil
				}))
				require.ElementsMatch(t, listing, got)

				n, err := c.Delete(tt.filter, tt.match)
				require.NoError(t, err)
				require.Equal(t, len(tt.want), n)
				require.Equal(t, want, oracle(t, ns))
				require.Equal(t, off, c.noFilter)
			})
		}
	}
}

// entriesOf counts the entries that a transport delivers.
type entriesOf struct {
	socket
	n int
}

func (e *entriesOf) Receive(b []byte, wait bool) (int, error) {
	n, err := e.socket.Receive(b, wait)
	for rest := b[:max(n, 0)]; err == nil && len(rest) > 0; {
		var m nlwire.Message
		if m, rest, err = nextMessage(rest); err == nil && m.Type == msgNew {
			e.n++
		}
	}
	return n, err
}

// The kernel, where it can, sends candidates only: that it does is what keeps
// a pass over a large table cheap. Every kernel that this is tested on can.
func TestKernelFilters(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	flows := variousFlows()
	fill(t, ns, len(flows), func(i int) Flow { return flows[i] })
	c := dial(t, ns)
	counter := &entriesOf{socket: c.reader.socket}
	c.reader.socket = counter
	for _, tt := range []struct {
		filter Filter
		sent   int
	}{
		{Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("192.0.2.1"), FirstPort: 53}, 2},
		{Filter{Proto: unix.IPPROTO_UDP, FirstPort: 53}, 6},
		{Filter{Proto: unix.IPPROTO_UDP, Dst: netip.IPv6Unspecified(), FirstPort: 53}, 3},
		{Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("2001:db8::1"), FirstPort: 53}, 3},
		{Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("192.0.2.1"), FirstPort: 53, LastPort: 60}, 9},
		{Filter{Proto: unix.IPPROTO_TCP}, 4},
		{Filter{Proto: unix.IPPROTO_TCP, Unanswered: true}, 1},
		{Filter{Dst: netip.IPv6Unspecified()}, 5},
		{Filter{}, len(flows)},
	} {
		counter.n = 0
		require.NoError(t, c.Each(tt.filter, func(Flow) error { return nil }))
		require.Equal(t, tt.sent, counter.n, tt.filter)
	}
	require.False(t, c.noFilter)
}

// Ten thousand flows to a published range go in one pass, among others.
func TestDeleteMany(t *testing.T) {
	const n, others = 10_000, 2_000
	for _, off := range []bool{false, true} {
		t.Run(fmt.Sprintf("kernel filter off=%t", off), func(t *testing.T) {
			ns := labtest.NewNS(t, "table")
			fill(t, ns, n+others, func(i int) Flow {
				src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 4000)
				dst := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(20_000+i))
				return Flow{Proto: unix.IPPROTO_UDP, Src: src, Dst: dst, ReplySrc: dst, ReplyDst: src, Status: StatusAssured}
			})
			c := dial(t, ns)
			c.noFilter = off
			dumps := &dumpsOf{socket: c.reader.socket}
			c.reader.socket = dumps
			deleted, err := c.Delete(Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("192.0.2.1"), FirstPort: 20_000, LastPort: 29_999}, nil)
			require.NoError(t, err)
			require.Equal(t, n, deleted)
			require.Equal(t, 1, dumps.n)
			left := 0
			require.NoError(t, c.Each(Filter{}, func(f Flow) error {
				require.GreaterOrEqual(t, f.Dst.Port(), uint16(30_000))
				left++
				return nil
			}))
			require.Equal(t, others, left)
			require.Len(t, oracle(t, ns), others)
		})
	}
}

// dumpsOf counts the dumps that are asked for.
type dumpsOf struct {
	socket
	n int
}

func (d *dumpsOf) Send(b []byte) error {
	if m, _, err := nextMessage(b); err == nil && m.Type == msgGet {
		d.n++
	}
	return d.socket.Send(b)
}

// Entries that vanish between dump and deletion are a success, and not counted.
func TestDeleteVanished(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	flows := variousFlows()
	fill(t, ns, len(flows), func(i int) Flow { return flows[i] })
	c, rival := dial(t, ns), dial(t, ns)
	victim := netip.MustParseAddrPort("10.0.0.2:4000")
	filter := Filter{Proto: unix.IPPROTO_UDP, Dst: netip.MustParseAddr("192.0.2.1"), FirstPort: 53}
	once := false
	n, err := c.Delete(filter, func(Flow) bool {
		if !once {
			once = true
			n, err := rival.Delete(filter, func(f Flow) bool { return f.Src == victim })
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
		return true
	})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Len(t, oracle(t, ns), len(flows)-2)
}

// An entry that has taken the place of the one that was found, with the same
// tuple but another id, is left alone.
func TestDeleteSparesSuccessor(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	fill(t, ns, 1, func(int) Flow { return plain(unix.IPPROTO_UDP, "10.0.0.1:4000", "192.0.2.1:53") })
	c := dial(t, ns)
	var found Flow
	require.NoError(t, c.Each(Filter{}, func(f Flow) error {
		found = f
		return nil
	}))
	for _, tt := range []struct {
		id   uint32
		gone int
	}{{found.ID + 1, 0}, {found.ID, 1}} {
		found.ID = tt.id
		var e entry
		_, err := decodeEntry(entryPayload(found), &e)
		require.NoError(t, err)
		q := requests{conn: c, redundant: unix.ENOENT}
		require.NoError(t, q.delete(&e))
		require.NoError(t, q.flush())
		require.Equal(t, tt.gone, q.made)
		require.Len(t, oracle(t, ns), 1-tt.gone)
	}
}
