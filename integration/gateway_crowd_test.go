// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// crowd are clients that are addresses of one namespace.
type crowd struct {
	ns      *lab.NS
	router  string // the gateway's address in their network
	version int    // of WANIPConnection; zero: 1
	clients []netip.Addr
}

// newCrowd gives the router and a client a network with n addresses.
func (b *gatewayTestbed) newCrowd(t *testing.T, n int) *crowd {
	t.Helper()
	c := &crowd{ns: b.one, router: "10.77.0.1"}
	labtest.Exec(t, b.ns, "ip", "addr", "add", c.router+"/16", "dev", lab.HostLAN)
	var lines strings.Builder
	a := netip.MustParseAddr("10.77.1.0")
	for range n {
		a = a.Next()
		c.clients = append(c.clients, a)
		fmt.Fprintf(&lines, "addr add %s/16 dev %s\n", a, lab.MachineLink)
	}
	labtest.ExecInput(t, b.one, lines.String(), "ip", "-batch", "-")
	return c
}

// each calls do for all clients at once, and returns how long each took, in order.
func (c *crowd) each(do func(a netip.Addr) error) ([]time.Duration, []error) {
	var mu sync.Mutex
	var times []time.Duration
	var errs []error
	var wg sync.WaitGroup
	start := make(chan struct{})
	for _, a := range c.clients {
		wg.Go(func() {
			<-start
			began := time.Now()
			err := do(a)
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Since(began))
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", a, err))
			}
		})
	}
	close(start)
	wg.Wait()
	slices.Sort(times)
	return times, errs
}

// asks sends a request as clients do, with the pauses of RFC 6886 section 3.1, and returns the answer.
func (c *crowd) asks(a netip.Addr, q []byte) ([]byte, error) {
	conn, err := c.ns.DialFrom(context.Background(), "udp", c.router+":5351", netip.AddrPortFrom(a, 0))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 1100)
	for pause := 250 * time.Millisecond; pause < 65*time.Second; pause *= 2 {
		if _, err := conn.Write(q); err != nil {
			return nil, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(pause))
		if n, err := conn.Read(buf); err == nil {
			return buf[:n], nil
		}
	}
	return nil, os.ErrDeadlineExceeded
}

// soap is an action of WANIPConnection by a client, once: the status and the body of the answer.
func (c *crowd) soap(a netip.Addr, action string, args ...string) (int, string, error) {
	var body strings.Builder
	urn := fmt.Sprintf("urn:schemas-upnp-org:service:WANIPConnection:%d", max(1, c.version))
	fmt.Fprintf(&body, `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:%s xmlns:u="%s">`, action, urn)
	for i := 0; i < len(args); i += 2 {
		fmt.Fprintf(&body, "<%s>%s</%s>", args[i], args[i+1], args[i])
	}
	fmt.Fprintf(&body, "</u:%s></s:Body></s:Envelope>", action)
	return c.http(a, fmt.Sprintf("POST /ip HTTP/1.1\r\nHost: %s:1900\r\nConnection: close\r\nContent-Type: text/xml\r\nSOAPACTION: \"%s#%s\"\r\nContent-Length: %d\r\n\r\n%s",
		c.router, urn, action, body.Len(), body.String()))
}

func (c *crowd) http(a netip.Addr, request string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := c.ns.DialFrom(ctx, "tcp", c.router+":1900", netip.AddrPortFrom(a, 0))
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, "", err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// search sends a search to the group, once, and waits for an answer as long as MX says.
func (c *crowd) search(a netip.Addr, st string) error {
	pc, err := c.ns.ListenPacket("udp4", netip.AddrPortFrom(a, 0).String())
	if err != nil {
		return err
	}
	defer func() { _ = pc.Close() }()
	to := &net.UDPAddr{IP: net.IPv4(239, 255, 255, 250), Port: 1900}
	if _, err := pc.WriteTo([]byte("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: "+st+"\r\nMAN: \"ssdp:discover\"\r\nMX: 2\r\n\r\n"), to); err != nil {
		return err
	}
	_ = pc.SetReadDeadline(time.Now().Add(4 * time.Second))
	_, _, err = pc.ReadFrom(make([]byte, 2048))
	return err
}

// Five hundred clients ask at the same time, by all protocols, beside libtorrent and one that sends all that it can. Each gets
// what it asks for at the first try or, of NAT-PMP, one of the next, and the one that sends too much its quota.
func TestGatewayCrowd(t *testing.T) {
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostLAN)
	b.start(t)
	c := b.newCrowd(t, labtest.Number(t, "NFTNAT_CROWD", 500))
	torrents := func() int { return 2 }
	if exec.Command(python, "-c", "import libtorrent").Run() == nil {
		cmd := exec.Command(python, "-c", torrent, b.two.V4.String(), "both")
		_, err := cmd.StdinPipe()
		require.NoError(t, err)
		p := labtest.StartCmd(t, b.two, cmd)
		torrents = func() int { return strings.Count(p.Output(), "cp ") + strings.Count(p.Output(), "dp ") }
	}

	ended := make(chan struct{})
	greedy := b.dial(t, b.one)
	var sending, asking sync.WaitGroup
	sending.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-ended:
				return
			default:
			}
			_, _ = greedy.Write(pmpRequest(pmpTCP, uint16(1024+i%60000), 0, 600)) // the queue may be full
			if i%64 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	})
	each := func(what string, do func(netip.Addr) error) {
		asking.Go(func() {
			times, errs := c.each(do)
			t.Logf("%s: median %s, longest %s", what, times[len(times)/2], times[len(times)-1])
			if len(errs) != 0 {
				t.Errorf("%s: %d of %d get nothing, such as %v", what, len(errs), len(c.clients), errs[0])
			}
		})
	}
	each("NAT-PMP", func(a netip.Addr) error {
		answer, err := c.asks(a, pmpRequest(pmpUDP, 5000, 0, 600))
		if err == nil && (len(answer) != 16 || binary.BigEndian.Uint16(answer[2:]) != 0) {
			return fmt.Errorf("it is answered %x", answer)
		}
		return err
	})
	each("UPnP", func(a netip.Addr) error {
		external := 20000 + int(a.As4()[2])<<8 + int(a.As4()[3])
		status, body, err := c.soap(a, "AddPortMapping", "NewRemoteHost", "", "NewExternalPort", strconv.Itoa(external), "NewProtocol", "TCP", "NewInternalPort", "5000",
			"NewInternalClient", a.String(), "NewEnabled", "1", "NewPortMappingDescription", "crowd", "NewLeaseDuration", "600")
		if err == nil && status != http.StatusOK {
			return fmt.Errorf("it is answered %d: %s", status, body)
		}
		return err
	})
	each("SSDP", func(a netip.Addr) error { return c.search(a, "upnp:rootdevice") })
	asking.Wait()
	close(ended)
	sending.Wait()
	await(t, "libtorrent to get its ports", func() bool { return torrents() >= 2 })

	of := map[string]int{}
	for _, l := range b.state(t).Leases {
		of[l.Client]++
	}
	for _, a := range c.clients {
		require.Equal(t, 2, of[a.String()], a)
	}
	require.LessOrEqual(t, of[b.one.V4.String()], 32)
	require.Positive(t, b.state(t).Drops["rate"])
}
