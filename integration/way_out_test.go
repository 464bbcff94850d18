// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// gamePort is a port that backends publish and send from.
const gamePort = 27015

// wayOutHost is a host with masqueraded networks, and an engine that runs.
func wayOutHost(t *testing.T) (*lab.Topology, *engine.Engine) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartFar})
	e, _ := runEngine(t, top.Host, engine.Options{})
	for _, n := range []nat.Network{{Name: "inside4", Prefix: top.Inside4}, {Name: "inside6", Prefix: top.Inside6}} {
		_, err := e.CreateNetwork(t.Context(), n)
		require.NoError(t, err)
	}
	return top, e
}

// farAddr is the host's address towards the far server.
func farAddr(f family) netip.Addr {
	if f.bits == 32 {
		return mustAddr("198.51.100.1")
	}
	return mustAddr("2001:db8:2::1")
}

// socket is a UDP socket of a machine.
type socket struct{ net.PacketConn }

func listen(t *testing.T, ns *lab.NS, addr string) socket {
	t.Helper()
	c, err := ns.ListenPacket("udp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return socket{c}
}

func (s socket) send(t *testing.T, to, text string) {
	t.Helper()
	_, err := s.WriteTo([]byte(text), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
	require.NoError(t, err)
}

// receive waits for a datagram of that text, and returns where it came from.
func (s socket) receive(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	require.NoError(t, s.SetReadDeadline(time.Now().Add(answerTimeout)))
	buf := make([]byte, 512)
	for {
		n, from, err := s.ReadFrom(buf)
		require.NoError(t, err, text)
		if string(buf[:n]) == text {
			ap := from.(*net.UDPAddr).AddrPort()
			return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		}
	}
}

// heartbeats sends from one socket to another, numbered.
type heartbeats struct {
	from, to socket
	addr     string
	sent     int
}

// seen returns where the next heartbeat comes from.
func (h *heartbeats) seen(t *testing.T) netip.AddrPort {
	t.Helper()
	h.sent++
	text := fmt.Sprint("heartbeat ", h.sent)
	h.from.send(t, h.addr, text)
	return h.to.receive(t, text)
}

// What a backend sends from its published port leaves by the frontend, from the next datagram
// on, as long as it is published, and of several by the lowest. All peers see the same.
func TestWayOutFollowsPublishing(t *testing.T) {
	top, e := wayOutHost(t)
	for _, f := range families(top) {
		for kind, host := range map[string]netip.Addr{"any": {}, "one family": f.wildcard, "one address": farAddr(f)} {
			t.Run(f.name+"/"+kind, func(t *testing.T) {
				game, other := listen(t, top.Backend1, at(f.backend1, gamePort)), listen(t, top.Backend2, at(f.backend2, gamePort))
				lists := []*heartbeats{}
				for _, port := range []int{27010, 27011} {
					lists = append(lists, &heartbeats{from: game, to: listen(t, top.Far, at(f.far, port)), addr: at(f.far, port)})
				}
				rival := &heartbeats{from: other, to: listen(t, top.Far, at(f.far, 27012)), addr: at(f.far, 27012)}
				random := func(h *heartbeats) {
					t.Helper()
					from := h.seen(t)
					require.Equal(t, farAddr(f), from.Addr())
					require.True(t, masqueradePort(from.Port()), from)
				}
				seen := func(port int) {
					t.Helper()
					for _, l := range lists {
						require.Equal(t, at(farAddr(f), port), l.seen(t).String())
					}
				}
				low := toward(host, 26999, 26999) + "->" + at(f.backend1, gamePort) + "/udp"
				mapped := toward(host, 27001, 27001) + "->" + at(f.backend1, gamePort) + "/udp"
				taken := toward(host, 27001, 27001) + "->" + at(f.backend2, gamePort) + "/udp"

				random(lists[0])
				publish(t, e, mapped)
				seen(27001)
				random(rival)
				publish(t, e, low)
				seen(26999)
				unpublish(t, e, low)
				seen(27001)

				_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, mapping(t, taken))
				require.NoError(t, err)
				random(lists[0])
				require.Equal(t, at(farAddr(f), 27001), rival.seen(t).String())
				lists[0].to.send(t, at(farAddr(f), 27001), "hello")
				require.Equal(t, at(f.far, 27010), other.receive(t, "hello").String(), "the flow of the old backend has ended")
				unpublish(t, e, taken)
				random(rival)
			})
		}
	}
}

// When the lowest frontend expires, the next takes its place within a second.
func TestWayOutFollowsExpiry(t *testing.T) {
	top, e := wayOutHost(t)
	f := families(top)[0]
	list := &heartbeats{from: listen(t, top.Backend1, at(f.backend1, gamePort)), to: listen(t, top.Far, at(f.far, 27010)), addr: at(f.far, 27010)}
	publish(t, e, "27001->"+at(f.backend1, gamePort)+"/udp")
	m := mapping(t, "26999->"+at(f.backend1, gamePort)+"/udp")
	m.Expires = time.Now().Add(time.Second)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
	require.NoError(t, err)
	require.Equal(t, uint16(26999), list.seen(t).Port())
	require.Eventually(t, func() bool {
		labtest.Exec(t, top.Host, "conntrack", "-F")
		return list.seen(t).Port() == 27001
	}, answerTimeout, 20*time.Millisecond)
	require.Less(t, time.Since(m.Expires), time.Second)
}

// A backend answers and begins flows by one port, with one client port, in either order.
func TestWayOutInEitherOrder(t *testing.T) {
	top, e := wayOutHost(t)
	for _, f := range families(top) {
		t.Run(f.name, func(t *testing.T) {
			m := toward(f.wildcard, 27001, 27001) + "->" + at(f.backend1, gamePort) + "/udp"
			publish(t, e, m)
			game, peer := listen(t, top.Backend1, at(f.backend1, gamePort)), listen(t, top.Far, at(f.far, 27010))
			frontend, second := at(farAddr(f), 27001), at(f.host, 27001)

			peer.send(t, frontend, "first")
			require.Equal(t, at(f.far, 27010), game.receive(t, "first").String())
			game.send(t, at(f.far, 27010), "begun")
			require.Equal(t, frontend, peer.receive(t, "begun").String())

			labtest.Exec(t, top.Host, "conntrack", "-F")
			game.send(t, at(f.far, 27010), "begun")
			require.Equal(t, frontend, peer.receive(t, "begun").String())
			peer.send(t, frontend, "answer")
			require.Equal(t, at(f.far, 27010), game.receive(t, "answer").String())

			// By another address of the host the client is another client.
			peer.send(t, second, "second")
			from := game.receive(t, "second")
			require.Equal(t, f.far, from.Addr())
			require.NotEqual(t, uint16(27010), from.Port())
			game.send(t, from.String(), "answer")
			require.Equal(t, second, peer.receive(t, "answer").String())
			unpublish(t, e, m)
		})
	}
}

// Over TCP, a connection from the published port has the frontend's, and a peer that opens one
// at the same time meets it.
func TestWayOutOverTCP(t *testing.T) {
	top, e := wayOutHost(t)
	for _, f := range families(top) {
		t.Run(f.name, func(t *testing.T) {
			labtest.EchoTCP(t, top.Far, "far", at(f.far, 27010))
			m := toward(f.wildcard, 27001, 27001) + "->" + at(f.backend1, gamePort)
			publish(t, e, m)
			_, peer, err := askWithin(top.Backend1, "tcp", at(f.far, 27010), netip.AddrPortFrom(f.backend1, gamePort), answerTimeout)
			require.NoError(t, err)
			require.Equal(t, at(farAddr(f), 27001), peer.String())
			unpublish(t, e, m)
		})
	}
}

// A frontend of one address is left by where the address is: not while the host does not have
// it, and by the interface that it moves to.
func TestWayOutFollowsAddress(t *testing.T) {
	labtest.LongOnly(t, "addresses that come and go")
	top, e := wayOutHost(t)
	for _, f := range families(top) {
		t.Run(f.name, func(t *testing.T) {
			shared, via := mustAddr("198.51.100.77"), "198.51.100.1"
			if f.bits == 128 {
				shared, via = mustAddr("2001:db8:2::77"), "2001:db8:2::1"
			}
			address := func(verb, link string) {
				labtest.Exec(t, top.Host, "ip", "address", verb, fmt.Sprintf("%s/%d", shared, f.bits), "dev", link)
			}
			labtest.Exec(t, top.Far, "ip", "route", "add", shared.String(), "via", via)
			publish(t, e, toward(shared, 27001, 27001)+"->"+at(f.backend1, gamePort)+"/udp")
			game := listen(t, top.Backend1, at(f.backend1, gamePort))
			list := &heartbeats{from: game, to: listen(t, top.Far, at(f.far, 27010)), addr: at(f.far, 27010)}
			becomes := func(want string) {
				t.Helper()
				require.Eventually(t, func() bool {
					from := list.seen(t)
					if want == "" {
						return from.Addr() == farAddr(f) && masqueradePort(from.Port())
					}
					return from.String() == want
				}, answerTimeout, 20*time.Millisecond, want)
			}
			becomes("")
			address("add", lab.HostFar)
			becomes(at(shared, 27001))
			address("del", lab.HostFar)
			becomes("")
			address("add", lab.HostLAN) // by another interface than the packet leaves by
			becomes("")
			address("del", lab.HostLAN)
			address("add", "lo") // for all interfaces
			becomes(at(shared, 27001))
		})
	}
}

// A network's masquerade is part of it: without a network, and where it is not masqueraded,
// nothing leaves by a frontend.
func TestWayOutOfNetworks(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartFar, Forwarding: true})
	e := open(t, top.Host, engine.Options{})
	labtest.Exec(t, top.Far, "ip", "route", "add", top.Inside4.String(), "via", "198.51.100.1")
	f := families(top)[0]
	publish(t, e, "27001->"+at(f.backend1, gamePort)+"/udp")
	game := listen(t, top.Backend1, at(f.backend1, gamePort))
	list := &heartbeats{from: game, to: listen(t, top.Far, at(f.far, 27010)), addr: at(f.far, 27010)}
	require.Equal(t, at(f.backend1, gamePort), list.seen(t).String(), "nothing is masqueraded")
	network := nat.Network{Name: "inside4", Prefix: top.Inside4}
	for range 2 {
		_, err := e.CreateNetwork(t.Context(), network)
		require.NoError(t, err)
		labtest.Exec(t, top.Host, "conntrack", "-F")
		require.Equal(t, at(farAddr(f), 27001), list.seen(t).String())
		require.NoError(t, e.RemoveNetwork(t.Context(), "inside4"))
		require.Equal(t, at(f.backend1, gamePort), list.seen(t).String(), "its flows have ended")
	}
	network.NoMasquerade = true
	_, err := e.CreateNetwork(t.Context(), network)
	require.NoError(t, err)
	require.Equal(t, at(f.backend1, gamePort), list.seen(t).String())
}

