// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/nftnat/nftnat/internal/lab"
)

// ping sends an ICMP echo request from inside ns and waits for the reply of that address.
func ping(t *testing.T, ns *lab.NS, to netip.Addr) {
	t.Helper()
	network, any, request, reply, proto := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
	if to.Is6() {
		network, any, request, reply, proto = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	var c *icmp.PacketConn
	require.NoError(t, ns.Do(func() (err error) {
		c, err = icmp.ListenPacket(network, any)
		return err
	}))
	defer func() { _ = c.Close() }()
	message := icmp.Message{Type: request, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: []byte(t.Name())}}
	packet, err := message.Marshal(nil)
	require.NoError(t, err)
	_, err = c.WriteTo(packet, &net.IPAddr{IP: to.AsSlice()})
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(answerTimeout)))
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		require.NoError(t, err, "no echo reply of %s", to)
		m, err := icmp.ParseMessage(proto, buf[:n])
		require.NoError(t, err)
		// A raw socket sees everything of the protocol.
		if echo, ok := m.Body.(*icmp.Echo); ok && m.Type == reply && string(echo.Data) == t.Name() {
			require.Equal(t, to.String(), from.String())
			return
		}
	}
}
