// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// gatewayTestbed is a router with a daemon and a gateway: client and neighbour are on the LAN, far is beyond the WAN.
type gatewayTestbed struct {
	*testbed
	*lab.Topology
	gateway *labtest.Process
	daemon  *labtest.Process
	answers *api.Client // of the gateway
	args    []string
}

// wanAddress is the router's.
const wanAddress = "198.51.100.1"

func newGatewayTestbed(t *testing.T, args ...string) *gatewayTestbed {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartNeighbour | lab.PartFar, Forwarding: true})
	labtest.Exec(t, top.Neighbour, "ip", "route", "add", "default", "via", "192.0.2.1")
	b := &gatewayTestbed{testbed: newTestbed(t, top.Host), Topology: top}
	socket := filepath.Join(filepath.Dir(b.socket), "gateway.sock")
	b.answers = api.NewClient(socket)
	b.args = append([]string{"gateway", "--lan", lab.HostLAN, "--wan", lab.HostFar, "--listen", socket}, args...)
	b.daemon = b.serve(t)
	b.start(t)
	return b
}

// killed kills a process.
func killed(t *testing.T, p *labtest.Process) {
	t.Helper()
	require.NoError(t, p.Signal(unix.SIGKILL))
	p.Wait()
}

// start starts the gateway, and returns when it knows the leases.
func (b *gatewayTestbed) start(t *testing.T) {
	t.Helper()
	b.gateway = labtest.StartCmd(t, b.ns, b.command(t, b.args...))
	await(t, "the gateway to answer", func() bool {
		select {
		case <-b.gateway.Done():
			t.Fatalf("the gateway has ended: %s", b.gateway.Output())
		default:
		}
		g, err := b.answers.Gateway(t.Context())
		return err == nil && g.Address != "" && len(g.Warnings) == 0
	})
}

// state is what the gateway says.
func (b *gatewayTestbed) state(t *testing.T) api.Gateway {
	t.Helper()
	g, err := b.answers.Gateway(t.Context())
	require.NoError(t, err)
	return g
}

// pmpClient asks by NAT-PMP (RFC 6886).
type pmpClient struct {
	net.PacketConn
	gateway net.Addr
}

func newPMPClient(t *testing.T, ns *lab.NS, gateway string) *pmpClient {
	t.Helper()
	c, err := ns.ListenPacket("udp4", "0.0.0.0:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return &pmpClient{c, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(gateway + ":5351"))}
}

// exchange sends a request, again and again as section 3.1 has it, and returns the answer.
func (c *pmpClient) exchange(t *testing.T, request []byte) []byte {
	t.Helper()
	buf := make([]byte, 64)
	for wait := 250 * time.Millisecond; wait < 20*time.Second; wait *= 2 {
		_, err := c.WriteTo(request, c.gateway)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(wait)))
		n, _, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		require.NoError(t, err)
		return buf[:n]
	}
	t.Fatal("the gateway does not answer")
	return nil
}

// address asks for the WAN's address, and for the epoch.
func (c *pmpClient) address(t *testing.T) (netip.Addr, uint32) {
	t.Helper()
	a := c.exchange(t, []byte{0, 0})
	require.Len(t, a, 12)
	require.Equal(t, []byte{0, 128, 0, 0}, a[:4])
	addr, _ := netip.AddrFromSlice(a[8:12])
	return addr, binary.BigEndian.Uint32(a[4:])
}

func pmpRequest(op byte, internal, external uint16, lifetime uint32) []byte {
	q := []byte{0, op, 0, 0}
	q = binary.BigEndian.AppendUint16(q, internal)
	q = binary.BigEndian.AppendUint16(q, external)
	return binary.BigEndian.AppendUint32(q, lifetime)
}

// tcp asks for a port.
func (c *pmpClient) tcp(t *testing.T, internal, external uint16, lifetime uint32) (result, port uint16) {
	t.Helper()
	a := c.exchange(t, pmpRequest(2, internal, external, lifetime))
	require.GreaterOrEqual(t, len(a), 8)
	if result = binary.BigEndian.Uint16(a[2:]); result != 0 {
		return result, 0
	}
	require.Len(t, a, 16)
	require.Equal(t, internal, binary.BigEndian.Uint16(a[8:]))
	return 0, binary.BigEndian.Uint16(a[10:])
}

