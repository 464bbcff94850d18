// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// upnpc runs upnpc, which does not search if it has the description's URL: it would take two seconds.
func (b *gatewayTestbed) upnpc(t *testing.T, ns *lab.NS, line string) labtest.Result {
	t.Helper()
	args := append([]string{"-u", b.described}, strings.Fields(line)...)
	return labtest.Run(t, ns, exec.Command(labtest.Tool(t, "upnpc"), args...))
}

// asks is upnpc of the client, which must succeed.
func (b *gatewayTestbed) asks(t *testing.T, line string) string {
	t.Helper()
	r := b.upnpc(t, b.one, line)
	require.Zero(t, r.Code, "upnpc %s: %s%s", line, r.Stdout, r.Stderr)
	return r.Stdout
}

// refused is upnpc of a namespace, which gets an error.
func (b *gatewayTestbed) refused(t *testing.T, ns *lab.NS, line, code string) {
	t.Helper()
	r := b.upnpc(t, ns, line)
	require.Equal(t, 2, r.Code, "upnpc %s: %s%s", line, r.Stdout, r.Stderr)
	require.Contains(t, r.Stdout+r.Stderr, code)
}

// upnpc finds a gateway of version 1, adds, lists and deletes; mappings outlive gateway and daemon.
func TestGatewayIGD(t *testing.T) {
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostLAN, "--igd", "v1")
	b.start(t)
	labtest.EchoTCP(t, b.one, "web", ":5000")
	labtest.EchoUDP(t, b.one, "game", ":5000")

	found := labtest.Run(t, b.one, exec.Command(labtest.Tool(t, "upnpc"), "-s"))
	require.Zero(t, found.Code, found.Stdout)
	for _, text := range []string{b.described, "Found valid IGD : http://192.0.2.1:1900/ip", "Connection Type : IP_Routed", "Status : Connected", "ExternalIPAddress = " + wanAddress} {
		require.Contains(t, found.Stdout, text)
	}
	require.Regexp(t, `Bytes: +Sent: +\d+`, found.Stdout)

	b.asks(t, "-e web -a 192.0.2.2 5000 8080 TCP 3600")
	b.asks(t, "-e game -a 192.0.2.2 5000 8080 UDP")
	b.reached(t, "tcp", "8080", "web")
	b.reached(t, "udp", "8080", "game")
	listed := b.asks(t, "-l")
	require.Regexp(t, `TCP  8080->192\.0\.2\.2:5000 .*'web' '' (3600|35\d\d)`, listed)
	require.Regexp(t, `UDP  8080->192\.0\.2\.2:5000 .*'game' '' 0`, listed)
	b.asks(t, "-r 5001 TCP 5002 UDP")
	require.Len(t, b.ports(t), 4)

	b.refused(t, b.two, "-a 192.0.2.3 5000 8080 TCP", "718")
	b.refused(t, b.two, "-d 8080 TCP", "606")
	b.refused(t, b.two, "-a 192.0.2.2 5000 8081 TCP", "606")
	b.refused(t, b.one, "-a 192.0.2.2 5000 80 TCP", "606")
	b.succeed(t, "add tcp 9000 192.0.2.3:80")
	b.refused(t, b.one, "-a 192.0.2.2 5000 9000 TCP", "718")
	b.reached(t, "tcp", "8080", "web")

	// Both processes are started again, and nothing is lost.
	b.stop(t)
	b.reached(t, "tcp", "8080", "web")
	b.start(t)
	require.Contains(t, b.asks(t, "-l"), "TCP  8080->192.0.2.2:5000")
	killed(t, b.serving)
	b.serving = b.serve(t)
	await(t, "the gateway to find the daemon", func() bool { return b.upnpc(t, b.one, "-a 192.0.2.2 5000 8082 TCP").Code == 0 })
	b.reached(t, "tcp", "8080", "web")
	b.reached(t, "tcp", "8082", "web")

	for _, line := range []string{"-d 8080 TCP", "-d 8080 UDP", "-d 8082 TCP", "-d 5001 TCP", "-d 5002 UDP"} {
		b.asks(t, line)
		b.refused(t, b.one, line, "714")
	}
	require.Equal(t, []string{"tcp 9000"}, b.ports(t))
	b.closed(t, "tcp", "8080")
	b.stop(t)
}

