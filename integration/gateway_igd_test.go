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
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The addresses of the WAN are public ones: clients say of others that they are not connected.
const (
	igdWAN  = "45.0.0.1"
	igdPeer = "45.0.0.2"
)

// igdTestbed is a router with a daemon and a gateway, two clients and a peer on the WAN.
type igdTestbed struct {
	*testbed
	top     *lab.Topology
	serving *labtest.Process // the daemon
	gateway *labtest.Process
	args    []string
	url     string // of the description
}

func newIGDTestbed(t *testing.T, version string) *igdTestbed {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartNeighbour | lab.PartFar})
	for _, c := range []struct {
		ns      *lab.NS
		device  string
		address string
	}{{top.Host, lab.HostFar, igdWAN}, {top.Far, lab.MachineLink, igdPeer}} {
		labtest.Exec(t, c.ns, "ip", "-4", "addr", "flush", "dev", c.device)
		labtest.Exec(t, c.ns, "ip", "addr", "add", c.address+"/24", "dev", c.device)
	}
	labtest.Exec(t, top.Far, "ip", "route", "replace", "default", "via", igdWAN)
	s := &igdTestbed{testbed: newTestbed(t, top.Host), top: top, url: "http://192.0.2.1:1900/igd.xml"}
	s.serving = s.serve(t)
	s.args = []string{"gateway", "--lan", lab.HostLAN, "--wan", lab.HostFar, "--igd", version, "--listen", strings.TrimSuffix(s.socket, "nftnat.sock") + "gateway.sock"}
	s.startGateway(t)
	return s
}

