// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// Many goroutines share a connection, and none sees another's answers.
func TestConcurrent(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	const ports, each = 8, 250
	fill(t, ns, ports*each, func(i int) Flow {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 4000)
		dst := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(53+i%ports))
		return Flow{Proto: unix.IPPROTO_UDP, Src: src, Dst: dst, ReplySrc: dst, ReplyDst: src, Status: StatusAssured}
	})
	c := dial(t, ns)
	var wg sync.WaitGroup
	errs := make([]error, ports)
	deleted := make([]int, ports)
	for i := range ports {
		wg.Go(func() {
			f := Filter{Proto: unix.IPPROTO_UDP, FirstPort: uint16(53 + i)}
			seen := 0
			errs[i] = c.Each(f, func(f Flow) error {
				if f.Dst.Port() == uint16(53+i) {
					seen++
				}
				return nil
			})
			if errs[i] == nil && seen != each {
				errs[i] = fmt.Errorf("saw %d", seen)
			}
			if errs[i] == nil {
				_, _, errs[i] = c.Count()
			}
			if errs[i] == nil {
				deleted[i], errs[i] = c.Delete(f, nil)
			}
		})
	}
	wg.Wait()
	for i := range ports {
		require.NoError(t, errs[i])
		require.Equal(t, each, deleted[i])
	}
	require.Empty(t, oracle(t, ns))
}

// Deleting while the table is being dumped, and while packets make new
// entries, misses none that was there before.
func TestDeleteUnderTraffic(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	const n = 20_000
	flow := func(src4 byte, port uint16) func(i int) Flow {
		return func(i int) Flow {
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, src4, byte(i >> 8), byte(i)}), 4000)
			dst := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)
			return Flow{Proto: unix.IPPROTO_UDP, Src: src, Dst: dst, ReplySrc: dst, ReplyDst: src, Status: StatusAssured}
		}
	}
	fill(t, ns, n, flow(1, 53))
	c := dial(t, ns)
	var wg sync.WaitGroup
	wg.Go(func() { fill(t, ns, n, flow(2, 54)) })
	deleted, err := c.Delete(Filter{Proto: unix.IPPROTO_UDP, FirstPort: 53, LastPort: 53}, nil)
	wg.Wait()
	require.NoError(t, err)
	require.Equal(t, n, deleted)
	left := 0
	require.NoError(t, c.Each(Filter{}, func(f Flow) error {
		require.Equal(t, uint16(54), f.Dst.Port())
		left++
		return nil
	}))
	require.Equal(t, n, left)
}

// Without CAP_NET_ADMIN everything but Dial is refused, as such.
func TestPermission(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	flows := variousFlows()
	fill(t, ns, len(flows), func(i int) Flow { return flows[i] })
	var entries []entry
	for _, f := range flows {
		var e entry
		_, err := decodeEntry(entryPayload(f), &e)
		require.NoError(t, err)
		entries = append(entries, e)
	}
	require.NoError(t, ns.Do(func() error {
		// The thread alone is changed; it ends with this function.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		require.NoError(t, unix.Capget(&header, &data[0]))
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		require.NoError(t, unix.Capset(&header, &data[0]))

		c, err := Dial(nil)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Delete(Filter{Proto: unix.IPPROTO_UDP, Dst: netip.IPv4Unspecified(), FirstPort: 53}, nil)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.EqualError(t, err, "delete flows udp 0.0.0.0:53: operation not permitted")
		require.ErrorIs(t, c.Each(Filter{}, func(Flow) error { return nil }), fs.ErrPermission)
		_, _, err = c.Count()
		require.ErrorIs(t, err, fs.ErrPermission)

		// Deletions too, should the capability be lost in mid-pass.
		q := requests{conn: c, redundant: unix.ENOENT}
		for _, e := range entries {
			require.NoError(t, q.delete(&e))
		}
		require.ErrorIs(t, q.flush(), fs.ErrPermission)
		require.Zero(t, q.made)
		return nil
	}))
	require.Len(t, oracle(t, ns), len(flows))
}

// Only the kernel is listened to. Others of enough privilege can write to the
// socket, and know or guess all that they need to look like it.
func TestForgedAnswer(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	flows := variousFlows()
	fill(t, ns, len(flows), func(i int) Flow { return flows[i] })
	c, forger := dial(t, ns), dial(t, ns)
	victim, ok := c.reader.socket.(*nlwire.Socket)
	require.True(t, ok)
	s, ok := forger.reader.socket.(*nlwire.Socket)
	require.True(t, ok)
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: victim.Port()}
	for seq := range uint32(2) {
		require.NoError(t, s.Control(func(fd int) error {
			return unix.Sendto(fd, datagram(1+seq, msgGetStats, 0, statsPayload(4711, 4711)), 0, to)
		}))
	}
	n, limit, err := c.Count()
	require.NoError(t, err)
	require.Equal(t, len(flows), n)
	require.NotEqual(t, 4711, limit)
}