// A host on the LAN gets a port of the WAN, by which others reach it, and no restart takes it away.
func TestGateway(t *testing.T) {
	b := newGatewayTestbed(t, "--quota", "2", "--deny", "7000 192.0.2.2 0-65535", "--allow", "1024-65535 192.0.2.0/24 0-65535")
	requireConfined(t, b.gateway.Pid)
	labtest.EchoTCP(t, b.Client, "console", ":3074")
	c := newPMPClient(t, b.Client, "192.0.2.1")
	wan, _ := c.address(t)
	require.Equal(t, wanAddress, wan.String())
	result, port := c.tcp(t, 3074, 3075, 600)
	require.Zero(t, result)
	require.EqualValues(t, 3075, port)
	reached := func() {
		t.Helper()
		peer := labtest.Reaches(t, b.Far, "tcp", wanAddress+":3075", "console")
		require.Equal(t, b.Far.V4, peer.Addr(), "the client's address is kept")
		labtest.Reaches(t, b.Neighbour, "tcp", wanAddress+":3075", "console")
	}
	reached()
	lines := b.succeed(t, "ls")
	require.Contains(t, lines, "pmp")
	lease := b.state(t).Leases
	require.Len(t, lease, 1)
	require.Equal(t, api.GatewayLease{Kind: "pmp", Client: "192.0.2.2", Proto: "tcp", Internal: 3074, External: 3075, Expires: lease[0].Expires}, lease[0])
	require.WithinDuration(t, time.Now().Add(600*time.Second), *lease[0].Expires, 10*time.Second)
	time.Sleep(1100 * time.Millisecond) // so that an epoch that begins again is seen
	_, epoch := c.address(t)
	require.Positive(t, epoch)

	// Neither a killed gateway nor a killed daemon is seen by clients, but for the wait.
	goesOn := func() {
		t.Helper()
		reached()
		_, now := c.address(t)
		require.GreaterOrEqual(t, now, epoch)
		require.Less(t, now, epoch+60)
		result, port := c.tcp(t, 3074, 4000, 600)
		require.Zero(t, result)
		require.EqualValues(t, 3075, port, "it is renewed")
		require.Len(t, b.state(t).Leases, 1)
	}
	killed(t, b.gateway)
	b.start(t)
	goesOn()
	killed(t, b.daemon)
	b.daemon = b.serve(t)
	goesOn()

	// What the rules and the quota do not give is refused, and said why.
	_, port = c.tcp(t, 80, 7000, 600)
	require.NotEqualValues(t, 7000, port)
	result, _ = c.tcp(t, 81, 81, 600)
	require.EqualValues(t, 4, result, "out of resources")
	refusals := b.state(t).Refusals
	require.Len(t, refusals, 1)
	require.Equal(t, "the client has as many leases as it may have", refusals[0].Reason)

	// Others are not answered.
	b.silent(t, b.Far, wanAddress)
	b.silent(t, b.Client, wanAddress)
	require.NotEmpty(t, b.state(t).Drops)

	// What the operator has published, and what another host has, is taken.
	b.succeed(t, "add tcp 9000 192.0.2.3:80 --name web")
	n := newPMPClient(t, b.Neighbour, "192.0.2.1")
	_, port = n.tcp(t, 9000, 9000, 600)
	require.NotEqualValues(t, 9000, port)
	_, port = n.tcp(t, 9001, 3075, 600)
	require.NotEqualValues(t, 3075, port)

	// If the table is deleted while no daemon restores it, clients start over.
	killed(t, b.daemon)
	b.succeed(t, "--direct purge")
	b.daemon = b.serve(t)
	await(t, "the leases to be gone", func() bool { return len(b.state(t).Leases) == 0 })
	result, _ = c.tcp(t, 3074, 3075, 600)
	require.Zero(t, result)
	_, now := c.address(t)
	require.LessOrEqual(t, now, uint32(2))
	reached()

	require.NoError(t, b.gateway.Signal(unix.SIGTERM))
	require.Zero(t, b.gateway.Wait(), b.gateway.Output())
	reached()
}

