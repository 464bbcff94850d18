// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A pair of hosts that share an address by VRRP (RFC 5798), as keepalived does it.
const (
	vrrpAddress = "192.0.2.77"
	vrrpConfig  = `global_defs {
	vrrp_version 3
}
vrrp_instance pair {
	state BACKUP
	interface %[1]s
	virtual_router_id 7
	priority %[2]d
	advert_int 0.2
	nopreempt
	virtual_ipaddress {
		` + vrrpAddress + `/24 dev %[1]s
	}
}
`
)

// node is one of the pair.
type node struct {
	*testbed
	keepalived *labtest.Process
}

// startNode publishes the same ports as the other node, all before the address has come: by
// netfilter, and one that proxies alone serve.
func startNode(t *testing.T, ns *lab.NS, backend string) *node {
	t.Helper()
	n := &node{testbed: newTestbed(t, ns)}
	n.serve(t)
	for _, line := range []string{
		"add --quiet tcp " + vrrpAddress + ":8080 " + backend + ":80",
		"add --quiet udp " + vrrpAddress + ":8080 " + backend + ":80",
		"add --quiet tcp " + vrrpAddress + ":8081 [fd00:30::2]:80",
	} {
		n.succeed(t, line)
	}
	return n
}

// keepAlive starts keepalived.
func (n *node) keepAlive(t *testing.T, link string, priority int) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "keepalived.conf")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, vrrpConfig, link, priority), 0o600))
	n.keepalived = labtest.Start(t, n.ns, "keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", file,
		"--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp.pid"))
}

// has reports whether a node has the shared address.
func (n *node) has(t *testing.T) bool {
	t.Helper()
	return strings.Contains(labtest.Exec(t, n.ns, "ip", "-o", "addr"), " "+vrrpAddress+"/")
}

// outage asks over and over, until stopped, and keeps the longest time without an answer.
type outage struct {
	address string
	longest atomic.Int64
	asked   sync.WaitGroup
	stop    context.CancelFunc
}

func watchOutage(t *testing.T, client *lab.NS, address string) *outage {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	o := &outage{address: address, stop: cancel}
	last := time.Now()
	o.asked.Go(func() {
		for ctx.Err() == nil {
			one, end := context.WithTimeout(ctx, 100*time.Millisecond)
			name, _, err := lab.Ask(one, client, "tcp", address, netip.AddrPort{})
			end()
			if err == nil && name != "" {
				o.longest.Store(max(o.longest.Load(), int64(time.Since(last))))
				last = time.Now()
			}
		}
	})
	t.Cleanup(o.end)
	return o
}

func (o *outage) end() {
	o.stop()
	o.asked.Wait()
}

// A pair of hosts with a shared address fails over: what is published on it is served by the
// node that has it. A service of each host beside them shows how long keepalived and the
// network alone take.
func TestFailover(t *testing.T) {
	labtest.LongOnly(t, "two hosts that share an address")
	labtest.Tool(t, "keepalived")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour})
	labtest.Echo(t, top.Backend1, "tcp", "one", ":80")
	labtest.Echo(t, top.Backend1, "udp", "one", ":80")
	// The neighbour is the second host, with a backend of its own.
	backend := labtest.NewNS(t, "backend")
	require.NoError(t, lab.Wire(
		lab.End{NS: top.Neighbour, Link: "in0", Addrs: []netip.Prefix{netip.MustParsePrefix("172.29.0.1/24"), netip.MustParsePrefix("fd00:30::1/64")}},
		lab.End{NS: backend, Link: "in0", Addrs: []netip.Prefix{netip.MustParsePrefix("172.29.0.2/24"), netip.MustParsePrefix("fd00:30::2/64")}}))
	labtest.Exec(t, backend, "ip", "route", "add", "default", "via", "172.29.0.1")
	labtest.Exec(t, backend, "ip", "route", "add", "default", "via", "fd00:30::1")
	labtest.Echo(t, backend, "tcp", "two", ":80")
	labtest.Echo(t, backend, "udp", "two", ":80")
	nodes := []*node{
		startNode(t, top.Host, "172.30.0.2"),
		startNode(t, top.Neighbour, "172.29.0.2"),
	}
	for _, n := range nodes {
		labtest.EchoTCP(t, n.ns, "host", ":7777")
	}
	nodes[0].keepAlive(t, lab.HostLAN, 200)
	await(t, "the first node to have the address", func() bool { return nodes[0].has(t) })
	nodes[1].keepAlive(t, lab.MachineLink, 100)
	names := map[string]string{"tcp": vrrpAddress + ":8080", "udp": vrrpAddress + ":8080", "proxied": vrrpAddress + ":8081"}
	served := func(name string) {
		t.Helper()
		for what, address := range names {
			network := what
			if what == "proxied" {
				network = "tcp"
			}
			await(t, what+" by "+name, func() bool {
				got, _, err := lab.Ask(t.Context(), top.Client, network, address, netip.AddrPort{})
				return err == nil && got == name
			})
		}
	}
	served("one")

	// The node is cut off.
	published, proxied, plain := watchOutage(t, top.Client, vrrpAddress+":8080"), watchOutage(t, top.Client, vrrpAddress+":8081"), watchOutage(t, top.Client, vrrpAddress+":7777")
	connected := dialFlow(t, top.Client, "tcp", vrrpAddress+":8080")
	require.Equal(t, "one", connected.name(t))
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostLAN, "down")
	await(t, "the second node to have the address", func() bool { return nodes[1].has(t) })
	served("two")
	for _, o := range []*outage{published, proxied, plain} {
		o.end()
	}
	t.Logf("longest time without an answer: published %v, proxied %v, a service of the host %v",
		time.Duration(published.longest.Load()), time.Duration(proxied.longest.Load()), time.Duration(plain.longest.Load()))

	// It comes back, and takes the address again when the other one gives it up.
	labtest.Exec(t, top.Host, "ip", "link", "set", lab.HostLAN, "up")
	await(t, "the cut off node to notice", func() bool { return !nodes[0].has(t) })
	require.NoError(t, nodes[1].keepalived.Signal(os.Interrupt))
	await(t, "the first node to have the address again", func() bool { return nodes[0].has(t) && !nodes[1].has(t) })
	served("one")
	await(t, "no flow to the node that has given it up", func() bool {
		return translatedTo(t, top.Neighbour, netip.MustParseAddr(vrrpAddress)) == 0
	})
}
