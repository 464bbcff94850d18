// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

func (c *contract) handedOver(t *testing.T) {
	t.Helper()
	opts, _ := wired(t)
	handovers := make(chan *net.UnixConn, 1)
	opts.Handovers = handovers
	s := start(t, opts, defaultLimits())
	nc, err := s.Handover(t.Context())
	require.NoError(t, err)
	_, err = s.Handover(t.Context())
	require.ErrorIs(t, err, ErrBusy)
	require.NoError(t, errors.Join(nc.Close(), (<-handovers).Close()))
	c.statuses["POST /v1/handover 101"], c.statuses["POST /v1/handover 503"] = true, true
}

// The connection of a handover is the server's no more: it does not hold the server up,
// nothing of what comes is lost, and a second one waits its turn.
func TestHandoverConnection(t *testing.T) {
	opts, _ := wired(t)
	handovers := make(chan *net.UnixConn, 1)
	opts.Handovers = handovers
	s := start(t, opts, defaultLimits())
	for range 3 {
		client, err := s.Handover(t.Context())
		require.NoError(t, err)
		_, err = s.Handover(t.Context())
		require.ErrorIs(t, err, ErrBusy)
		server := <-handovers
		for near, far := range map[*net.UnixConn]*net.UnixConn{client: server, server: client} {
			_, err = io.WriteString(near, "hello")
			require.NoError(t, err)
			b := make([]byte, 5)
			_, err = io.ReadFull(far, b)
			require.NoError(t, err)
			require.Equal(t, "hello", string(b))
		}
		require.NoError(t, client.Close())
		_, err = server.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, server.Close())
	}
	client, err := s.Handover(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.stop())
	require.NoError(t, errors.Join(client.Close(), (<-handovers).Close()))

	opts.Handovers = nil
	s = start(t, opts, defaultLimits())
	_, err = s.Handover(t.Context())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = NewClient(filepath.Join(directory(t), "nobody")).Handover(t.Context())
	require.ErrorIs(t, err, ErrNoServer)
}

// childTake asks for a handover and says what came of it.
func childTake(args []string) int {
	_, err := NewClient(args[0]).Handover(context.Background())
	fmt.Print(err)
	return 0
}

// Members of the socket's group may do all that the API can, and not have the sockets.
func TestHandoverPeers(t *testing.T) {
	requireUsers(t)
	const group = 4321
	path := filepath.Join(directory(t), "run", "s")
	labtest.LeakCheck(t)
	l, err := Listen(path, group)
	require.NoError(t, err)
	handovers := make(chan *net.UnixConn, 1)
	startOn(t, l, Options{Engine: newFake(), Handovers: handovers}, defaultLimits())
	for _, c := range []struct {
		user syscall.Credential
		says string
	}{
		{syscall.Credential{Uid: 1000, Gid: group}, "user 1000 may not take over: permission denied"},
		{syscall.Credential{Gid: 1000}, "<nil>"},
	} {
		require.Equal(t, "served", askAs(t, c.user, path))
		out, err := as(c.user, "take", path).CombinedOutput()
		require.NoError(t, err)
		require.Equal(t, c.says, string(out))
	}
	require.NoError(t, (<-handovers).Close())
}

// One server after another leaves the listener to the next, which has a descriptor of its
// own for it, while clients ask as fast as they can: each is answered.
func TestServeUntilLeft(t *testing.T) {
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	l, err := Listen(path, -1)
	require.NoError(t, err)
	client := NewClient(path)
	ended := make(chan struct{})
	var clients sync.WaitGroup
	var answers [4]int
	for i := range answers {
		clients.Go(func() {
			for ; ; answers[i]++ {
				select {
				case <-ended:
					return
				default:
				}
				if _, err := client.Mappings(context.Background()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		leave := make(chan struct{})
		served := make(chan error, 1)
		server := newServer(Options{Engine: newFake(parse(t, "8080->172.17.0.2:80"))}, defaultLimits())
		go func() { served <- server.ServeUntil(t.Context(), l, leave) }()
		_, err := client.Mappings(t.Context())
		require.NoError(t, err)
		close(leave)
		require.NoError(t, <-served)

		fd, made, err := Lend(l)
		require.NoError(t, err)
		require.True(t, made)
		next, err := Inherit(duplicate(t, fd), l.Addr().String(), made, -1)
		require.NoError(t, err)
		require.Equal(t, path, next.Addr().String())
		require.NoError(t, Abandon(l))
		require.FileExists(t, path)
		l = next
	}
	s := startOn(t, l, Options{Engine: newFake()}, defaultLimits())
	close(ended)
	clients.Wait()
	require.NoError(t, s.stop())
	require.NoFileExists(t, path, "the last one removes the file that the first one made")
	for _, n := range answers {
		require.NotZero(t, n)
	}
}

// A client that was let in and says nothing does not keep a server for long, nor does the
// server that leaves close the listener for the next.
func TestServeUntilSilence(t *testing.T) {
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	l, err := Listen(path, -1)
	require.NoError(t, err)
	limits := defaultLimits()
	limits.departure = 50 * time.Millisecond
	server := newServer(Options{Engine: newFake()}, limits)
	leave := make(chan struct{})
	served := make(chan error, 1)
	go func() { served <- server.ServeUntil(t.Context(), l, leave) }()
	_, err = NewClient(path).Mappings(t.Context())
	require.NoError(t, err)
	silent, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	close(leave)
	require.NoError(t, <-served)
	s := startOn(t, l, Options{Engine: newFake()}, defaultLimits())
	_, err = s.Publish(t.Context(), nat.PublishOptions{}, []nat.Mapping{parse(t, "8080->172.17.0.2:80")}...)
	require.NoError(t, err)
	require.NoError(t, s.stop())
}

func TestInheritNothing(t *testing.T) {
	labtest.LeakCheck(t)
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	_, err = Inherit(duplicate(t, int(null.Fd())), "/nowhere", true, -1)
	require.Error(t, err)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	fd, made, err := Lend(tcp)
	require.NoError(t, err)
	require.False(t, made)
	_, err = Inherit(duplicate(t, fd), "/nowhere", true, -1)
	require.ErrorContains(t, err, "it is no unix socket")
	require.NoError(t, errors.Join(tcp.Close(), null.Close()))
}

func duplicate(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	return n
}
