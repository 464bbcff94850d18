// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// natpmpc runs natpmpc on a client.
func natpmpc(t *testing.T, ns *lab.NS, line string) string {
	t.Helper()
	return labtest.Exec(t, ns, "natpmpc", strings.Fields(line)...)
}

// TestGatewayNATPMP has natpmpc make, renew and end mappings of both protocols, with packets through each from beyond the
// WAN, with their source, and from another client by the WAN's address.
func TestGatewayNATPMP(t *testing.T) {
	b := newGatewayTestbed(t, lab.HostBridge)
	b.start(t)
	one, two, far := b.one, b.two, b.far
	labtest.EchoUDP(t, one, "one", ":5000")
	labtest.EchoTCP(t, one, "one", ":5000")
	assert.Contains(t, natpmpc(t, one, ""), "Public IP address : "+wanAddress)
	for _, network := range []string{"udp", "tcp"} {
		wan := wanAddress + ":4000"
		b.closed(t, network, "4000")
		out := natpmpc(t, one, "-a 4000 5000 "+network+" 3600")
		assert.Contains(t, out, "Mapped public port 4000 protocol "+strings.ToUpper(network)+" to local port 5000 ")
		b.reached(t, network, "4000", "one")

		assert.Contains(t, natpmpc(t, one, "-a 4999 5000 "+network+" 7200"), "Mapped public port 4000 ")
		assert.Contains(t, b.succeed(t, "ls --json "+network), `"name":"pmp:"`)
		assert.Contains(t, natpmpc(t, two, "-a 4000 5000 "+network+" 3600"), "protocol "+strings.ToUpper(network))
		labtest.Reaches(t, far, network, wan, "one") // the other client has got another port

		natpmpc(t, one, "-a 0 5000 "+network+" 0")
		b.closed(t, network, "4000")
		natpmpc(t, two, "-a 0 0 "+network+" 0")
		assert.Equal(t, "[]", strings.TrimSpace(b.succeed(t, "ls --json "+network)))
	}
}

// TestGatewayPCP makes mappings by PCP: with a nonce, filters and a description, for a time, renewed, ended, and over.
func TestGatewayPCP(t *testing.T) {
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostBridge, "--min-lifetime", "1s")
	b.start(t)
	one, far := b.one, b.far
	labtest.EchoUDP(t, one, "one", ":5000")
	c := b.dial(t, one)
	const wan = wanAddress + ":4000"
	m := pcpMap{nonce: "nonce nonce!", proto: unix.IPPROTO_UDP, internal: 5000, external: 4000, lifetime: 3600}

	described := m
	described.options = append([]byte{128, 0, 0, 4}, "game"...)
	got := described.send(t, c)
	assert.Equal(t, pcpMap{
		nonce: m.nonce, proto: m.proto, internal: 5000, external: 4000, lifetime: 3600, options: described.options,
		epoch: got.epoch, address: netip.MustParseAddr(wanAddress),
	}, got)
	b.reached(t, "udp", "4000", "one")
	assert.Contains(t, b.succeed(t, "ls"), fmt.Sprintf("pcp:%x game", m.nonce))

	other := m
	other.nonce = "another one!"
	assert.Equal(t, byte(2), other.send(t, c).result)
	other.lifetime = 0
	assert.Equal(t, byte(2), other.send(t, c).result)
	labtest.Reaches(t, far, "udp", wan, "one")

	filter := func(a string) []byte {
		raw := netip.MustParseAddr(a).As16()
		return append([]byte{3, 0, 0, 20, 0, 128, 0, 0}, raw[:]...)
	}
	filtered := m
	filtered.options = filter("45.0.0.77")
	got = filtered.send(t, c)
	assert.Zero(t, got.result)
	assert.Equal(t, filtered.options, got.options)
	b.closed(t, "udp", "4000")
	filtered.options = filter(farAddress)
	assert.Zero(t, filtered.send(t, c).result)
	labtest.Reaches(t, far, "udp", wan, "one")

	third := m
	third.internal = 5001
	raw := b.two.V4.As16()
	third.options = append([]byte{1, 0, 0, 16}, raw[:]...)
	assert.Equal(t, byte(5), third.send(t, c).result)

	taken := m
	taken.internal, taken.options = 5001, []byte{2, 0, 0, 0}
	assert.Equal(t, byte(11), taken.send(t, c).result)

	m.lifetime = 0
	assert.Zero(t, m.send(t, c).result)
	b.closed(t, "udp", "4000")

	// The number is kept for its client, over the other protocol too (RFC 6886 section 3.3).
	_, port, granted := b.dial(t, b.two).pmp(t, pmpTCP, 6000, 4000, 1)
	assert.NotEqual(t, uint16(4000), port)
	assert.Equal(t, uint32(1), granted)

	// The same port again, for two seconds, and renewed once.
	m.lifetime = 2
	assert.Equal(t, uint16(4000), m.send(t, c).external)
	labtest.Reaches(t, far, "udp", wan, "one")
	time.Sleep(1200 * time.Millisecond)
	assert.Zero(t, m.send(t, c).result)
	time.Sleep(1200 * time.Millisecond)
	labtest.Reaches(t, far, "udp", wan, "one")
	await(t, "the mapping to end", func() bool { return !answersSoon(far, wan) })
	assert.Equal(t, "[]", strings.TrimSpace(b.succeed(t, "ls --json")))
}

