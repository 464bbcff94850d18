// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tftpServer is the sockets of a TFTP server: its port, and those of two transfers.
type tftpServer struct{ port, one, two *net.UDPConn }

func newTFTPServer(t *testing.T, host string) tftpServer {
	t.Helper()
	listen := func(port string) *net.UDPConn {
		c, err := net.ListenUDP("udp", mustUDP(t, net.JoinHostPort(host, port)))
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
		return c
	}
	return tftpServer{listen("69"), listen("0"), listen("0")}
}

// receive reads a datagram and returns from where it is.
func receive(t *testing.T, c net.PacketConn, want string) net.Addr {
	t.Helper()
	buf := make([]byte, 1024)
	n, from, err := c.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, want, string(buf[:n]))
	return from
}

const (
	readRequest  = "\x00\x01file\x00octet\x00"
	writeRequest = "\x00\x02file\x00octet\x00"
	dataOne      = "\x00\x03\x00\x01data"
	dataTwo      = "\x00\x03\x00\x02data"
	ackZero      = "\x00\x04\x00\x00"
	ackOne       = "\x00\x04\x00\x01"
	oAck         = "\x00\x06blksize\x001400\x00"
	noFile       = "\x00\x05\x00\x01no file\x00"
)

// TestTFTP: a client hears the port that the server chose for its transfer, and speaks to
// it, by the frontend's port alone; and no other port.
func TestTFTP(t *testing.T) {
	noLeak(t)
	for _, host := range []string{"127.0.0.1", "::1"} {
		for _, front := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
			server := newTFTPServer(t, host)
			p, err := New(mustUDP(t, front), server.port.LocalAddr(), nil)
			serve(t, p, err)
			ask := "127.0.0.1"
			if front == "[::1]:0" {
				ask = "::1"
			}
			c := dial(t, "udp", at(ask, p.FrontendAddr())).(*net.UDPConn)
			say := func(text string) {
				_, err := c.Write([]byte(text))
				require.NoError(t, err)
			}
			answered := func(text string) {
				got := make([]byte, 64)
				n, err := c.Read(got)
				require.NoError(t, err)
				require.Equal(t, text, string(got[:n]))
			}
			say("no TFTP")
			flow := receive(t, server.port, "no TFTP")
			tell := func(s *net.UDPConn, text string) {
				_, err := s.WriteTo([]byte(text), mustUDP(t, at(host, flow)))
				require.NoError(t, err)
			}
			tell(server.one, "no TFTP") // is not passed on
			for _, request := range []string{readRequest, writeRequest} {
				for _, first := range []string{dataOne, ackZero, oAck, noFile} {
					for _, s := range [][2]*net.UDPConn{{server.one, server.two}, {server.two, server.one}} {
						say(request)
						receive(t, server.port, request)
						tell(s[1], dataTwo) // of the last transfer
						tell(s[0], first)
						answered(first)
						tell(s[1], dataOne) // another port
						for _, text := range []string{ackOne, dataTwo, noFile} {
							say(text)
							receive(t, s[0], text)
						}
						tell(s[0], dataTwo)
						answered(dataTwo)
						tell(server.port, "any")
						answered("any")
					}
				}
			}
			say(readRequest)
			receive(t, server.port, readRequest)
			stranger := mustUDP(t, "127.0.0.2:0")
			if host == "::1" {
				ip(t, "addr replace fd00::99/128 dev lo nodad")
				stranger = mustUDP(t, "[fd00::99]:0")
			}
			var other *net.UDPConn
			eventually(t, "another address", func() bool {
				other, err = net.ListenUDP("udp", stranger)
				return err == nil
			})
			tell(other, dataOne)
			require.NoError(t, other.Close())
			tell(server.port, dataOne) // a server that has one port
			answered(dataOne)
			say(ackOne)
			receive(t, server.port, ackOne)
			require.EqualValues(t, 1, p.Stats().Total)
			require.Zero(t, p.Stats().Dropped)
			require.NoError(t, p.Close())
			for _, s := range []*net.UDPConn{server.port, server.one, server.two} {
				require.NoError(t, s.Close())
			}
		}
	}
}

// TestTFTPUpload: blocks that UDP_GRO joins at the frontend go to the port of the transfer
// each as it was.
func TestTFTPUpload(t *testing.T) {
	noLeak(t)
	server := newTFTPServer(t, "127.0.0.1")
	p, err := New(mustUDP(t, "127.0.0.1:0"), server.port.LocalAddr(), nil)
	serve(t, p, err)
	c := dial(t, "udp", p.FrontendAddr().String()).(*net.UDPConn)
	_, err = c.Write([]byte(writeRequest))
	require.NoError(t, err)
	flow := receive(t, server.port, writeRequest)
	_, err = server.one.WriteTo([]byte(oAck), flow)
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 64))
	require.NoError(t, err)
	segment := make([]byte, unix.CmsgSpace(2))
	var ctl control
	copy(segment, ctl.b[:ctl.putSegment(0, len(dataOne))])
	_, _, err = c.WriteMsgUDP([]byte(dataOne+dataTwo+dataOne+"\x00\x03\x00"), segment, nil)
	require.NoError(t, err)
	for _, text := range []string{dataOne, dataTwo, dataOne} {
		receive(t, server.one, text)
	}
	receive(t, server.port, "\x00\x03\x00") // too short for TFTP
	require.Zero(t, p.Stats().Dropped)
}
