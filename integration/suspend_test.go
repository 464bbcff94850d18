// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// lent returns the sockets that an engine of another process would get.
func lent(t *testing.T, s engine.Sockets) *engine.Sockets {
	t.Helper()
	duplicate := func(fd int) int {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		require.NoError(t, err)
		return n
	}
	d := engine.Sockets{Lock: duplicate(s.Lock)}
	for _, p := range s.Ports {
		p.FD = duplicate(p.FD)
		d.Ports = append(d.Ports, p)
	}
	return &d
}

// A suspended engine only serves. When it is resumed, it adopts what others have done to the
// table meanwhile; or another engine continues with its sockets.
func TestSuspend(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.LeakCheck(t)
	backends := []*lab.Server{}
	for _, network := range []string{"tcp", "udp"} {
		start := lab.EchoTCP
		if network == "udp" {
			start = lab.EchoUDP
		}
		s, err := start(top.Backend1, "backend", ":80")
		require.NoError(t, err)
		backends = append(backends, s)
	}
	served := func(port int) {
		t.Helper()
		for _, network := range []string{"tcp", "udp"} {
			labtest.Reaches(t, top.Host, network, at(loopback4, port), "backend")
		}
	}
	opts := engine.Options{NetNS: top.Host.Path()}
	first, err := engine.Open(t.Context(), opts)
	require.NoError(t, err)
	publish(t, first, "8080->172.30.0.2:80", "8080->172.30.0.2:80/udp", "8081->172.30.0.2:80", "8081->172.30.0.2:80/udp")
	require.ErrorIs(t, first.Resume(t.Context()), nat.ErrClosed)
	require.ErrorIs(t, first.Leave(), nat.ErrClosed)
	for range 3 {
		sockets, err := first.Suspend(t.Context())
		require.NoError(t, err)
		require.Len(t, sockets.Ports, 4)
		require.NotZero(t, sockets.Lock)
		_, err = first.Suspend(t.Context())
		require.ErrorIs(t, err, nat.ErrClosed)
		_, err = first.Publish(t.Context(), nat.PublishOptions{}, mapping(t, "9000->172.30.0.2:80"))
		require.ErrorIs(t, err, nat.ErrClosed)
		_, err = engine.Open(t.Context(), opts)
		require.ErrorIs(t, err, nat.ErrOwned)
		require.ErrorContains(t, err, "pid")
		served(8080)
		// Another engine with the sockets may open, change something, and close.
		other, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), Sockets: lent(t, sockets)})
		require.NoError(t, err)
		publish(t, other, "9000->172.30.0.2:80", "9000->172.30.0.2:80/udp")
		unpublish(t, other, "8081->172.30.0.2:80", "8081->172.30.0.2:80/udp")
		require.NoError(t, other.Close())
		require.NoError(t, first.Resume(t.Context()))
		require.Equal(t, []string{"8080->172.30.0.2:80", "9000->172.30.0.2:80", "8080->172.30.0.2:80/udp", "9000->172.30.0.2:80/udp"}, published(first))
		served(8080)
		served(9000)
		for _, network := range []string{"tcp", "udp"} {
			free, err := occupy(top.Host, network, "127.0.0.1:8081")
			require.NoError(t, err, "what was unpublished meanwhile is free")
			require.NoError(t, free.Close())
		}
		unpublish(t, first, "9000->172.30.0.2:80", "9000->172.30.0.2:80/udp")
		publish(t, first, "8081->172.30.0.2:80", "8081->172.30.0.2:80/udp")
	}

	sockets, err := first.Suspend(t.Context())
	require.NoError(t, err)
	second, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), Sockets: lent(t, sockets)})
	require.NoError(t, err)
	require.NoError(t, second.Begin())
	require.NoError(t, first.Leave())
	require.NoError(t, first.Shutdown(context.Background()))
	require.ErrorIs(t, first.Shutdown(context.Background()), nat.ErrClosed)
	served(8080)
	served(8081)

	// Suspended and then closed.
	_, err = second.Suspend(t.Context())
	require.NoError(t, err)
	require.NoError(t, second.Close())
	for _, network := range []string{"tcp", "udp"} {
		free, err := occupy(top.Host, network, "127.0.0.1:8080")
		require.NoError(t, err)
		require.NoError(t, free.Close())
	}
	for _, s := range backends {
		require.NoError(t, s.Close())
	}
}

// Sockets that are not what they are said to be, or that are not needed, are closed; so are
// all of them if the engine cannot open. Missing ones are bound.
func TestStrangeSockets(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.LeakCheck(t)
	first, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path()})
	require.NoError(t, err)
	publish(t, first, "8080->172.30.0.2:80", "8081->172.30.0.2:80", "8082->172.30.0.2:80", "127.0.0.1:8083->172.30.0.2:80/udp")
	sockets, err := first.Suspend(t.Context())
	require.NoError(t, err)

	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	strange := lent(t, sockets)
	for i := range strange.Ports {
		p := &strange.Ports[i]
		switch p.Frontend.Port() {
		case 8080:
			p.Proto = nat.UDP
		case 8081:
			require.NoError(t, unix.Dup3(int(null.Fd()), p.FD, unix.O_CLOEXEC))
		}
	}
	require.NoError(t, null.Close())
	var log logBuffer
	second, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), Sockets: strange, Log: log.logger()})
	require.NoError(t, err)
	require.Contains(t, log.String(), "not all sockets could be taken over")
	st, err := second.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, st.Unserved, "the first one has them still")
	require.NoError(t, second.Begin())
	require.NoError(t, second.Close())

	for _, opts := range []engine.Options{
		{NetNS: "/nowhere"}, {Table: "-"}, {NetNS: top.Host.Path(), ReadOnly: true}, {NetNS: top.Host.Path(), NoProxies: true},
	} {
		opts.Sockets = lent(t, sockets)
		e, err := engine.Open(t.Context(), opts)
		if err == nil {
			require.NoError(t, e.Begin())
			require.NoError(t, e.Close())
		}
	}
	require.NoError(t, first.Resume(t.Context()))
	require.NoError(t, first.Close())
}