// answersSoon is whether anybody answers by UDP soon.
func answersSoon(ns *lab.NS, addr string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), labtest.Stretch(200*time.Millisecond))
	defer cancel()
	_, _, err := lab.Ask(ctx, ns, "udp", addr, netip.AddrPort{})
	return err == nil
}

// epochClient checks epochs as clients have to (RFC 6887 section 8.5).
type epochClient struct {
	client time.Time
	server uint32
}

// lost is whether an epoch says that leases were lost.
func (e *epochClient) lost(server uint32) bool {
	now := time.Now()
	lost := false
	if !e.client.IsZero() {
		client, served := int64(now.Sub(e.client)/time.Second), int64(server)-int64(e.server)
		lost = served < -1 || client+2 < served-served/16 || served+2 < client-client/16
	}
	e.client, e.server = now, server
	return lost
}

// TestGatewayRestart kills and starts the gateway and the daemon. Mappings go on, are renewed by their nonces, and the epoch
// says so. When all are purged, it says that.
func TestGatewayRestart(t *testing.T) {
	t.Parallel() // it waits
	b := newGatewayTestbed(t, lab.HostBridge)
	b.start(t)
	one, far := b.one, b.far
	labtest.EchoUDP(t, one, "one", ":5000")
	c := b.dial(t, one)
	m := pcpMap{nonce: "nonce nonce!", proto: unix.IPPROTO_UDP, internal: 5000, external: 4000, lifetime: 3600}
	var epoch epochClient
	require.Zero(t, m.send(t, c).result)
	c.aged(t, 3)
	first := m.send(t, c)
	require.Zero(t, first.result)
	epoch.lost(first.epoch)

	check := func() {
		t.Helper()
		labtest.Reaches(t, far, "udp", wanAddress+":4000", "one")
		other := m
		other.nonce = "another one!"
		assert.Equal(t, byte(2), other.send(t, c).result)
		again := m
		again.external = 4001
		got := again.send(t, c)
		assert.Zero(t, got.result)
		assert.Equal(t, uint16(4000), got.external)
		assert.False(t, epoch.lost(got.epoch), "epoch %d after %d", got.epoch, first.epoch)
	}
	killed(t, b.gateway)
	labtest.Reaches(t, far, "udp", wanAddress+":4000", "one")
	b.start(t)
	check()

	killed(t, b.serving)
	labtest.Reaches(t, far, "udp", wanAddress+":4000", "one")
	b.serving = b.serve(t)
	check()

	b.succeed(t, "purge")
	b.serving = b.serve(t)
	var got pcpMap
	await(t, "a mapping again", func() bool {
		got = m.send(t, c)
		return got.result == 0
	})
	assert.True(t, epoch.lost(got.epoch), "epoch %d after %d", got.epoch, first.epoch)
	labtest.Reaches(t, far, "udp", wanAddress+":4000", "one")
}

// announcement is a datagram to a group.
type announcement struct {
	at   time.Time
	from netip.AddrPort
	data []byte
}

// listenGroup collects what comes to a group and port 5350 on a client.
func listenGroup(t *testing.T, ns *lab.NS, group string) <-chan announcement {
	t.Helper()
	var pc net.PacketConn
	require.NoError(t, ns.Do(func() error {
		link, err := net.InterfaceByName(lab.MachineLink)
		if err != nil {
			return err
		}
		addr := &net.UDPAddr{IP: net.ParseIP(group), Port: 5350}
		network := "udp4"
		if addr.IP.To4() == nil {
			network, addr.Zone = "udp6", fmt.Sprint(link.Index)
		}
		lc := net.ListenConfig{}
		pc, err = lc.ListenPacket(context.Background(), network, addr.String())
		return err
	}))
	t.Cleanup(func() { assert.NoError(t, pc.Close()) })
	heard := make(chan announcement, 100)
	go func() {
		defer close(heard)
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			udp, _ := from.(*net.UDPAddr)
			heard <- announcement{time.Now(), udp.AddrPort(), bytes.Clone(buf[:n])}
		}
	}()
	return heard
}

