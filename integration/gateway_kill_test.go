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
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// daemonRelay is between a gateway and its daemon, and can keep the answer to a change back, which has been made then.
type daemonRelay struct {
	daemon  string // its socket
	next    atomic.Pointer[keptAnswer]
	running sync.WaitGroup
}

// keptAnswer is an answer of the daemon that does not come to the gateway.
type keptAnswer struct {
	backend string        // of the change
	there   chan struct{} // closed when the daemon has answered
	cut     chan struct{} // ends the connection
}

// relayed puts a relay between the gateway and the daemon.
func (b *gatewayTestbed) relayed(t *testing.T) *daemonRelay {
	t.Helper()
	path := filepath.Join(filepath.Dir(b.socket), "relay.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	r := &daemonRelay{daemon: b.socket}
	ctx, cancel := context.WithCancel(context.Background())
	r.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.pass(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, l.Close())
		r.running.Wait()
	})
	b.args = append(b.args, "--socket", path)
	return r
}

// keep keeps the answer to the next change of a backend's mapping back.
func (r *daemonRelay) keep(backend netip.AddrPort) *keptAnswer {
	k := &keptAnswer{fmt.Sprintf("%q", backend), make(chan struct{}), make(chan struct{})}
	r.next.Store(k)
	return k
}

// await waits until the daemon has made the change.
func (k *keptAnswer) await(t *testing.T) {
	t.Helper()
	select {
	case <-k.there:
	case <-time.After(labtest.Stretch(30 * time.Second)):
		require.Fail(t, "the gateway has not asked the daemon")
	}
}

// pass serves a connection of the gateway, of which each is for one call.
func (r *daemonRelay) pass(ctx context.Context, gateway net.Conn) {
	defer func() { _ = gateway.Close() }()
	daemon, err := net.Dial("unix", r.daemon)
	if err != nil {
		return
	}
	defer func() { _ = daemon.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		_ = gateway.Close()
		_ = daemon.Close()
	})()
	var read bytes.Buffer
	q, err := http.ReadRequest(bufio.NewReader(io.TeeReader(gateway, &read)))
	if err != nil {
		return
	}
	if _, err := io.Copy(io.Discard, q.Body); err != nil {
		return
	}
	kept := r.next.Load()
	if kept != nil && (q.Method != http.MethodPost || !strings.Contains(read.String(), kept.backend) || !r.next.CompareAndSwap(kept, nil)) {
		kept = nil
	}
	if _, err := daemon.Write(read.Bytes()); err != nil {
		return
	}
	r.running.Go(func() {
		defer cancel() // the gateway has closed it
		_, _ = io.Copy(daemon, gateway)
	})
	if kept != nil {
		if _, err := daemon.Read(make([]byte, 1)); err == nil {
			close(kept.there)
		}
		select {
		case <-kept.cut:
		case <-ctx.Done():
		}
		return
	}
	_, _ = io.Copy(gateway, daemon)
}

// asker asks for a port of TCP that leads to the port of its client.
type asker struct {
	what     string
	internal uint16
	// once asks once, whatever comes of it.
	once func()
	// again asks until a port is given, and returns it.
	again func() (port uint16)
}

const askedTime = 3600 // seconds

func (c *portClient) pmpAsker(t *testing.T, internal, external uint16) asker {
	t.Helper()
	q := pmpRequest(pmpTCP, internal, external, askedTime)
	return asker{"NAT-PMP", internal, func() { _, _ = c.Write(q) }, func() (port uint16) {
		await(t, "a port by NAT-PMP", func() bool {
			var result uint16
			result, port, _ = c.pmp(t, pmpTCP, internal, external, askedTime)
			return result == 0
		})
		return port
	}}
}

func (c *portClient) pcpAsker(t *testing.T, internal, external uint16, text string) asker {
	t.Helper()
	m := pcpMap{
		nonce: fmt.Sprintf("nonce%7d", internal), proto: unix.IPPROTO_TCP, internal: internal, external: external, lifetime: askedTime,
		options: append([]byte{128, 0, 0, byte(len(text))}, text...), // of 4 bytes: it is not padded
	}
	return asker{"PCP, " + text, internal, func() { _, _ = c.Write(m.request(c)) }, func() uint16 {
		var got pcpMap
		await(t, "a port by PCP", func() bool {
			got = m.send(t, c)
			return got.result == 0
		})
		return got.external
	}}
}

