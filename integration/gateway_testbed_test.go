// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The network of the WAN is a public one: clients of UPnP say of others that they are not connected.
const (
	wanAddress = "45.0.0.1" // of the router
	farAddress = "45.0.0.2" // of far
)

// gatewayTestbed is a router with a daemon and a gateway. Far is beyond the WAN.
type gatewayTestbed struct {
	*testbed
	far       *lab.NS
	one, two  *lab.NS // clients
	address   string  // of the router on the LAN
	address6  string
	args      []string         // of the gateway
	serving   *labtest.Process // the daemon
	gateway   *labtest.Process
	answers   *api.Client // of the gateway
	described string      // where the description of UPnP is
}

// newGatewayTestbed returns a testbed with a daemon, and with a gateway that has yet to be started. The LAN's device is
// lab.HostLAN, or lab.HostBridge, which is a bridge.
func newGatewayTestbed(t *testing.T, lan string, args ...string) *gatewayTestbed {
	t.Helper()
	parts := lab.PartFar | lab.PartNeighbour
	if lan == lab.HostBridge {
		parts = lab.PartFar | lab.PartBackend1 | lab.PartBackend2
	}
	top := newTopology(t, lab.Options{Parts: parts, Forwarding: true})
	b := &gatewayTestbed{testbed: newTestbed(t, top.Host), far: top.Far}
	if lan == lab.HostBridge {
		b.one, b.two, b.address, b.address6 = top.Backend1, top.Backend2, top.Gateway4.String(), top.Gateway6.String()
	} else {
		b.one, b.two, b.address, b.address6 = top.Client, top.Neighbour, top.Host.V4.String(), top.Host.V6.String()
		labtest.Exec(t, b.two, "ip", "route", "add", "default", "via", b.address)
	}
	for _, c := range []struct {
		ns              *lab.NS
		device, address string
	}{{b.ns, lab.HostFar, wanAddress}, {b.far, lab.MachineLink, farAddress}} {
		labtest.Exec(t, c.ns, "ip", "-4", "addr", "flush", "dev", c.device)
		labtest.Exec(t, c.ns, "ip", "addr", "add", c.address+"/24", "dev", c.device)
	}
	labtest.Exec(t, b.far, "ip", "route", "replace", "default", "via", wanAddress)
	b.described = "http://" + b.address + ":1900/igd.xml"
	socket := filepath.Join(filepath.Dir(b.socket), "gateway.sock")
	b.answers = api.NewClient(socket)
	b.args = append([]string{"gateway", "--lan", lan, "--wan", lab.HostFar, "--listen", socket}, args...)
	b.serving = b.serve(t)
	return b
}

// start starts the gateway, and returns when it knows the leases and answers clients.
func (b *gatewayTestbed) start(t *testing.T) {
	t.Helper()
	b.gateway = labtest.StartCmd(t, b.ns, b.command(t, b.args...))
	c := b.dial(t, b.one)
	await(t, "the gateway to answer", func() bool {
		select {
		case <-b.gateway.Done():
			t.Fatalf("the gateway has ended: %s", b.gateway.Output())
		default:
		}
		g, err := b.answers.Gateway(t.Context())
		if err != nil || g.Address == "" || len(g.Warnings) != 0 {
			return false
		}
		a := c.try(t, []byte{0, 0})
		return len(a) == 12 && a[2] == 0 && a[3] == 0
	})
}

// idleKiB is what a gateway that waits has resident at most.
const idleKiB = 8 << 10

// resident is what the gateway has resident, in KiB: its own memory, and pages of the program's file.
func (b *gatewayTestbed) resident(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.gateway.Pid))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	_, err = fmt.Sscan(rest, &kib)
	require.NoError(t, err)
	return kib
}

// waits waits until the gateway has given back what its start, or requests, took.
func (b *gatewayTestbed) waits(t *testing.T) {
	t.Helper()
	await(t, "a gateway that waits", func() bool { return b.resident(t) <= idleKiB })
	t.Logf("it waits with %d KiB", b.resident(t))
}

// stop stops the gateway as a service manager does.
func (b *gatewayTestbed) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, b.gateway.Signal(unix.SIGTERM))
	require.Zero(t, b.gateway.Wait(), b.gateway.Output())
}

// killed kills a process.
func killed(t *testing.T, p *labtest.Process) {
	t.Helper()
	require.NoError(t, p.Signal(unix.SIGKILL))
	p.Wait()
}

// state is what the gateway says.
func (b *gatewayTestbed) state(t *testing.T) api.Gateway {
	t.Helper()
	g, err := b.answers.Gateway(t.Context())
	require.NoError(t, err)
	return g
}

// reached checks that a port of the WAN leads to a server on the LAN from beyond the WAN, with the source's address kept, and
// from both clients.
func (b *gatewayTestbed) reached(t *testing.T, network, port, name string) {
	t.Helper()
	wan := wanAddress + ":" + port
	peer := labtest.Reaches(t, b.far, network, wan, name)
	require.Equal(t, farAddress, peer.Addr().String(), "the address of who connects is kept")
	labtest.Reaches(t, b.one, network, wan, name)
	labtest.Reaches(t, b.two, network, wan, name)
}

// closed checks that nobody answers at a port of the WAN.
func (b *gatewayTestbed) closed(t *testing.T, network, port string) {
	t.Helper()
	require.Error(t, labtest.NoAnswer(t, b.far, network, wanAddress+":"+port))
}