// Version 2, a remote host, and a lease that ends.
func TestGatewayIGD2(t *testing.T) {
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostLAN, "--igd", "v2", "--min-lifetime", "1s")
	b.start(t)
	labtest.EchoTCP(t, b.one, "web", ":5000")
	b.asks(t, "-n 192.0.2.2 5000 8080 TCP 3600")
	b.reached(t, "tcp", "8080", "web")
	other := b.upnpc(t, b.two, "-n 192.0.2.3 5000 8080 TCP 3600")
	require.Zero(t, other.Code, other.Stdout)
	require.Len(t, b.ports(t), 2)
	require.Contains(t, b.asks(t, "-L"), "8080->192.0.2.2:5000")
	b.refused(t, b.two, "-N 8080 8080 TCP", "730")
	b.asks(t, "-N 8000 8100 TCP")
	b.closed(t, "tcp", "8080")

	b.succeed(t, "add tcp 9000 192.0.2.3:80")
	b.refused(t, b.one, "-a 192.0.2.2 5000 9000 TCP", "729")

	b.asks(t, "-a 192.0.2.2 5000 8083 TCP 3600 "+farAddress)
	labtest.Reaches(t, b.far, "tcp", wanAddress+":8083", "web")
	b.asks(t, "-a 192.0.2.2 5000 8084 TCP 3600 45.0.0.3")
	b.closed(t, "tcp", "8084")

	b.asks(t, "-a 192.0.2.2 5000 8085 TCP 1")
	await(t, "the lease to end", func() bool { return !strings.Contains(fmt.Sprint(b.ports(t)), "8085") })
	b.closed(t, "tcp", "8085")
}

// The WAN gets no answer, whatever it asks and whomever.
func TestGatewayIGDOnWAN(t *testing.T) {
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostLAN, "--igd", "v1")
	b.start(t)
	search := "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: upnp:rootdevice\r\nMAN: \"ssdp:discover\"\r\nMX: 0\r\n\r\n"
	ask := func(ns *lab.NS, to string) string {
		from := "192.0.2.2:0"
		switch {
		case strings.HasPrefix(to, "["):
			from = "[::]:0"
		case ns == b.far:
			from = farAddress + ":0"
		}
		c, err := ns.ListenPacket("udp", from)
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		address := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))
		require.NoError(t, ns.Do(func() error {
			_, err := c.WriteTo([]byte(search), address)
			return err
		}))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(labtest.Stretch(300*time.Millisecond))))
		buf := make([]byte, 2048)
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return ""
		}
		return string(buf[:n])
	}
	await(t, "an answer on the LAN", func() bool {
		return strings.HasPrefix(ask(b.one, "239.255.255.250:1900"), "HTTP/1.1 200 OK\r\n")
	})
	await(t, "an answer to the gateway's address", func() bool { return strings.Contains(ask(b.one, "192.0.2.1:1900"), b.described) })
	await(t, "an answer by IPv6", func() bool {
		return strings.Contains(ask(b.one, "[ff02::c%"+linkOf(t, b.one)+"]:1900"), "LOCATION: http://[fe80:")
	})
	for _, to := range []string{"239.255.255.250:1900", wanAddress + ":1900", "192.0.2.1:1900", "[ff02::c%" + linkOf(t, b.far) + "]:1900"} {
		require.Empty(t, ask(b.far, to), to)
	}
	for _, to := range []string{wanAddress + ":1900", "192.0.2.1:1900"} {
		ctx, cancel := context.WithTimeout(t.Context(), labtest.Stretch(300*time.Millisecond))
		c, err := b.far.Dial(ctx, "tcp", to)
		cancel()
		if err == nil { // accepted by the kernel, and closed without an answer
			require.NoError(t, c.SetReadDeadline(time.Now().Add(labtest.Stretch(5*time.Second))))
			_, _ = io.WriteString(c, "GET /igd.xml HTTP/1.1\r\nHost: 192.0.2.1:1900\r\n\r\n")
			answer, _ := io.ReadAll(c)
			require.Empty(t, answer)
			require.NoError(t, c.Close())
		}
	}
	for host, code := range map[string]int{"192.0.2.1:1900": 200, "192.0.2.1": 200, "rebound.example": 421, wanAddress + ":1900": 421} {
		require.Equal(t, code, b.request(t, "192.0.2.1:1900", "GET /igd.xml", "Host: "+host).StatusCode, host)
	}
}

