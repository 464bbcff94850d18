// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

const timeout = 30 * time.Second

func dial(t *testing.T, ns *lab.NS, network, addr string) net.Conn {
	t.Helper()
	c, err := ns.Dial(context.Background(), network, addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(timeout)))
	return c
}

func TestEchoTCPHalfClose(t *testing.T) {
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "one")
	srv := labtest.EchoTCP(t, ns, "web", "127.0.0.1:0")
	require.NotZero(t, srv.Addr().Port())
	c := dial(t, ns, "tcp", srv.Addr().String()).(*net.TCPConn)
	data := make([]byte, 3<<20)
	chaos := rand.NewChaCha8([32]byte{1})
	_, _ = chaos.Read(data)

	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "web "+c.LocalAddr().String()+"\n", line)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, <-sent)
	require.True(t, bytes.Equal(data, got))
}

// Close ends connections that nobody else would.
func TestServerCloseEndsConnections(t *testing.T) {
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "one")
	for name, start := range map[string]func(*lab.NS, string, string) (*lab.Server, error){
		"tcp":  lab.EchoTCP,
		"http": lab.EchoHTTP,
	} {
		srv, err := start(ns, name, ":0")
		require.NoError(t, err)
		addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), srv.Addr().Port()).String()
		c := dial(t, ns, "tcp", addr)
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1)) // so it has been accepted
		require.NoError(t, err)
		require.NoError(t, srv.Close())
		require.NoError(t, srv.Close())
		_, err = io.Copy(io.Discard, c)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = ns.Dial(context.Background(), "tcp", addr)
		require.Error(t, err)
	}
}

// A server on all addresses answers from the one that was asked, also where
// the route back would choose another.
func TestEchoUDPAnswersFromAskedAddress(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	tests := []struct{ listen, client, ask string }{
		{":7000", "0.0.0.0:0", "192.0.2.9:7000"},
		{":7000", "[::]:0", "[2001:db8:1::9]:7000"},
		{"0.0.0.0:7001", "0.0.0.0:0", "192.0.2.9:7001"},
		{"[::]:7002", "[::]:0", "[2001:db8:1::1]:7002"},
		{"192.0.2.9:7003", "0.0.0.0:0", "192.0.2.9:7003"},
	}
	for _, tt := range tests {
		t.Run(tt.listen+" "+tt.ask, func(t *testing.T) {
			labtest.EchoUDP(t, top.Host, "dns", tt.listen)
			pc, err := top.Client.ListenPacket("udp", tt.client)
			require.NoError(t, err)
			closeAtEnd(t, pc)
			require.NoError(t, pc.SetDeadline(time.Now().Add(timeout)))
			// A socket that is not connected takes answers from anywhere.
			_, err = pc.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(tt.ask)))
			require.NoError(t, err)
			buf := make([]byte, 100)
			n, from, err := pc.ReadFrom(buf)
			require.NoError(t, err)
			got := from.(*net.UDPAddr).AddrPort()
			require.Equal(t, tt.ask, netip.AddrPortFrom(got.Addr().Unmap(), got.Port()).String())
			require.Regexp(t, `^dns \S+:[0-9]+\nhello$`, string(buf[:n]))
		})
	}
}

func TestEchoUDPLargest(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	labtest.EchoUDP(t, ns, "dns", "127.0.0.1:53")
	c := dial(t, ns, "udp", "127.0.0.1:53")
	for _, size := range []int{0, 1, 1472, 65507} {
		data := bytes.Repeat([]byte{'x'}, size)
		_, err := c.Write(data)
		require.NoError(t, err)
		buf := make([]byte, 70000)
		n, err := c.Read(buf)
		require.NoError(t, err)
		want := append([]byte("dns "+c.LocalAddr().String()+"\n"), data...)
		require.Equal(t, string(want[:min(len(want), 65507)]), string(buf[:n]))
	}
}

func TestEchoHTTP(t *testing.T) {
	labtest.LeakCheck(t)
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoHTTP(t, top.Host, "web", ":80")
	for _, addr := range []string{"192.0.2.1:80", "[2001:db8:1::1]:80"} {
		name, peer, err := lab.AskHTTP(context.Background(), top.Client, addr)
		require.NoError(t, err)
		require.Equal(t, "web", name)
		require.Contains(t, []netip.Addr{top.Client.V4, top.Client.V6}, peer.Addr())
	}
	_, _, err := lab.AskHTTP(context.Background(), top.Client, "192.0.2.1:81")
	require.ErrorContains(t, err, "connection refused")
	labtest.EchoTCP(t, top.Host, "web", ":82")
	_, _, err = lab.AskHTTP(context.Background(), top.Client, "192.0.2.1:82")
	require.ErrorContains(t, err, "malformed")
}

func TestServerAddressInUse(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	serve(t, ns)
	for _, start := range []func(*lab.NS, string, string) (*lab.Server, error){lab.EchoTCP, lab.EchoUDP, lab.EchoHTTP} {
		_, err := start(ns, "late", ":7000")
		require.ErrorContains(t, err, "listen in one")
	}
}
