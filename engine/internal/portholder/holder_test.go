// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
)

var errOwner = errors.New("another process has it")

// testbed is a Holder with a clock and a log of its own.
type testbed struct {
	*Holder
	now time.Time
	log bytes.Buffer
}

func newTestbed(t *testing.T) *testbed {
	t.Helper()
	b := &testbed{now: time.Unix(1_000_000, 0)}
	b.Holder = New(Options{
		Namespace: &hostnet.Namespace{}, Log: slog.New(slog.NewTextHandler(&b.log, nil)),
		Owner: func(portset.Port) error { return errOwner }, Progress: func(string, int, int) {},
		Now: func() time.Time { return b.now },
	})
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// backend answers each connection with a name, and returns its address.
func backend(t *testing.T, name string) string {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// free returns the text of a loopback address with a port that nobody has.
func free(t *testing.T) string {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func port(t *testing.T, frontend, backend string) portset.Port {
	t.Helper()
	return portset.Of(nattest.Mapping(t, frontend+"->"+backend))
}

// answer returns what a client of a frontend reads.
func answer(t *testing.T, frontend string) string {
	t.Helper()
	c, err := net.Dial("tcp", frontend)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(b)
}

func (b *testbed) held() map[portset.Frontend]held { return maps.Clone(b.ports) }

func TestSwitch(t *testing.T) {
	b := newTestbed(t)
	front := free(t)
	one, two := port(t, front, backend(t, "one")), port(t, front, backend(t, "two"))
	s := b.Switch(Change{Change: &portset.Change{Added: []portset.Port{one}}})
	require.NoError(t, s.Bind())
	_, err := net.Listen("tcp", front)
	require.ErrorIs(t, err, unix.EADDRINUSE)
	require.NoError(t, s.Serve())
	s.Finish()
	require.Equal(t, "one", answer(t, front))

	s = b.Switch(Change{Change: &portset.Change{Moved: []portset.Move{{Frontend: one.Frontend, From: one.Target, To: two.Target}}}})
	require.NoError(t, s.Bind())
	require.NoError(t, s.Serve())
	require.Equal(t, "two", answer(t, front))
	require.NoError(t, s.UndoServe())
	require.Equal(t, "one", answer(t, front))

	stats, flows, open := b.Stats()
	require.Equal(t, []uint64{3, 0, 1}, []uint64{stats.Total, uint64(flows), uint64(open)})
	s = b.Switch(Change{Change: &portset.Change{Removed: []portset.Port{one}}, KillTCP: true})
	require.NoError(t, s.Bind())
	require.NoError(t, s.Serve())
	s.Finish()
	require.Empty(t, b.held())
	listen(t, front)
}

// After an error, and UndoBind, the ports are held that were held before.
func TestSwitchFails(t *testing.T) {
	b := newTestbed(t)
	front, busy := free(t), listen(t, "127.0.0.1:0").Addr().String()
	old := port(t, front, "172.30.0.2:80")
	require.NoError(t, b.hold(old))
	before := b.held()
	added := []portset.Port{port(t, free(t), "172.30.0.2:81"), port(t, busy, "172.30.0.2:82")}
	for chosen, want := range []error{errOwner, &TakenError{added[1]}} {
		s := b.Switch(Change{Change: &portset.Change{Removed: []portset.Port{old}, Added: added}, Chosen: chosen})
		require.Equal(t, want, s.Bind())
		require.NoError(t, s.UndoBind())
		require.Equal(t, before, b.held())
	}
	wide := portset.Of(nattest.Mapping(t, fmt.Sprintf("%d->172.30.0.2:83", old.AddrPort.Port())))
	s := b.Switch(Change{Change: &portset.Change{Removed: []portset.Port{old}, Added: []portset.Port{wide}}})
	require.NoError(t, s.Bind())
	require.Len(t, b.ports, 1)
	require.Contains(t, b.ports, wide.Frontend, "the old port was in the way")
	require.NoError(t, s.UndoBind())
	require.Len(t, b.ports, 1)
	require.NotNil(t, b.ports[old.Frontend].proxy)
}

func TestRetry(t *testing.T) {
	b := newTestbed(t)
	other := listen(t, "127.0.0.1:0")
	set := portset.NewSet()
	set.Put(port(t, other.Addr().String(), backend(t, "served")))
	b.Sync(&set)
	require.Equal(t, 1, b.Unserved(&set))
	<-b.Sooner()
	for _, want := range []time.Duration{1, 1, 2, 4, 8, 16, 30, 30} {
		next, ok := b.Retry(&set)
		require.True(t, ok)
		require.Equal(t, want*time.Second, next)
		b.now = b.now.Add(next)
	}
	_, _ = b.Retry(&set)
	b.RetryNow()
	<-b.Sooner()
	require.NoError(t, other.Close())
	_, ok := b.Retry(&set)
	require.False(t, ok)
	require.Zero(t, b.Unserved(&set))
	require.Equal(t, "served", answer(t, other.Addr().String()))
	require.Contains(t, b.log.String(), "mapping has no proxy")
	require.Contains(t, b.log.String(), "mapping is served now")
	empty := portset.NewSet()
	b.Sync(&empty)
	require.Empty(t, b.held())
}

// A port is held also at an address that the host does not have.
func TestAbsentAddress(t *testing.T) {
	b := newTestbed(t)
	for _, front := range []string{"192.0.2.77:7000", "[2001:db8::77]:7000"} {
		set := portset.NewSet()
		set.Put(port(t, front, "172.30.0.2:80"))
		b.Sync(&set)
		require.Zero(t, b.Unserved(&set), b.log.String())
	}
}

func TestResetAddr(t *testing.T) {
	b := newTestbed(t)
	quiet := listen(t, "127.0.0.1:0")
	p := port(t, free(t), quiet.Addr().String())
	require.NoError(t, b.hold(p))
	c, err := net.Dial("tcp", p.AddrPort.String())
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, err = quiet.Accept()
	require.NoError(t, err)
	b.ResetAddr(netip.MustParseAddr("127.0.0.2"))
	stats, _, _ := b.Stats()
	require.EqualValues(t, 1, stats.Live)
	b.ResetAddr(netip.MustParseAddr("127.0.0.1"))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
}

func TestLend(t *testing.T) {
	old, b := newTestbed(t), newTestbed(t)
	name := backend(t, "served")
	served, closed := port(t, free(t), name), port(t, free(t), name)
	closed.NoProxy = true
	unknown := port(t, free(t), name)
	for _, p := range []portset.Port{served, closed, unknown} {
		require.NoError(t, old.hold(p))
	}
	require.NoError(t, b.Inherit(func(yield func(portset.Frontend, int) bool) {
		for f, fd := range old.Lend {
			fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			require.NoError(t, err)
			if !yield(f, fd) {
				return
			}
		}
	}))
	require.NoError(t, b.hold(served))
	require.NoError(t, b.hold(closed))
	old.Leave()
	require.NoError(t, b.Begin())
	old.Shutdown(t.Context())
	require.Equal(t, "served", answer(t, served.AddrPort.String()))
	_, err := net.Dial("tcp", closed.AddrPort.String())
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	listen(t, unknown.AddrPort.String()) // which Begin closed

	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	require.Error(t, b.Inherit(maps.All(map[portset.Frontend]int{served.Frontend: fd})))
	require.ErrorIs(t, unix.Close(fd), unix.EBADF)
}

func TestDisabled(t *testing.T) {
	h := New(Options{})
	set := portset.NewSet()
	set.Put(port(t, free(t), "172.30.0.2:80"))
	h.Sync(&set)
	h.Retire(portset.Frontend{})
	require.Zero(t, h.Unserved(&set))
	require.Empty(t, maps.Collect(h.All))
	h.Leave()
	h.Shutdown(t.Context())
	require.NoError(t, errors.Join(h.Begin(), h.PipeError(), h.Close()))
}
