// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A TCP client that connects between New and Open is served: it sends its SYN again.
func TestEarlyConnection(t *testing.T) {
	noLeak(t)
	p, err := New(mustTCP(t, "127.0.0.1:0"), tcpBackend(t, "127.0.0.1:0", echoTCP), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	_, err = net.DialTimeout("tcp", p.FrontendAddr().String(), 50*time.Millisecond)
	var refused net.Error
	require.ErrorAs(t, err, &refused)
	require.True(t, refused.Timeout(), "it is not refused: %v", err)

	connected := make(chan error, 1)
	go func() {
		nc, err := net.DialTimeout("tcp", p.FrontendAddr().String(), deadline)
		if err == nil {
			err = nc.Close()
		}
		connected <- err
	}()
	time.Sleep(50 * time.Millisecond) // it is likely to have sent its SYN; if not, nothing is shown
	require.NoError(t, p.Open())
	require.NoError(t, <-connected)
}

// A UDP datagram sent between New and Open is lost without an error, and not delivered
// later. The next one of the same client is served.
func TestEarlyDatagram(t *testing.T) {
	noLeak(t)
	backend, err := net.ListenUDP("udp", mustUDP(t, "127.0.0.1:0"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = backend.Close() })
	p, err := New(mustUDP(t, "127.0.0.1:0"), backend.LocalAddr(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	client := dial(t, "udp", p.FrontendAddr().String())
	for range 2 { // an error would come with the second
		_, err = client.Write([]byte("early"))
		require.NoError(t, err)
	}
	require.NoError(t, p.Open())
	_, err = client.Write([]byte("in time"))
	require.NoError(t, err)
	require.NoError(t, backend.SetReadDeadline(time.Now().Add(deadline)))
	buf := make([]byte, 100)
	n, err := backend.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "in time", string(buf[:n]))
	require.EqualValues(t, 1, p.Stats().Total)
}