// request sends a request of HTTP without a body from the client.
func (b *gatewayTestbed) request(t *testing.T, to, line string, fields ...string) *http.Response {
	t.Helper()
	c, err := b.one.Dial(t.Context(), "tcp", to)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.NoError(t, c.SetDeadline(time.Now().Add(labtest.Stretch(5*time.Second))))
	_, err = io.WriteString(c, line+" HTTP/1.1\r\n"+strings.Join(append(fields, "Connection: close"), "\r\n")+"\r\n\r\n")
	require.NoError(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	answer.Body = io.NopCloser(bytes.NewReader(body))
	return answer
}

// Announcements come at the start and at the end, of both families, and their BOOTID grows; events come to the
// subscriber, and to nobody else.
func TestGatewayIGDAnnounces(t *testing.T) {
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostLAN, "--igd", "v1")
	groups := []net.PacketConn{joined(t, b.one, "udp4", "239.255.255.250"), joined(t, b.one, "udp6", "ff02::c")}
	boots := make([]int, len(groups))
	for round := range 2 {
		b.start(t)
		for i, c := range groups {
			first := bootOf(t, readUntil(t, c, "upnp:rootdevice\r\nNTS: ssdp:alive"))
			require.Equal(t, first, bootOf(t, readUntil(t, c, "upnp:rootdevice\r\nNTS: ssdp:alive")), "twice")
			if round != 0 {
				require.Greater(t, first, boots[i])
			}
			boots[i] = first
		}
		b.stop(t)
		for i, c := range groups {
			require.Equal(t, boots[i], bootOf(t, readUntil(t, c, "ssdp:byebye")))
		}
	}
	b.start(t)

	l, err := b.one.Listen("tcp", "192.0.2.2:7000")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	for callback, code := range map[string]int{"http://192.0.2.2:7000/here": 200, "http://192.0.2.3:7000/": 412, "http://127.0.0.1:7000/": 412} {
		answer := b.request(t, "192.0.2.1:1900", "SUBSCRIBE /ip/events", "Host: 192.0.2.1:1900", "NT: upnp:event", "CALLBACK: <"+callback+">")
		require.Equal(t, code, answer.StatusCode, callback)
	}
	c, err := l.Accept()
	require.NoError(t, err)
	event, err := http.ReadRequest(bufio.NewReader(c))
	require.NoError(t, err)
	body, err := io.ReadAll(event.Body)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Equal(t, "NOTIFY /here", event.Method+" "+event.URL.Path)
	require.Contains(t, string(body), "<ExternalIPAddress>"+wanAddress+"</ExternalIPAddress>")
}

// joined is a socket that receives what is sent to a group of SSDP.
func joined(t *testing.T, ns *lab.NS, network, group string) net.PacketConn {
	t.Helper()
	var c *net.UDPConn
	require.NoError(t, ns.Do(func() error {
		device, err := net.InterfaceByName(lab.MachineLink)
		if err != nil {
			return err
		}
		c, err = net.ListenMulticastUDP(network, device, &net.UDPAddr{IP: net.ParseIP(group), Port: 1900})
		return err
	}))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// linkOf is the number of a namespace's device, which is a zone in every namespace.
func linkOf(t *testing.T, ns *lab.NS) string {
	t.Helper()
	var device *net.Interface
	require.NoError(t, ns.Do(func() (err error) {
		device, err = net.InterfaceByName(lab.MachineLink)
		return err
	}))
	return strconv.Itoa(device.Index)
}

// bootOf is the number of the start that an announcement belongs to.
func bootOf(t *testing.T, text string) int {
	t.Helper()
	found := regexp.MustCompile(`\r\nBOOTID\.UPNP\.ORG: (\d+)\r\n`).FindStringSubmatch(text)
	require.Len(t, found, 2, text)
	return must(strconv.Atoi(found[1]))
}

// readUntil reads datagrams until one has a text.
func readUntil(t *testing.T, c net.PacketConn, text string) string {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(labtest.Stretch(10*time.Second))))
	buf := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(buf)
		require.NoError(t, err, text)
		if strings.Contains(string(buf[:n]), text) {
			return string(buf[:n])
		}
	}
}
