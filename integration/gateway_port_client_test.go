// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// portClient is a socket of a client of NAT-PMP (RFC 6886) and PCP (RFC 6887).
type portClient struct {
	net.Conn
	addr netip.Addr
}

// dial returns a client of the gateway's address on the LAN.
func (b *gatewayTestbed) dial(t *testing.T, ns *lab.NS) *portClient {
	t.Helper()
	return dialGateway(t, ns, b.address, netip.AddrPort{})
}

// dialGateway returns a client of an address, with a source or any.
func dialGateway(t *testing.T, ns *lab.NS, address string, from netip.AddrPort) *portClient {
	t.Helper()
	c, err := ns.DialFrom(t.Context(), "udp", net.JoinHostPort(address, "5351"), from)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	local, ok := c.LocalAddr().(*net.UDPAddr)
	require.True(t, ok)
	return &portClient{Conn: c, addr: local.AddrPort().Addr().Unmap().WithZone("")}
}

// try sends a request once, and returns the answer that comes soon, or nil.
func (c *portClient) try(t *testing.T, q []byte) []byte {
	t.Helper()
	_, err := c.Write(q)
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) { // of the request before
		require.NoError(t, err)
	}
	return c.read(t, 250*time.Millisecond)
}

func (c *portClient) read(t *testing.T, within time.Duration) []byte {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(within)))
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

// ask sends a request until it is answered, as clients do.
func (c *portClient) ask(t *testing.T, q []byte) []byte {
	t.Helper()
	var a []byte
	await(t, fmt.Sprintf("an answer to %x", q), func() bool {
		a = c.try(t, q)
		return isAnswer(q, a)
	})
	return a
}

// isAnswer is whether a answers q, and not what was asked before and sent again.
func isAnswer(q, a []byte) bool {
	switch {
	case len(a) < 4 || a[1] != q[1]|0x80:
		return false
	case q[0] == 0 && len(q) == 12 && len(a) == 16:
		return bytes.Equal(a[8:10], q[4:6])
	case q[0] == 2 && len(q) >= 60 && len(a) >= 60:
		return bytes.Equal(a[24:42], q[24:42])
	}
	return true
}

// wan asks for the WAN's address by NAT-PMP, and for the epoch.
func (c *portClient) wan(t *testing.T) (netip.Addr, uint32) {
	t.Helper()
	a := c.ask(t, []byte{0, 0})
	require.Len(t, a, 12)
	require.Equal(t, []byte{0, 128, 0, 0}, a[:4])
	return netip.AddrFrom4([4]byte(a[8:])), binary.BigEndian.Uint32(a[4:])
}

// aged waits until the epoch has come to some seconds, so that one that begins again is seen, and returns it.
func (c *portClient) aged(t *testing.T, seconds uint32) (epoch uint32) {
	t.Helper()
	await(t, "the epoch to go on", func() bool {
		_, epoch = c.wan(t)
		return epoch >= seconds
	})
	return epoch
}

// The operations of NAT-PMP that ask for ports.
const (
	pmpUDP = 1
	pmpTCP = 2
)

// pmp asks for a port by NAT-PMP.
func (c *portClient) pmp(t *testing.T, op byte, internal, external uint16, lifetime uint32) (result, port uint16, granted uint32) {
	t.Helper()
	a := c.ask(t, pmpRequest(op, internal, external, lifetime))
	require.Len(t, a, 16)
	require.Equal(t, internal, binary.BigEndian.Uint16(a[8:]))
	return binary.BigEndian.Uint16(a[2:]), binary.BigEndian.Uint16(a[10:]), binary.BigEndian.Uint32(a[12:])
}

// tcp asks for a port of TCP by NAT-PMP, for ten minutes.
func (c *portClient) tcp(t *testing.T, internal, external uint16) (result, port uint16) {
	t.Helper()
	result, port, _ = c.pmp(t, pmpTCP, internal, external, 600)
	return result, port
}

// dialForMany is dial, with room for the answers to thousands of requests.
func (b *gatewayTestbed) dialForMany(t *testing.T, ns *lab.NS) *portClient {
	t.Helper()
	c := b.dial(t, ns)
	raw, err := c.Conn.(*net.UDPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) }))
	return c
}

// pmpAll asks for n ports of UDP at once, again for what was not answered, as clients do, and returns those of the WAN by those
// of the client.
func (c *portClient) pmpAll(t *testing.T, n int, lifetime uint32) map[uint16]uint16 {
	t.Helper()
	ports := map[uint16]uint16{}
	began := time.Now()
	sent := 0
	for len(ports) < n {
		require.Less(t, time.Since(began), labtest.Stretch(time.Minute), "%d of %d are answered", len(ports), n)
		for i := range n {
			if internal := uint16(5000 + i); ports[internal] == 0 {
				_, err := c.Write(pmpRequest(pmpUDP, internal, internal, lifetime))
				require.NoError(t, err)
				sent++
			}
		}
		buf := make([]byte, 64)
		for len(ports) < n {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
			read, err := c.Read(buf)
			if err != nil {
				break
			}
			require.Equal(t, 16, read)
			require.Zero(t, binary.BigEndian.Uint16(buf[2:]))
			ports[binary.BigEndian.Uint16(buf[8:])] = binary.BigEndian.Uint16(buf[10:])
		}
	}
	t.Logf("%d leases in %s, %d datagrams", n, time.Since(began).Round(time.Millisecond), sent)
	return ports
}

func pmpRequest(op byte, internal, external uint16, lifetime uint32) []byte {
	q := []byte{0, op, 0, 0}
	q = binary.BigEndian.AppendUint16(q, internal)
	q = binary.BigEndian.AppendUint16(q, external)
	return binary.BigEndian.AppendUint32(q, lifetime)
}

// pcpMap is a request of PCP, and what answers have of it.
type pcpMap struct {
	nonce              string // 12 bytes
	proto              byte
	internal, external uint16
	lifetime           uint32
	options            []byte

	result  byte
	epoch   uint32
	address netip.Addr
}

// request is that of m by a client.
func (m pcpMap) request(c *portClient) []byte {
	q := []byte{2, 1, 0, 0}
	q = binary.BigEndian.AppendUint32(q, m.lifetime)
	client, none := c.addr.As16(), netip.IPv4Unspecified().As16()
	q = append(q, client[:]...)
	q = append(q, m.nonce...)
	q = append(q, m.proto, 0, 0, 0)
	q = binary.BigEndian.AppendUint16(q, m.internal)
	q = binary.BigEndian.AppendUint16(q, m.external)
	return slices.Concat(q, none[:], m.options)
}

// send asks for the mapping of m, and returns the answer.
func (m pcpMap) send(t *testing.T, c *portClient) pcpMap {
	t.Helper()
	return readPCPMap(t, c.ask(t, m.request(c)))
}

func readPCPMap(t *testing.T, a []byte) pcpMap {
	t.Helper()
	require.GreaterOrEqual(t, len(a), 60)
	require.Equal(t, []byte{2, 0x81}, a[:2])
	return pcpMap{
		result: a[3], lifetime: binary.BigEndian.Uint32(a[4:]), epoch: binary.BigEndian.Uint32(a[8:]),
		nonce: string(a[24:36]), proto: a[36],
		internal: binary.BigEndian.Uint16(a[40:]), external: binary.BigEndian.Uint16(a[42:]),
		address: netip.AddrFrom16([16]byte(a[44:])).Unmap(), options: a[60:],
	}
}
