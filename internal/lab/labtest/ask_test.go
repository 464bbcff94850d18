// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestAskErrors(t *testing.T) {
	labtest.LeakCheck(t)
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartFar})
	// Taken by the kernel, answered by nobody.
	silent, err := top.Host.Listen("tcp", "192.0.2.1:9")
	require.NoError(t, err)
	closeAtEnd(t, silent)
	mute, err := top.Host.ListenPacket("udp", "192.0.2.1:9")
	require.NoError(t, err)
	closeAtEnd(t, mute)

	for _, network := range []string{"tcp", "udp"} {
		require.ErrorIs(t, labtest.NoAnswer(t, top.Client, network, "192.0.2.1:1"), unix.ECONNREFUSED)
		require.ErrorIs(t, labtest.NoAnswer(t, top.Client, network, "[2001:db8:1::1]:1"), unix.ECONNREFUSED)
		require.ErrorIs(t, labtest.NoAnswer(t, top.Client, network, "192.0.2.1:9"), os.ErrDeadlineExceeded)
		require.ErrorIs(t, labtest.NoAnswer(t, top.Client, network, "198.51.100.2:9"), os.ErrDeadlineExceeded)

		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(20*time.Millisecond, cancel)
		_, _, err := lab.Ask(ctx, top.Client, network, "192.0.2.1:9", netip.AddrPort{})
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}

// A lost datagram is sent again, and only its own answer counts.
func TestAskUDPRetries(t *testing.T) {
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "one")
	pc, err := ns.ListenPacket("udp", "127.0.0.1:53")
	require.NoError(t, err)
	done := make(chan int)
	go func() { done <- ignoreFirstUDP(pc) }()
	name, peer, err := lab.Ask(context.Background(), ns, "udp", "127.0.0.1:53", netip.AddrPort{})
	require.NoError(t, err)
	require.Equal(t, "slow", name)
	require.Equal(t, "192.0.2.7:7", peer.String())
	require.NoError(t, pc.Close())
	require.Equal(t, 2, <-done)
}

// ignoreFirstUDP answers every datagram but the first, and returns how many came.
func ignoreFirstUDP(pc net.PacketConn) int {
	buf := make([]byte, 2000)
	for heard := 0; ; heard++ {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return heard
		}
		if heard > 0 {
			_, _ = pc.WriteTo(append([]byte("slow 192.0.2.7:7\n"), buf[:n]...), from)
		}
	}
}

// Somebody else's protocol is not an answer.
func TestAskRejectsOthers(t *testing.T) {
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "one")
	labtest.EchoHTTP(t, ns, "web", ":80")
	_, _, err := lab.Ask(context.Background(), ns, "tcp", "127.0.0.1:80", netip.AddrPort{})
	require.ErrorContains(t, err, "ask tcp 127.0.0.1:80")
	require.ErrorContains(t, err, "is not an answer")
}