// A dump that nobody wants any more does not stand in the way of the next.
func TestAbandonedDump(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	const n = 2000 // many pieces
	fill(t, ns, n, func(i int) Flow {
		return plain(unix.IPPROTO_UDP, fmt.Sprintf("10.0.%d.%d:4000", i/250, i%250), "192.0.2.1:53")
	})
	c := dial(t, ns)
	require.ErrorIs(t, c.Each(Filter{}, func(Flow) error { return errStop }), errStop)
	require.Panics(t, func() {
		_, _ = c.Delete(Filter{Proto: unix.IPPROTO_UDP, FirstPort: 53}, func(f Flow) bool { panic(f) })
	})
	deleted, err := c.Delete(Filter{Proto: unix.IPPROTO_UDP, FirstPort: 53}, nil)
	require.NoError(t, err)
	require.Equal(t, n, deleted)
}

// Answers that overflow the socket's receive buffer are lost for good; what
// they answer is done all the same, or is done again.
func TestDeleteOverrun(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	fill(t, ns, chunk, func(i int) Flow { return plain(unix.IPPROTO_UDP, fmt.Sprintf("10.0.0.%d:4000", i), "192.0.2.1:53") })
	c, rival := dial(t, ns), dial(t, ns)
	s, ok := c.writer.socket.(*nlwire.Socket)
	require.True(t, ok)
	require.NoError(t, s.Control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) })) // the kernel makes that its minimum, 2,304
	filter := Filter{Proto: unix.IPPROTO_UDP, FirstPort: 53}
	seen := 0
	n, err := c.Delete(filter, func(Flow) bool {
		if seen++; seen == chunk { // then all the queued deletions have to fail
			n, err := rival.Delete(filter, nil)
			require.NoError(t, err)
			require.Equal(t, chunk, n)
		}
		return true
	})
	require.NoError(t, err)
	require.Zero(t, n)
	require.Equal(t, uint32(2*chunk), c.writer.seq) // all at once, then one by one
	require.Empty(t, oracle(t, ns))
}

// What does not fit the buffer is an error, also where it is cut between two
// messages and what is left of it looks whole.
func TestTruncated(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	fill(t, ns, 20, func(i int) Flow { return plain(unix.IPPROTO_UDP, fmt.Sprintf("10.0.0.%d:4000", i), "192.0.2.1:53") })
	c := dial(t, ns)
	require.NoError(t, c.Each(Filter{}, func(Flow) error { return nil }))
	size := 0
	require.NoError(t, c.reader.dump(dumpRequest(Filter{}), func(payload []byte) error {
		size = nlwire.MessageHeader + len(payload)
		return nil
	}))
	for _, cut := range []int{100, size, 2 * size} {
		c.reader.buf = make([]byte, cut)
		require.ErrorIs(t, c.Each(Filter{}, func(Flow) error { return nil }), nlwire.ErrMalformed, cut)
	}
	c.reader.buf = make([]byte, nlwire.LargestDatagram)
	require.Len(t, listed(t, c), 20)
}

// mute never asks, and so waits for ever.
type mute struct{ socket }

func (mute) Send([]byte) error { return nil }

// Close interrupts calls that wait for the kernel.
func TestClose(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	c := dial(t, ns)
	require.NoError(t, c.Close())
	_, _, err := c.Count()
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = c.Delete(Filter{Proto: unix.IPPROTO_UDP, FirstPort: 53}, nil)
	require.ErrorIs(t, err, fs.ErrClosed)

	c = dial(t, ns)
	c.reader.socket = mute{c.reader.socket}
	result := make(chan error)
	go func() {
		_, _, err := c.Count()
		result <- err
	}()
	select {
	case err := <-result:
		require.Fail(t, "did not wait", err)
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-result, fs.ErrClosed)
}

// A namespace is that of the calling thread, or is chosen by descriptor from
// any thread.
func TestDialNetNS(t *testing.T) {
	ns := labtest.NewNS(t, "table")
	fill(t, ns, 2, func(i int) Flow { return plain(unix.IPPROTO_UDP, "10.0.0.1:1", fmt.Sprintf("192.0.2.1:%d", 53+i)) })
	var c *Conn
	require.NoError(t, ns.Do(func() (err error) {
		c, err = Dial(nil)
		return err
	}))
	for i, c := range []*Conn{c, dial(t, ns)} {
		n, err := c.Delete(Filter{Proto: unix.IPPROTO_UDP, FirstPort: uint16(53 + i)}, nil)
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	require.NoError(t, c.Close())

	_, err := Dial(&Config{NetNS: 1 << 20})
	var op *OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "dial ctnetlink", op.Op)
	require.ErrorIs(t, err, unix.EBADF)
}