func (c *crowd) igdAsker(t *testing.T, client netip.Addr, action string, internal, external uint16, text string) asker {
	t.Helper()
	ask := func() (int, string, error) {
		return c.soap(client, action, "NewRemoteHost", "", "NewExternalPort", strconv.Itoa(int(external)), "NewProtocol", "TCP",
			"NewInternalPort", strconv.Itoa(int(internal)), "NewInternalClient", client.String(), "NewEnabled", "1",
			"NewPortMappingDescription", text, "NewLeaseDuration", strconv.Itoa(askedTime))
	}
	return asker{action + ", " + text, internal, func() { _, _, _ = ask() }, func() uint16 {
		var body string
		await(t, "a port by "+action, func() bool {
			var status int
			var err error
			status, body, err = ask()
			return err == nil && status == http.StatusOK
		})
		if found := regexp.MustCompile(`<NewReservedPort>(\d+)<`).FindStringSubmatch(body); found != nil {
			return uint16(must(strconv.Atoi(found[1])))
		}
		return external
	}}
}

// The gateway, or the daemon, is killed when a port has been given or changed and the client has not been told. It asks
// again, and gets just that port, and the epoch goes on (RFC 6886 section 3.6, RFC 6887 section 8.5).
func TestGatewayKilled(t *testing.T) {
	t.Parallel() // it waits
	for _, victim := range []string{"gateway", "daemon"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel() // it waits
			gatewayKilled(t, victim == "daemon")
		})
	}
}

func gatewayKilled(t *testing.T, daemon bool) {
	t.Helper()
	b := newGatewayTestbed(t, lab.HostLAN, "--igd", "v2")
	relay := b.relayed(t)
	b.start(t)
	c, cr := b.dial(t, b.one), &crowd{ns: b.one, router: b.address, version: 2}
	leases := func(internal uint16) (found []nat.Mapping) {
		t.Helper()
		all, err := b.api.Mappings(t.Context())
		require.NoError(t, err)
		for _, m := range all {
			for single := range nat.Expand(m) {
				if single.Backend == netip.AddrPortFrom(c.addr, internal) {
					found = append(found, single)
				}
			}
		}
		return found
	}
	// The ports that are asked for are another's: those that are given are picked.
	b.succeed(t, "add --quiet tcp 5000-5009 192.0.2.3:6000-6009")
	var epoch epochClient
	epoch.lost(c.aged(t, 2))
	for _, a := range []asker{
		c.pmpAsker(t, 5000, 5000),
		c.pcpAsker(t, 5001, 5001, "text"),
		cr.igdAsker(t, c.addr, "AddPortMapping", 5002, 8080, "text"),
		cr.igdAsker(t, c.addr, "AddAnyPortMapping", 5003, 5003, "text"),
		// What is there is renewed, gets another text, and is taken over from NAT-PMP.
		c.pmpAsker(t, 5000, 5000),
		c.pcpAsker(t, 5001, 5001, "more"),
		cr.igdAsker(t, c.addr, "AddPortMapping", 5002, 8080, "more"),
		c.pcpAsker(t, 5000, 5000, "more"),
	} {
		before := leases(a.internal)
		kept := relay.keep(netip.AddrPortFrom(c.addr, a.internal))
		var asking sync.WaitGroup
		asking.Go(a.once)
		kept.await(t)
		given := leases(a.internal)
		require.Len(t, given, 1, a.what)
		require.NotEqual(t, before, given, a.what)
		if daemon {
			killed(t, b.serving)
			close(kept.cut)
			b.serving = b.serve(t)
		} else {
			killed(t, b.gateway)
			close(kept.cut)
			b.start(t)
		}
		port := a.again()
		asking.Wait()
		require.Equal(t, given[0].Frontend.Port(), port, a.what)
		after := leases(a.internal)
		require.Len(t, after, 1, a.what)
		given[0].Expires = after[0].Expires // it is renewed
		require.Equal(t, given, after, a.what)
		_, now := c.wan(t)
		require.False(t, epoch.lost(now), a.what)
	}
	require.Len(t, b.state(t).Leases, 4)
}
