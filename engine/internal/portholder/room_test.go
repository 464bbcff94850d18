// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// TestRoom: ports that the proxies of ranges have are given up for sockets of their own: one that has flows of UDP, and that of
// the proxies' own socket.
func TestRoom(t *testing.T) {
	ns, err := os.Open("/proc/self/ns/net")
	require.NoError(t, err)
	defer func() { require.NoError(t, ns.Close()) }()
	l, err := bpf.OpenLookup(int(ns.Fd()))
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, bpf.ErrNoHook) {
		t.Log(err)
		return
	}
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	h, _, _ := newGuarded(t)
	h.opts.Lookup = l
	s := portset.NewSet()

	echo, err := net.ListenPacket("udp", "127.0.0.9:20000")
	require.NoError(t, err)
	defer func() { _ = echo.Close() }()
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(b[:n], from)
		}
	}()
	wide := whole(t, "127.0.0.1:19000-24000->127.0.0.9:19000-24000/udp")
	tcp := whole(t, "127.0.0.1:19000-24000->127.0.0.9:19000-24000")
	switched(t, h, &s, portset.Change{Added: []portset.Port{wide, tcp}})
	c, err := net.Dial("udp", "127.0.0.1:20000")
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	asked := func(to string) {
		t.Helper()
		require.NoError(t, c.SetDeadline(time.Now().Add(labtest.Stretch(5*time.Second))))
		_, err := c.Write([]byte(to))
		require.NoError(t, err)
		b := make([]byte, 64)
		n, err := c.Read(b)
		require.NoError(t, err)
		require.Equal(t, to, string(b[:n]))
	}
	asked("by the range")

	at := wide.Part(20000, 20000)
	other := at.Target
	other.Backend = netip.MustParseAddrPort(echo.LocalAddr().String())
	other.ProxyOnly = true
	moved := portset.Change{Moved: []portset.Move{{Frontend: at.Frontend, From: at.Target, To: other}}}
	sw := h.Switch(Change{Change: &moved})
	require.NoError(t, sw.Bind())
	require.NoError(t, sw.UndoBind())
	asked("undone")
	switched(t, h, &s, moved)
	require.Len(t, h.ports, 1)
	asked("by a socket of its own")

	// The proxies' own ports.
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		own := h.many.proxies[proto].FrontendAddr().String()
		single := port(t, own, "127.0.0.9:1")
		single.Proto = proto
		switched(t, h, &s, portset.Change{Added: []portset.Port{single}})
		require.NotEqual(t, own, h.many.proxies[proto].FrontendAddr().String(), fmt.Sprint(proto))
		require.Contains(t, h.ports, single.Frontend)
	}
}