// The way out outlives daemons, and comes back with the table after a reboot and a flush. A
// command without a daemon does the same as one with it.
func TestWayOutOutlivesDaemons(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartFar})
	s := newTestbed(t, top.Host)
	path := stateFile(t)
	daemon := s.serve(t, "--state", path)
	s.succeed(t, "network create in4 172.30.0.0/24")
	s.succeed(t, "network create in6 fd00:30::/64")
	s.succeed(t, "attach game --network in4 --ip 172.30.0.2 -p 27001:27015/udp")
	s.succeed(t, "attach game6 --network in6 --ip fd00:30::2 -p [2001:db8:2::1]:27002:27015/udp")
	var lists []*heartbeats
	for _, f := range families(top) {
		lists = append(lists, &heartbeats{from: listen(t, top.Backend1, at(f.backend1, gamePort)), to: listen(t, top.Far, at(f.far, 27010)), addr: at(f.far, 27010)})
	}
	seen := func(when string) {
		t.Helper()
		labtest.Exec(t, top.Host, "conntrack", "-F")
		for i, f := range families(top) {
			require.Equal(t, at(farAddr(f), 27001+i), lists[i].seen(t).String(), when)
		}
	}
	seen("published")
	want := sortedElements(t, top.Host)
	daemon.Kill()
	seen("the daemon is killed")
	daemon = s.serve(t, "--state", path)
	seen("a daemon is there again")
	require.Equal(t, want, sortedElements(t, top.Host))
	daemon.Kill()
	nft(t, top.Host, "flush", "ruleset")
	s.serve(t, "--state", path)
	seen("restored")
	require.Equal(t, want, sortedElements(t, top.Host))
	s.succeed(t, "rm udp 27001")
	require.True(t, masqueradePort(lists[0].seen(t).Port()))
	s.succeed(t, "detach game6")
	require.True(t, masqueradePort(lists[1].seen(t).Port()))
	s.succeed(t, "purge")
}