// silent checks that a gateway does not answer at an address.
func (b *gatewayTestbed) silent(t *testing.T, ns *lab.NS, address string) {
	t.Helper()
	c := newPMPClient(t, ns, address)
	for range 3 {
		_, err := c.WriteTo([]byte{0, 0}, c.gateway)
		if err != nil {
			return // refused
		}
		require.NoError(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		_, _, err = c.ReadFrom(make([]byte, 64))
		require.Error(t, err)
	}
}

// The WAN may get another address: leases follow it, and clients are told.
func TestGatewayWANChanges(t *testing.T) {
	b := newGatewayTestbed(t)
	labtest.EchoTCP(t, b.Client, "console", ":3074")
	c := newPMPClient(t, b.Client, "192.0.2.1")
	_, port := c.tcp(t, 3074, 3074, 600)
	require.EqualValues(t, 3074, port)
	time.Sleep(1100 * time.Millisecond)
	_, epoch := c.address(t)
	require.Positive(t, epoch)
	ip := func(line string) { labtest.Exec(t, b.Host, "ip", strings.Fields(line)...) }
	ip("addr del " + wanAddress + "/24 dev " + lab.HostFar)
	await(t, "the warning", func() bool { return len(b.state(t).Warnings) != 0 })
	require.Equal(t, []string{"far0 has no IPv4 address: clients get no new ports"}, b.state(t).Warnings)
	result, _ := c.tcp(t, 3075, 3075, 600)
	require.EqualValues(t, 3, result, "network failure")
	result, _ = c.tcp(t, 3074, 3074, 600)
	require.EqualValues(t, 3, result, "what there is stays")
	require.Len(t, b.state(t).Leases, 1)
	ip("addr add 198.51.100.77/24 dev " + lab.HostFar)
	await(t, "the address", func() bool { return b.state(t).Address == "198.51.100.77" })
	wan, now := c.address(t)
	require.Equal(t, "198.51.100.77", wan.String())
	require.LessOrEqual(t, now, uint32(1))
	labtest.Reaches(t, b.Far, "tcp", "198.51.100.77:3074", "console")

	// A private address is served, with a warning.
	ip("addr del 198.51.100.77/24 dev " + lab.HostFar)
	ip("addr add 100.64.7.7/24 dev " + lab.HostFar)
	await(t, "the address", func() bool { return b.state(t).Address == "100.64.7.7" })
	require.Len(t, b.state(t).Warnings, 1)
	require.Contains(t, b.state(t).Warnings[0], "100.64.7.7, is shared by customers of the provider (RFC 6598)")
	result, _ = c.tcp(t, 3076, 3076, 600)
	require.Zero(t, result)
}

// Thousands of leases are renewed at once, and none is lost. A gateway that waits takes little.
func TestGatewayBurst(t *testing.T) {
	leases := labtest.RoundsOf(t, "NFTNAT_GATEWAY_LEASES", "leases", 2000, 10000)
	b := newGatewayTestbed(t, "--quota", fmt.Sprint(leases), "--igd", "off")
	kib := func() int {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.gateway.Pid))
		require.NoError(t, err)
		var n int
		_, rest, _ := strings.Cut(string(status), "VmRSS:")
		_, err = fmt.Sscan(rest, &n)
		require.NoError(t, err)
		return n
	}
	await(t, "a gateway that waits", func() bool { return kib() <= 8<<10 })
	t.Logf("it waits with %d KiB", kib())

	c := newPMPClient(t, b.Client, "192.0.2.1")
	raw, err := c.PacketConn.(*net.UDPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) }))
	// all asks for all, again for what was not answered, as clients do.
	all := func(lifetime uint32) map[uint16]uint16 {
		t.Helper()
		ports := map[uint16]uint16{}
		began := time.Now()
		sent := 0
		for len(ports) < leases {
			require.Less(t, time.Since(began), labtest.Stretch(time.Minute), "%d of %d are answered", len(ports), leases)
			for i := range leases {
				if internal := uint16(5000 + i); ports[internal] == 0 {
					_, err := c.WriteTo(pmpRequest(1, internal, internal, lifetime), c.gateway)
					require.NoError(t, err)
					sent++
				}
			}
			buf := make([]byte, 64)
			for len(ports) < leases {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
				n, _, err := c.ReadFrom(buf)
				if err != nil {
					break
				}
				require.Equal(t, 16, n)
				require.Zero(t, binary.BigEndian.Uint16(buf[2:]))
				ports[binary.BigEndian.Uint16(buf[8:])] = binary.BigEndian.Uint16(buf[10:])
			}
		}
		t.Logf("%d leases in %s, %d datagrams", leases, time.Since(began).Round(time.Millisecond), sent)
		return ports
	}
	given := all(600)
	before := b.state(t).Leases
	require.Len(t, before, leases)
	require.Equal(t, given, all(1200))
	after := b.state(t).Leases
	require.Len(t, after, leases)
	for i := range after {
		require.Equal(t, before[i].External, after[i].External)
		require.True(t, after[i].Expires.After(before[i].Expires.Add(500*time.Second)), "%+v", after[i])
	}
	mappings, err := b.api.Mappings(t.Context())
	require.NoError(t, err)
	n := 0
	for _, m := range mappings {
		n += int(m.More) + 1
	}
	require.Equal(t, leases, n)

	killed(t, b.gateway)
	b.start(t)
	require.Len(t, b.state(t).Leases, leases)
	cpu := func() time.Duration {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.gateway.Pid))
		require.NoError(t, err)
		fields := strings.Fields(string(stat[slices.Index(stat, ')'):]))
		var user, system int
		_, err = fmt.Sscan(fields[12]+" "+fields[13], &user, &system)
		require.NoError(t, err)
		return time.Duration(user+system) * 10 * time.Millisecond
	}
	time.Sleep(time.Second)
	used := cpu()
	time.Sleep(2 * time.Second)
	t.Logf("with %d leases it waits with %d KiB, and has used %s in 2 s", leases, kib(), cpu()-used)
	require.LessOrEqual(t, cpu()-used, 10*time.Millisecond)
}