// TestGatewayAnnounces captures what the gateway announces when it starts and when the WAN's address changes, and what
// it tells each client then.
func TestGatewayAnnounces(t *testing.T) {
	b := newGatewayTestbed(t, lab.HostBridge)
	heard4, heard6 := listenGroup(t, b.one, "224.0.0.1"), listenGroup(t, b.one, "ff02::1")
	b.start(t)
	check := func(wan string) {
		t.Helper()
		address := netip.MustParseAddr(wan).As4()
		var times []time.Time
		pcp := 0
		for len(times) < 3 || pcp < 3 {
			select {
			case a := <-heard4:
				assert.Equal(t, netip.MustParseAddrPort(b.address+":5351"), a.from)
				switch {
				case len(a.data) == 12 && bytes.Equal(a.data[:4], []byte{0, 128, 0, 0}) && bytes.Equal(a.data[8:], address[:]):
					times = append(times, a.at)
				case len(a.data) == 24 && bytes.Equal(a.data[:8], []byte{2, 128, 0, 0, 0, 0, 0, 0}):
					pcp++
				case len(times) > 0:
					assert.Fail(t, "another announcement", "%x", a.data)
				}
			case <-time.After(10 * time.Second):
				require.Fail(t, "no announcement")
			}
		}
		// The second follows after 250 ms, the third after 500 ms more; the machine may be busy.
		assert.InDelta(t, 250, times[1].Sub(times[0]).Milliseconds(), 200)
		assert.InDelta(t, 500, times[2].Sub(times[1]).Milliseconds(), 300)
		a := <-heard6
		assert.True(t, a.from.Addr().IsLinkLocalUnicast())
		assert.Equal(t, uint16(5351), a.from.Port())
		assert.Len(t, a.data, 24)
	}
	check(wanAddress)

	c := b.dial(t, b.one)
	m := pcpMap{nonce: "nonce nonce!", proto: unix.IPPROTO_UDP, internal: 5000, external: 4000, lifetime: 3600}
	require.Zero(t, m.send(t, c).result)
	c.aged(t, 3)
	var epoch epochClient
	epoch.lost(m.send(t, c).epoch)
	labtest.EchoUDP(t, b.one, "one", ":5000")
	labtest.Reaches(t, b.far, "udp", wanAddress+":4000", "one")

	labtest.Exec(t, b.ns, "ip", "addr", "del", wanAddress+"/24", "dev", lab.HostFar)
	labtest.Exec(t, b.ns, "ip", "addr", "add", "45.0.0.9/24", "dev", lab.HostFar)
	check("45.0.0.9")
	told := readPCPMap(t, c.read(t, 5*time.Second))
	for told.address.String() == wanAddress { // an answer to a request that was sent again
		told = readPCPMap(t, c.read(t, 5*time.Second))
	}
	assert.Zero(t, told.result)
	assert.Equal(t, "45.0.0.9", told.address.String())
	assert.Equal(t, m.nonce, told.nonce)
	assert.Equal(t, uint16(4000), told.external)
	assert.True(t, epoch.lost(told.epoch))
	labtest.Reaches(t, b.far, "udp", "45.0.0.9:4000", "one")
}

// TestGatewaySilent asks where nobody may be answered: at the WAN, at the WAN's address from the LAN, at a group, and from a
// source that is not on link.
func TestGatewaySilent(t *testing.T) {
	b := newGatewayTestbed(t, lab.HostBridge)
	b.start(t)
	one, far := b.one, b.far
	// What is answered to this source would come to the client.
	labtest.Exec(t, one, "ip", "addr", "add", "203.0.113.7/32", "dev", "lo")
	labtest.Exec(t, b.ns, "ip", "route", "add", "203.0.113.7/32", "via", one.V4.String())
	labtest.Exec(t, far, "ip", "route", "add", "172.30.0.0/24", "via", wanAddress)
	require.NoError(t, b.ns.Sysctl("net.ipv4.conf.all.rp_filter", "0"))
	require.NoError(t, b.ns.Sysctl("net.ipv4.conf."+lab.HostBridge+".rp_filter", "0"))
	forged := netip.MustParseAddrPort("203.0.113.7:0")
	for name, c := range map[string]*portClient{
		"from the WAN":                               dialGateway(t, far, wanAddress, netip.AddrPort{}),
		"from the WAN to the address of the LAN":     dialGateway(t, far, b.address, netip.AddrPort{}),
		"from the LAN to the address of the WAN":     dialGateway(t, one, wanAddress, netip.AddrPort{}),
		"from another network by the device":         dialGateway(t, one, b.address, forged),
		"from another network to the address of WAN": dialGateway(t, one, wanAddress, forged),
	} {
		client := c.addr.As16()
		for range 3 {
			for _, q := range [][]byte{
				{0, 0}, {0, 1, 0, 0, 0x13, 0x88, 0x13, 0x88, 0, 0, 0x0e, 0x10}, append([]byte{2, 0, 0, 0, 0, 0, 0, 0}, client[:]...), {3, 0},
			} {
				_, _ = c.Write(q) // refused by ICMP, or not
			}
		}
		assert.Nil(t, c.read(t, labtest.Stretch(200*time.Millisecond)), name)
	}
	pc, err := one.ListenPacket("udp4", ":0")
	require.NoError(t, err)
	defer func() { assert.NoError(t, pc.Close()) }()
	_, err = pc.WriteTo([]byte{0, 0}, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 1), Port: 5351})
	require.NoError(t, err)
	require.NoError(t, pc.SetReadDeadline(time.Now().Add(labtest.Stretch(200*time.Millisecond))))
	_, _, err = pc.ReadFrom(make([]byte, 100))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	assert.Equal(t, "[]", strings.TrimSpace(b.succeed(t, "ls --json")))

	// It answers where it should: over IPv6 too, which has no NAT-PMP.
	c6 := dialGateway(t, one, b.address6, netip.AddrPort{})
	client := c6.addr.As16()
	assert.Equal(t, byte(0), c6.ask(t, append([]byte{2, 0, 0, 0, 0, 0, 0, 0}, client[:]...))[3])
	assert.Equal(t, []byte{2, 128, 0, 1}, c6.ask(t, []byte{0, 0})[:4])
}