func (s *igdTestbed) startGateway(t *testing.T) {
	t.Helper()
	s.gateway = labtest.StartCmd(t, s.ns, s.command(t, s.args...))
	await(t, "the gateway to answer", func() bool {
		select {
		case <-s.gateway.Done():
			t.Fatalf("the gateway has ended: %s", s.gateway.Output())
		default:
		}
		c, err := s.top.Client.Dial(t.Context(), "tcp", "192.0.2.1:1900")
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

func (s *igdTestbed) stopGateway(t *testing.T) {
	t.Helper()
	require.NoError(t, s.gateway.Signal(unix.SIGTERM))
	require.Zero(t, s.gateway.Wait(), s.gateway.Output())
}

// upnpc runs upnpc, which does not search if it has the description's URL: it would take two seconds.
func (s *igdTestbed) upnpc(t *testing.T, ns *lab.NS, line string) labtest.Result {
	t.Helper()
	args := append([]string{"-u", s.url}, strings.Fields(line)...)
	return labtest.Run(t, ns, exec.Command(labtest.Tool(t, "upnpc"), args...))
}

// asks is upnpc of the client, which must succeed.
func (s *igdTestbed) asks(t *testing.T, line string) string {
	t.Helper()
	r := s.upnpc(t, s.top.Client, line)
	require.Zero(t, r.Code, "upnpc %s: %s%s", line, r.Stdout, r.Stderr)
	return r.Stdout
}

// refused is upnpc of a namespace, which gets an error.
func (s *igdTestbed) refused(t *testing.T, ns *lab.NS, line, code string) {
	t.Helper()
	r := s.upnpc(t, ns, line)
	require.Equal(t, 2, r.Code, "upnpc %s: %s%s", line, r.Stdout, r.Stderr)
	require.Contains(t, r.Stdout+r.Stderr, code)
}

// reachedFromAll checks a mapping to the client, from the WAN and by hairpin.
func (s *igdTestbed) reachedFromAll(t *testing.T, network, port, name string) {
	t.Helper()
	peer := labtest.Reaches(t, s.top.Far, network, igdWAN+":"+port, name)
	require.Equal(t, igdPeer, peer.Addr().String(), "the address of who connects is kept")
	labtest.Reaches(t, s.top.Client, network, igdWAN+":"+port, name)
}

// upnpc finds a gateway of version 1, adds, lists and deletes; mappings outlive gateway and daemon.
func TestGatewayIGD(t *testing.T) {
	s := newIGDTestbed(t, "v1")
	labtest.EchoTCP(t, s.top.Client, "web", ":5000")
	labtest.EchoUDP(t, s.top.Client, "game", ":5000")

	found := labtest.Run(t, s.top.Client, exec.Command(labtest.Tool(t, "upnpc"), "-s"))
	require.Zero(t, found.Code, found.Stdout)
	for _, text := range []string{s.url, "Found valid IGD : http://192.0.2.1:1900/ip", "Connection Type : IP_Routed", "Status : Connected", "ExternalIPAddress = " + igdWAN} {
		require.Contains(t, found.Stdout, text)
	}
	require.Regexp(t, `Bytes: +Sent: +\d+`, found.Stdout)

	s.asks(t, "-e web -a 192.0.2.2 5000 8080 TCP 3600")
	s.asks(t, "-e game -a 192.0.2.2 5000 8080 UDP")
	s.reachedFromAll(t, "tcp", "8080", "web")
	s.reachedFromAll(t, "udp", "8080", "game")
	listed := s.asks(t, "-l")
	require.Regexp(t, `TCP  8080->192\.0\.2\.2:5000 .*'web' '' (3600|35\d\d)`, listed)
	require.Regexp(t, `UDP  8080->192\.0\.2\.2:5000 .*'game' '' 0`, listed)
	s.asks(t, "-r 5001 TCP 5002 UDP")
	require.Len(t, s.ports(t), 4)

	s.refused(t, s.top.Neighbour, "-a 192.0.2.3 5000 8080 TCP", "718")
	s.refused(t, s.top.Neighbour, "-d 8080 TCP", "606")
	s.refused(t, s.top.Neighbour, "-a 192.0.2.2 5000 8081 TCP", "606")
	s.refused(t, s.top.Client, "-a 192.0.2.2 5000 80 TCP", "606")
	s.succeed(t, "add tcp 9000 192.0.2.3:80")
	s.refused(t, s.top.Client, "-a 192.0.2.2 5000 9000 TCP", "718")
	s.reachedFromAll(t, "tcp", "8080", "web")

	// Both processes are started again, and nothing is lost.
	s.stopGateway(t)
	s.reachedFromAll(t, "tcp", "8080", "web")
	s.startGateway(t)
	require.Contains(t, s.asks(t, "-l"), "TCP  8080->192.0.2.2:5000")
	s.serving.Kill()
	s.serving = s.serve(t)
	await(t, "the gateway to find the daemon", func() bool { return s.upnpc(t, s.top.Client, "-a 192.0.2.2 5000 8082 TCP").Code == 0 })
	s.reachedFromAll(t, "tcp", "8080", "web")
	s.reachedFromAll(t, "tcp", "8082", "web")

	for _, line := range []string{"-d 8080 TCP", "-d 8080 UDP", "-d 8082 TCP", "-d 5001 TCP", "-d 5002 UDP"} {
		s.asks(t, line)
		s.refused(t, s.top.Client, line, "714")
	}
	require.Equal(t, []string{"tcp 9000"}, s.ports(t))
	require.Error(t, labtest.NoAnswer(t, s.top.Far, "tcp", igdWAN+":8080"))
	s.stopGateway(t)
}

// Version 2, a remote host, and a lease that ends.
func TestGatewayIGD2(t *testing.T) {
	s := newIGDTestbed(t, "v2")
	s.stopGateway(t)
	s.args = append(s.args, "--min-lifetime", "1s")
	s.startGateway(t)
	labtest.EchoTCP(t, s.top.Client, "web", ":5000")
	s.asks(t, "-n 192.0.2.2 5000 8080 TCP 3600")
	s.reachedFromAll(t, "tcp", "8080", "web")
	other := s.upnpc(t, s.top.Neighbour, "-n 192.0.2.3 5000 8080 TCP 3600")
	require.Zero(t, other.Code, other.Stdout)
	require.Len(t, s.ports(t), 2)
	require.Contains(t, s.asks(t, "-L"), "8080->192.0.2.2:5000")
	s.refused(t, s.top.Neighbour, "-N 8080 8080 TCP", "730")
	s.asks(t, "-N 8000 8100 TCP")
	require.Error(t, labtest.NoAnswer(t, s.top.Far, "tcp", igdWAN+":8080"))

	s.succeed(t, "add tcp 9000 192.0.2.3:80")
	s.refused(t, s.top.Client, "-a 192.0.2.2 5000 9000 TCP", "729")

	s.asks(t, "-a 192.0.2.2 5000 8083 TCP 3600 "+igdPeer)
	labtest.Reaches(t, s.top.Far, "tcp", igdWAN+":8083", "web")
	s.asks(t, "-a 192.0.2.2 5000 8084 TCP 3600 45.0.0.3")
	require.Error(t, labtest.NoAnswer(t, s.top.Far, "tcp", igdWAN+":8084"))

	s.asks(t, "-a 192.0.2.2 5000 8085 TCP 1")
	await(t, "the lease to end", func() bool { return !strings.Contains(fmt.Sprint(s.ports(t)), "8085") })
	require.Error(t, labtest.NoAnswer(t, s.top.Far, "tcp", igdWAN+":8085"))
}

// The WAN gets no answer, whatever it asks and whomever.
func TestGatewayIGDOnWAN(t *testing.T) {
	s := newIGDTestbed(t, "v1")
	search := "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: upnp:rootdevice\r\nMAN: \"ssdp:discover\"\r\nMX: 0\r\n\r\n"
	ask := func(ns *lab.NS, to string) string {
		from := "192.0.2.2:0"
		switch {
		case strings.HasPrefix(to, "["):
			from = "[::]:0"
		case ns == s.top.Far:
			from = igdPeer + ":0"
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
		return strings.HasPrefix(ask(s.top.Client, "239.255.255.250:1900"), "HTTP/1.1 200 OK\r\n")
	})
	await(t, "an answer to the gateway's address", func() bool { return strings.Contains(ask(s.top.Client, "192.0.2.1:1900"), s.url) })
	await(t, "an answer by IPv6", func() bool {
		return strings.Contains(ask(s.top.Client, "[ff02::c%"+linkOf(t, s.top.Client)+"]:1900"), "LOCATION: http://[fe80:")
	})
	for _, to := range []string{"239.255.255.250:1900", igdWAN + ":1900", "192.0.2.1:1900", "[ff02::c%" + linkOf(t, s.top.Far) + "]:1900"} {
		require.Empty(t, ask(s.top.Far, to), to)
	}
	for _, to := range []string{igdWAN + ":1900", "192.0.2.1:1900"} {
		ctx, cancel := context.WithTimeout(t.Context(), labtest.Stretch(300*time.Millisecond))
		c, err := s.top.Far.Dial(ctx, "tcp", to)
		cancel()
		if err == nil { // accepted by the kernel, and closed without an answer
			require.NoError(t, c.SetReadDeadline(time.Now().Add(labtest.Stretch(5*time.Second))))
			_, _ = io.WriteString(c, "GET /igd.xml HTTP/1.1\r\nHost: 192.0.2.1:1900\r\n\r\n")
			answer, _ := io.ReadAll(c)
			require.Empty(t, answer)
			require.NoError(t, c.Close())
		}
	}
	for host, code := range map[string]int{"192.0.2.1:1900": 200, "192.0.2.1": 200, "rebound.example": 421, igdWAN + ":1900": 421} {
		require.Equal(t, code, s.request(t, "192.0.2.1:1900", "GET /igd.xml", "Host: "+host).StatusCode, host)
	}
}

// request sends a request of HTTP without a body from the client.
func (s *igdTestbed) request(t *testing.T, to, line string, fields ...string) *http.Response {
	t.Helper()
	c, err := s.top.Client.Dial(t.Context(), "tcp", to)
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
	s := newIGDTestbed(t, "v1")
	groups := []net.PacketConn{joined(t, s.top.Client, "udp4", "239.255.255.250"), joined(t, s.top.Client, "udp6", "ff02::c")}
	boots := make([]int, len(groups))
	s.stopGateway(t)
	for round := range 2 {
		s.startGateway(t)
		for i, c := range groups {
			first := bootOf(t, readUntil(t, c, "upnp:rootdevice\r\nNTS: ssdp:alive"))
			require.Equal(t, first, bootOf(t, readUntil(t, c, "upnp:rootdevice\r\nNTS: ssdp:alive")), "twice")
			if round != 0 {
				require.Greater(t, first, boots[i])
			}
			boots[i] = first
		}
		s.stopGateway(t)
		for i, c := range groups {
			require.Equal(t, boots[i], bootOf(t, readUntil(t, c, "ssdp:byebye")))
		}
	}
	s.startGateway(t)

	l, err := s.top.Client.Listen("tcp", "192.0.2.2:7000")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	for callback, code := range map[string]int{"http://192.0.2.2:7000/here": 200, "http://192.0.2.3:7000/": 412, "http://127.0.0.1:7000/": 412} {
		answer := s.request(t, "192.0.2.1:1900", "SUBSCRIBE /ip/events", "Host: 192.0.2.1:1900", "NT: upnp:event", "CALLBACK: <"+callback+">")
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
	require.Contains(t, string(body), "<ExternalIPAddress>"+igdWAN+"</ExternalIPAddress>")
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
