// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
)

const tftpBlock = 512 // RFC 1350

// tftpMessage is an opcode, the number of a block, and data.
func tftpMessage(opcode, block uint16, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, opcode), block), data...)
}

// tftpRead reads one message of a peer; peer nil: of anybody.
func tftpRead(c net.PacketConn, peer net.Addr, opcode, block uint16) (data []byte, from net.Addr, err error) {
	buf := make([]byte, 4+tftpBlock)
	n, from, err := c.ReadFrom(buf)
	if err != nil {
		return nil, nil, err
	}
	head := tftpMessage(opcode, block, nil)
	if !bytes.HasPrefix(buf[:n], head) || peer != nil && from.String() != peer.String() {
		return nil, nil, fmt.Errorf("%q from %s instead of %q from %s", buf[:min(n, 8)], from, head, peer)
	}
	return buf[4:n], from, nil
}

// tftpSend sends a file to a peer.
func tftpSend(c net.PacketConn, peer net.Addr, file []byte) error {
	for block := uint16(1); ; block++ {
		data := file[:min(tftpBlock, len(file))]
		if _, err := c.WriteTo(tftpMessage(3, block, data), peer); err != nil {
			return err
		}
		if _, _, err := tftpRead(c, peer, 4, block); err != nil {
			return err
		}
		if file = file[len(data):]; len(data) < tftpBlock {
			return nil
		}
	}
}

// tftpReceive receives a file from a peer; nil: the first that sends.
func tftpReceive(c net.PacketConn, peer net.Addr) (file []byte, err error) {
	for block := uint16(1); ; block++ {
		data, from, err := tftpRead(c, peer, 3, block)
		if err != nil {
			return nil, err
		}
		peer, file = from, append(file, data...)
		if _, err := c.WriteTo(tftpMessage(4, block, nil), peer); err != nil {
			return nil, err
		}
		if len(data) < tftpBlock {
			return file, nil
		}
	}
}

// serveTFTP serves one file, for reading and writing, from a new port for each transfer. Each
// transfer's end is sent to the channel.
func serveTFTP(t *testing.T, ns *lab.NS) <-chan error {
	t.Helper()
	c, err := ns.ListenPacket("udp", ":69")
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = c.Close(); wg.Wait() })
	ended := make(chan error, 64)
	var file []byte
	transfer := func(opcode byte, peer net.Addr) error {
		own, err := ns.ListenPacket("udp", ":0")
		if err != nil {
			return err
		}
		defer func() { _ = own.Close() }()
		if err := own.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
			return err
		}
		if opcode == 1 {
			return tftpSend(own, peer, file)
		}
		if _, err := own.WriteTo(tftpMessage(4, 0, nil), peer); err != nil {
			return err
		}
		file, err = tftpReceive(own, peer)
		return err
	}
	wg.Go(func() {
		request := make([]byte, 64)
		for {
			n, peer, err := c.ReadFrom(request)
			if err != nil {
				return
			}
			if n > 1 {
				ended <- transfer(request[1], peer)
			}
		}
	})
	return ended
}

// Files go both ways between a TFTP server, which answers from another port than it was
// asked at, and those who reach it by a proxy; one client socket serves all.
func TestTFTP(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	ended := serveTFTP(t, top.Backend1)
	s := newTestbed(t, top.Host)
	s.serve(t)
	s.succeed(t, "add --quiet udp 69 172.30.0.2:69")
	s.succeed(t, "add --quiet udp 6969 [fd00:30::2]:69")
	for _, from := range []struct {
		ns   *lab.NS
		host string
		port int
	}{
		{top.Host, "127.0.0.1", 69},
		{top.Host, "::1", 69},
		{top.Host, "127.0.0.1", 6969},
		{top.Host, "::1", 6969},
		{top.Client, "2001:db8:1::1", 69},
		{top.Client, "192.0.2.1", 6969},
	} {
		t.Run(net.JoinHostPort(from.host, strconv.Itoa(from.port)), func(t *testing.T) {
			c, err := from.ns.ListenPacket("udp", ":0")
			require.NoError(t, err)
			defer func() { _ = c.Close() }()
			frontend := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from.host), uint16(from.port)))
			request := func(opcode byte) {
				require.NoError(t, c.SetDeadline(time.Now().Add(answerTimeout)))
				_, err := c.WriteTo(append([]byte{0, opcode}, "file\x00octet\x00"...), frontend)
				require.NoError(t, err)
			}
			file := make([]byte, 100_000)
			_, err = io.ReadFull(rand.Reader, file)
			require.NoError(t, err)
			request(2)
			_, _, err = tftpRead(c, frontend, 4, 0)
			require.NoError(t, err)
			require.NoError(t, tftpSend(c, frontend, file))
			require.NoError(t, <-ended)
			request(1)
			got, err := tftpReceive(c, frontend)
			require.NoError(t, err)
			require.True(t, bytes.Equal(file, got))
			require.NoError(t, <-ended)
		})
	}
}
