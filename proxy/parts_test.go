// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

type thing struct {
	node node[thing]
	id   int
}

// TestList compares the list with a slice over random steps.
func TestList(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var l list[thing]
	var model []int
	things := map[int]*thing{}
	for id := range 5000 {
		switch {
		case len(model) == 0 || r.IntN(3) == 0:
			x := &thing{id: id}
			x.node.item = x
			things[id] = x
			l.pushBack(&x.node)
			model = append(model, id)
		default:
			i := r.IntN(len(model))
			x := things[model[i]]
			model = slices.Delete(model, i, i+1)
			if r.IntN(2) == 0 {
				l.remove(&x.node)
			} else {
				l.moveToBack(&x.node)
				model = append(model, x.id)
			}
		}
		var forth, back []int
		for n := l.front; n != nil; n = n.next {
			forth = append(forth, n.item.id)
		}
		for n := l.back; n != nil; n = n.prev {
			back = append(back, n.item.id)
		}
		slices.Reverse(back)
		if len(model) > 0 {
			require.Equal(t, model, forth)
		}
		require.Equal(t, forth, back)
	}
}

func TestTimers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	l := &loop{}
	timers := make([]timer, 100)
	due := map[int]int64{}
	var fired []int
	for i := range timers {
		timers[i].expire = func() { fired = append(fired, i) }
	}
	for range 5000 {
		i := r.IntN(len(timers))
		switch r.IntN(3) {
		case 0:
			l.disarm(&timers[i])
			delete(due, i)
		default:
			when := l.now + int64(r.IntN(1000))
			l.arm(&timers[i], when)
			due[i] = when
		}
		l.now += int64(r.IntN(20))
		fired = nil
		l.fireTimers()
		for j, id := range fired {
			require.LessOrEqual(t, due[id], l.now)
			require.True(t, j == 0 || due[fired[j-1]] <= due[id], "out of order")
		}
		for _, id := range fired {
			delete(due, id)
		}
		for id, when := range due {
			require.Greater(t, when, l.now, "timer %d is late", id)
			require.NotZero(t, timers[id].index)
		}
	}
}

func FuzzSockaddr(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1}, uint16(80), uint8(0))
	f.Add(netip.MustParseAddr("fe80::1").AsSlice(), uint16(65535), uint8(3))
	f.Add(netip.MustParseAddr("::ffff:1.2.3.4").AsSlice(), uint16(0), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, port uint16, zone uint8) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		addr = addr.Unmap()
		if zone > 0 && addr.Is6() {
			addr = addr.WithZone(string('0' + zone%10))
			if zone%10 == 0 {
				return
			}
		}
		want := netip.AddrPortFrom(addr, port)
		s, err := encode(want)
		require.NoError(t, err)
		require.Equal(t, want, s.raw.decode())
		require.Equal(t, s.family, s.raw.family())
	})
}

// TestHeldWithoutRoom: data that do not fit into a pipe are kept in memory and follow
// those in it.
func TestHeldWithoutRoom(t *testing.T) {
	noLeak(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer closeFD(fds[0])
	defer closeFD(fds[1])
	for _, limit := range []int{0, 1} {
		pool := pipePool{limit: limit, size: 4096}
		var h held
		data := bytes.Repeat([]byte("0123456789"), 3000)
		h.keep(data, &pool)
		require.Equal(t, len(data), h.size())
		if limit == 1 {
			require.NotNil(t, h.pipe)
			require.NotEmpty(t, h.mem)
		}
		clear(data) // the memory was the caller's
		var got []byte
		buf := make([]byte, 1<<16)
		for h.size() > 0 {
			_, e := h.write(fds[0], &pool)
			require.Contains(t, []unix.Errno{noErrno, unix.EAGAIN}, e)
			for {
				n, e := recv(fds[1], buf)
				if e != noErrno {
					break
				}
				got = append(got, buf[:n]...)
			}
		}
		require.Equal(t, bytes.Repeat([]byte("0123456789"), 3000), got)
		require.Nil(t, h.pipe)
		require.Len(t, pool.free, limit)
		pool.trim()
		require.Zero(t, pool.made)
	}
}

// TestPipePool: pipes are bounded, and one that still holds data is not used
// again.
func TestPipePool(t *testing.T) {
	noLeak(t)
	pool := pipePool{limit: 3, size: pipeSize}
	a, b, c := pool.get(), pool.get(), pool.get()
	require.NotNil(t, c)
	require.Nil(t, pool.get())
	pool.put(a)
	require.Same(t, a, pool.get())
	_, err := unix.Write(b.w, []byte("stale"))
	require.NoError(t, err)
	b.n = 5
	pool.put(b)
	d := pool.get()
	require.NotSame(t, b, d)
	for _, p := range []*pipe{a, c, d} {
		pool.put(p)
	}
	pool.trim()
	require.Zero(t, pool.made)
}

// handle is a handler that is a function.
type handle func(fd int)

func (h handle) ready(fd int, _ uint32) { h(fd) }

// TestStaleEvents: of two events that were fetched together, the first closes
// the descriptor of the second and gives its number to another, which the second
// must not reach.
func TestStaleEvents(t *testing.T) {
	noLeak(t)
	l, err := newLoop(NewGroup(nil), 0)
	require.NoError(t, err)
	defer closeFD(l.epoll)
	defer closeFD(l.wakeup)
	l.events = make([]unix.EpollEvent, eventBatch)
	var fds [2]int
	wrong := handle(func(int) { require.Fail(t, "event of a closed descriptor") })
	served := 0
	for i := range fds {
		fds[i], err = unix.Eventfd(1, unix.EFD_CLOEXEC)
		require.NoError(t, err)
		require.Equal(t, noErrno, l.watch(fds[i], handle(func(fd int) {
			served++
			other := fds[0] + fds[1] - fd
			l.forget(other)
			closeFD(other)
			again, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
			require.NoError(t, err)
			require.Equal(t, other, again) // the lowest free number (open(2))
			require.Equal(t, noErrno, l.watch(again, wrong, evIn))
		}), evIn))
	}
	l.turn.Lock()
	defer l.turn.Unlock()
	l.round()
	require.Equal(t, 1, served)
	closeFD(fds[0])
	closeFD(fds[1])
}