// envDatagrams is how many datagrams TestGatewayManyDatagrams sends.
const envDatagrams = "NFTNAT_DATAGRAMS"

// TestGatewayManyDatagrams sends requests in which some bytes are random, one behind another, and reads the answers. Each is
// small and has the form of an answer, the process goes on, and writes next to nothing.
func TestGatewayManyDatagrams(t *testing.T) {
	n := labtest.Number(t, envDatagrams, 2000)
	b := newGatewayTestbed(t, lab.HostBridge, "--quota", "1000000")
	b.start(t) // with the quota grows how much a client may send
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := b.dial(t, b.one)
	client := c.addr.As16()
	valid := [][]byte{
		{0, 0}, {0, 1, 0, 0, 0x13, 0x88, 0x13, 0x88, 0, 0, 0x0e, 0x10}, {0, 2, 0, 0, 0x13, 0x88, 0x13, 0x88, 0, 0, 0, 0},
		slices.Concat([]byte{2, 0, 0, 0, 0, 0, 0, 0}, client[:]),
		slices.Concat([]byte{2, 1, 0, 0, 0, 0, 0x0e, 0x10}, client[:], []byte("nonce nonce!"), []byte{17, 0, 0, 0, 0x13, 0x89, 0x13, 0x89}, make([]byte, 16)),
		slices.Concat([]byte{2, 1, 0, 0, 0, 0, 0x0e, 0x10}, client[:], []byte("nonce nonce!"), []byte{6, 0, 0, 0, 0x13, 0x89, 0x13, 0x89}, make([]byte, 16),
			[]byte{3, 0, 0, 20, 0, 120, 0, 0}, client[:], []byte{2, 0, 0, 0, 128, 0, 0, 4, 'g', 'a', 'm', 'e'}),
	}
	answered, sent, began := 0, 0, time.Now()
	read := func() bool {
		a := c.read(t, 20*time.Millisecond)
		if a == nil {
			return false
		}
		answered++
		require.GreaterOrEqual(t, len(a), 8)
		require.LessOrEqual(t, len(a), 1100)
		require.NotZero(t, a[1]&0x80)
		require.Contains(t, []byte{0, 2}, a[0])
		return true
	}
	for sent < n {
		for range min(256, n-sent) {
			q := bytes.Clone(valid[random.IntN(len(valid))])
			// Requests about one port wait for one another, and too many are dropped: they are about many.
			if at := map[int]int{12: 4, 60: 40, 96: 40}[len(q)]; at != 0 {
				binary.BigEndian.PutUint16(q[at:], uint16(5000+random.IntN(500)))
			}
			for range random.IntN(5) {
				switch at := random.IntN(len(q)); random.IntN(6) {
				case 0:
					q = q[:at+1]
				case 1:
					q = append(q, q[at:]...)
				default:
					q[at] = byte(random.Uint32())
				}
			}
			_, err := c.Write(q[:min(len(q), 1400)])
			require.NoError(t, err)
			sent++
		}
		for read() && answered < sent {
		}
	}
	assert.Positive(t, answered)
	t.Logf("%d of %d datagrams were answered", answered, sent)
	await(t, "an answer after all", func() bool {
		for read() {
		}
		a := c.try(t, []byte{0, 0})
		return len(a) == 12 && a[1] == 0x80
	})
	assert.LessOrEqual(t, strings.Count(b.gateway.Output(), "\n"), 10+int(time.Since(began)/time.Second))
}
