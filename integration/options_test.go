// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// serving opens an engine with proxies in a namespace and runs it until the test ends.
func serving(t *testing.T, ns *lab.NS) *engine.Engine {
	t.Helper()
	return servingBy(t, ns, engine.LoopbackAuto)
}

func servingBy(t *testing.T, ns *lab.NS, loopback engine.Loopback) *engine.Engine {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Options{NetNS: ns.Path(), NoOwner: true, Loopback: loopback})
	require.NoError(t, err)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		if err := e.Close(); !errors.Is(err, nat.ErrClosed) {
			require.NoError(t, err)
		}
	})
	return e
}

func replace(t *testing.T, e *engine.Engine, ms ...nat.Mapping) {
	t.Helper()
	_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, ms...)
	require.NoError(t, err)
}

// from gives a mapping the clients that may reach it.
func from(t *testing.T, text string, sources ...string) nat.Mapping {
	t.Helper()
	m := mapping(t, text)
	var err error
	m.From, err = nat.ParseSources(sources...)
	require.NoError(t, err)
	return m
}

// forget removes the default routes of a machine: it answers only its own network.
func forget(t *testing.T, ns *lab.NS) {
	t.Helper()
	labtest.Exec(t, ns, "ip", "-4", "route", "flush", "default")
	labtest.Exec(t, ns, "ip", "-6", "route", "flush", "default")
}

// A backend without a way back to the clients is served with masquerade, or by a proxy only.
func TestNoWayBack(t *testing.T) {
	labtest.LongOnly(t, "backends without a route back, whom time-outs tell apart")
	t.Parallel() // it waits
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	forget(t, top.Backend1)
	e := serving(t, top.Host)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend1", ":80")
	}
	for _, f := range families(top) {
		for kind, host := range map[string]netip.Addr{"any": {}, "one address": f.host, "one family": f.wildcard} {
			for _, network := range []string{"tcp", "udp"} {
				t.Run(f.name+"/"+kind+"/"+network, func(t *testing.T) {
					m := mapping(t, toward(host, 8080, 8080)+"->"+at(f.backend1, 80)+suffix(network))
					publish(t, e, m.String())
					require.NoError(t, silent(top.Client, network, at(f.host, 8080))(silence))
					before := sortedElements(t, top.Host)
					for name, with := range map[string]func(*nat.Mapping){
						"masquerade": func(m *nat.Mapping) { m.Masquerade = true },
						"proxy only": func(m *nat.Mapping) { m.ProxyOnly = true },
					} {
						other := m
						with(&other)
						replace(t, e, other)
						require.Equal(t, []nat.Mapping{other}, must(e.Mappings(t.Context())))
						for who, ns := range map[string]*lab.NS{"client": top.Client, "sibling": top.Backend2, "host": top.Host} {
							peer := f.gateway
							if who == "host" {
								peer = anybody
							}
							require.NoError(t, reaches(ns, network, at(f.host, 8080), "backend1", peer)(answerTimeout), "%s, %s", name, who)
						}
						if kind == "any" {
							for _, o := range families(top) { // a proxy serves the other one
								require.NoError(t, reaches(top.Client, network, at(o.host, 8080), "backend1", f.gateway)(answerTimeout), name)
							}
						}
						require.NotEqual(t, before, sortedElements(t, top.Host), "the table says it")
						replace(t, e, m)
						require.Equal(t, before, sortedElements(t, top.Host))
					}
					unpublish(t, e, m.String())
				})
			}
		}
	}
}

// A UDP client that keeps its port is masqueraded from the next datagram on, and not any more
// when that is taken back.
func TestMasqueradeFollows(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoUDP(t, top.Backend1, "backend", ":53")
	e := serving(t, top.Host)
	for _, f := range families(top) {
		m := mapping(t, "53->"+at(f.backend1, 53)+"/udp")
		publish(t, e, m.String())
		flow := dialFlow(t, top.Client, "udp", at(f.host, 53))
		require.Equal(t, "backend", flow.name(t))
		for _, masqueraded := range []bool{true, false} {
			m.Masquerade = masqueraded
			replace(t, e, m)
			require.Equal(t, "backend", flow.name(t))
			lines := tracked(t, top.Host, "udp", f.client)
			seen := slices.ContainsFunc(lines, func(line string) bool {
				return strings.Contains(line, "src="+f.backend1.String()+" dst="+f.gateway.String()+" ")
			})
			require.Equal(t, masqueraded, seen, "%v", lines)
		}
		unpublish(t, e, m.String())
	}
}

// Mappings of which netfilter cannot tell the flows apart agree on masquerade.
func TestMasqueradeConflict(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.serve(t)
	s.succeed(t, "add tcp 8080 172.30.0.2:80 --masquerade --name first")
	s.succeed(t, "add tcp 8081 172.30.0.2:80 --masquerade")
	s.succeed(t, "add tcp 8082 172.30.0.2:81")
	s.succeed(t, "add udp 8080 172.30.0.2:80")
	before := s.succeed(t, "export")
	for _, line := range []string{"add tcp 9090 172.30.0.2:80", "add tcp 192.0.2.1:9090 172.30.0.2:80", "add tcp 0 172.30.0.2:80", "add --replace tcp 8082 172.30.0.2:80"} {
		r := s.run(t, line)
		require.Equal(t, 3, r.Code, "%s: %s", line, r.Stderr)
		require.Contains(t, r.Stderr, "is published as 808")
		require.Contains(t, r.Stderr, "which leads to the same port of the backend and is masqueraded; both have to be, or neither")
	}
	r := s.run(t, "add --replace tcp 8080 172.30.0.2:80")
	require.Equal(t, 3, r.Code)
	require.Contains(t, r.Stderr, "tcp 8081 is published as 8081->172.30.0.2:80")
	require.Equal(t, before, s.succeed(t, "export"))
	s.succeed(t, "rm tcp 8081")
	s.succeed(t, "add --replace tcp 8080 172.30.0.2:80")
	// Those for different addresses need not agree.
	s.succeed(t, "add tcp 192.0.2.1:7070 172.30.0.2:82 --masquerade")
	s.succeed(t, "add tcp 192.0.2.9:7070 172.30.0.2:82")
	require.Equal(t, 3, s.run(t, "add tcp 7071 172.30.0.2:82").Code)
	s.succeed(t, "purge")
}

// limitedTo are the ports of a test of --from, by who serves clients from elsewhere.
func limitedTo(t *testing.T, f family, network string, host netip.Addr, sources ...string) map[string]nat.Mapping {
	t.Helper()
	to := "->" + at(f.backend1, 80) + suffix(network)
	ms := map[string]nat.Mapping{}
	for i, way := range []string{"netfilter", "no proxy", "proxy only"} {
		m := from(t, toward(host, 8080+i, 8080+i)+to, sources...)
		m.NoProxy, m.ProxyOnly = way == "no proxy", way == "proxy only"
		ms[way] = m
	}
	return ms
}

// Only the clients that may reach a port reach it, and those on the host.
func TestFrom(t *testing.T) {
	labtest.LongOnly(t, "clients of every kind, whom time-outs tell apart")
	t.Parallel() // it waits
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartNeighbour})
	e := serving(t, top.Host)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend1", ":80")
	}
	for _, f := range families(top) {
		others := slices.DeleteFunc(families(top), func(o family) bool { return o.name == f.name })
		other := others[0]
		for kind, host := range map[string]netip.Addr{"any": {}, "one address": f.host, "one family": f.wildcard} {
			for _, network := range []string{"tcp", "udp"} {
				t.Run(f.name+"/"+kind+"/"+network, func(t *testing.T) {
					sources := []string{f.client.String(), f.backend2.String()}
					ms := limitedTo(t, f, network, host, sources...)
					var all []nat.Mapping
					for _, m := range ms {
						all = append(all, m)
					}
					_, err := e.Publish(t.Context(), nat.PublishOptions{}, all...)
					require.NoError(t, err)
					for way, m := range ms {
						port := int(m.Frontend.Port())
						require.NoError(t, reaches(top.Client, network, at(f.host, port), "backend1", anybody)(answerTimeout), way)
						require.NoError(t, reaches(top.Backend2, network, at(f.host, port), "backend1", anybody)(answerTimeout), way)
						require.NoError(t, reaches(top.Host, network, at(f.host, port), "backend1", anybody)(answerTimeout), way)
						noAnswers(t, top.Neighbour, network, at(f.host, port), at(f.second, port))
						if kind == "any" { // of the other family nobody may
							noAnswers(t, top.Client, network, at(other.host, port))
							if way != "no proxy" {
								localhost := map[int]netip.Addr{32: loopback4, 128: loopback6}[f.bits]
								require.NoError(t, reaches(top.Host, network, at(localhost, port), "backend1", anybody)(answerTimeout), way)
							}
						}
					}
					if kind == "any" && network == "udp" {
						m := ms["netfilter"]
						m.From, err = nat.ParseSources(f.client.String(), other.client.String())
						require.NoError(t, err)
						replace(t, e, m)
						require.NoError(t, reaches(top.Client, network, at(other.host, 8080), "backend1", anybody)(answerTimeout), "by a proxy")
						noAnswers(t, top.Neighbour, network, at(other.host, 8080))
					}
					require.Len(t, nat.Collapse(must(e.Mappings(t.Context()))), len(all))
					_, err = e.Remove(t.Context(), nat.Removal{Mappings: all})
					require.NoError(t, err)
					require.Empty(t, sortedElements(t, top.Host))
				})
			}
		}
	}
}

// A broadcast reaches a backend by the proxy, and only from those who may reach the port, or the range.
func TestFromByBroadcast(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour})
	r := record(t, top.Backend1, ":27015")
	e := servingBy(t, top.Host, engine.LoopbackProxy) // which has a socket for each port of a range
	for _, text := range []string{"27015->172.30.0.2:27015/udp", "27000-27099->172.30.0.2:27000-27099/udp"} {
		m := from(t, text, top.Client.V4.String())
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
		require.NoError(t, err)
		const to = "192.0.2.255:27015"
		refused := seek(t, top.Neighbour, ":0").send(t, to)
		asked := seek(t, top.Client, ":0").send(t, to)
		await(t, "the broadcast of the client: "+text, func() bool { return len(r.senders(asked)) == 1 })
		require.Empty(t, r.senders(refused), text)
		_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}})
		require.NoError(t, err)
	}
}

// A change of who may reach a port ends the UDP flows of those who may not any more at once,
// and their TCP connections if they are to be killed; the others go on.
func TestFromFollows(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour})
	e := serving(t, top.Host)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend1", ":80")
	}
	for _, f := range families(top) {
		for _, network := range []string{"tcp", "udp"} {
			for _, proxied := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/proxied=%t", f.name, network, proxied), func(t *testing.T) {
					m := mapping(t, "8080->"+at(f.backend1, 80)+suffix(network))
					m.ProxyOnly = proxied
					_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
					require.NoError(t, err)
					stays, ends := dialFlow(t, top.Client, network, at(f.host, 8080)), dialFlow(t, top.Neighbour, network, at(f.host, 8080))
					own := dialFlow(t, top.Host, network, at(f.host, 8080))
					for _, flow := range []*flow{stays, ends, own} {
						require.Equal(t, "backend1", flow.name(t))
					}
					m.From, err = nat.ParseSources(f.client.String())
					require.NoError(t, err)
					replace(t, e, m)
					if network == "tcp" {
						_, err := ends.ask()
						require.NoError(t, err, "it goes on")
						m.From, err = nat.ParseSources(f.client.String(), "203.0.113.0/24", "2001:db8:f::/48")
						require.NoError(t, err)
						_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true, Kill: true}, m)
						require.NoError(t, err)
					}
					require.NoError(t, ends.ended())
					for _, flow := range []*flow{stays, own} {
						_, err := flow.ask()
						require.NoError(t, err)
					}
					require.NoError(t, silent(top.Neighbour, network, at(f.host, 8080))(silence))
					_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}, Kill: true})
					require.NoError(t, err)
				})
			}
		}
	}
}

// ended returns an error if what the flow sends is answered within the silence.
func (f *flow) ended() error {
	if err := f.conn.SetDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	if _, err := f.conn.Write([]byte("still there?\n")); err != nil {
		return nil //nolint:nilerr // the connection was reset
	}
	if n, err := f.conn.Read(make([]byte, 512)); err == nil {
		return fmt.Errorf("%d bytes came back", n)
	}
	return nil
}

// However many datagrams come from whatever sources, none that may not gets in: not while the
// port is published, replaced, or the table is flushed and repaired.
func TestFromUnderFlood(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour})
	labtest.Exec(t, top.Host, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.lan0.rp_filter=0")
	backend, err := top.Backend1.ListenPacket("udp", ":53")
	require.NoError(t, err)
	t.Cleanup(func() { _ = backend.Close() })
	var got, wrong atomic.Int64
	go func() {
		buf := make([]byte, 64)
		for {
			n, _, err := backend.ReadFrom(buf)
			if err != nil {
				return
			}
			if got.Add(1); string(buf[:n]) == "wrong" {
				wrong.Add(1)
			}
		}
	}()
	for i := 10; i < 30; i++ { // spoofed ones, as far as the network is concerned
		labtest.Exec(t, top.Neighbour, "ip", "addr", "add", fmt.Sprintf("192.0.2.%d/24", i), "dev", lab.MachineLink)
	}
	e := serving(t, top.Host)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			local := &net.UDPAddr{IP: net.IPv4(192, 0, 2, byte(10+i%20))}
			flood(top.Neighbour, local, at(top.Host.V4, 53), "wrong")
		}
	}()
	allowed := func(m nat.Mapping) nat.Mapping {
		m.From, err = nat.ParseSources("192.0.2.2")
		require.NoError(t, err)
		return m
	}
	for _, way := range []string{"netfilter", "proxy only"} {
		for range 5 {
			m := allowed(mapping(t, "53->172.30.0.2:53/udp"))
			m.ProxyOnly = way == "proxy only"
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
			require.NoError(t, err)
			for i := range 4 {
				m.Name = fmt.Sprint("n", i)
				replace(t, e, m)
				m.Expires = time.Now().Add(time.Duration(i+2) * time.Minute).Truncate(time.Millisecond)
				replace(t, e, m)
				flood(top.Client, nil, at(top.Host.V4, 53), "right")
			}
			_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}})
			require.NoError(t, err)
		}
	}
	close(stop)
	<-done
	require.NotZero(t, got.Load())
	require.Zero(t, wrong.Load(), "of %d", got.Load())
}

// flood sends a few datagrams from a new port.
func flood(ns *lab.NS, local *net.UDPAddr, addr, text string) {
	from := netip.AddrPort{}
	if local != nil {
		from = netip.AddrPortFrom(netip.MustParseAddr(local.IP.String()), 0)
	}
	c, err := ns.DialFrom(context.Background(), "udp", addr, from)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	for range 10 {
		_, _ = c.Write([]byte(text))
	}
}

// What mappings are for outlives the daemon: a kill, a restart, a flush, and a file for
// reboots.
func TestOptionsOutliveTheDaemon(t *testing.T) {
	labtest.LongOnly(t, "options of mappings after kills, flushes and restarts")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour})
	forget(t, top.Backend1)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend1", ":80")
	}
	s := newTestbed(t, top.Host)
	file := t.TempDir() + "/state"
	serve := func() *labtest.Process { return s.serve(t, "--no-owner", "--state", file) }
	daemon := serve()
	s.succeed(t, "add tcp 8080 172.30.0.2:80 --masquerade --from 192.0.2.2 --from 2001:db8:1::2")
	s.succeed(t, "add udp 8080 172.30.0.2:80 --proxy-only --from 192.0.2.2 --name dns")
	s.succeed(t, "add udp 9000-9009 [fd00:30::2]:80-89 --masquerade")
	s.succeed(t, "add tcp 192.0.2.9:7000 172.30.0.2:81 --proxy-only")
	before, elements := s.succeed(t, "export"), sortedElements(t, top.Host)
	require.Contains(t, before, `{mapping: "8080->172.30.0.2:80", masquerade: true, from: ["192.0.2.2/32", "2001:db8:1::2/128"]}`)
	check := func(what string) {
		t.Helper()
		require.Equal(t, before, s.succeed(t, "export"), what)
		require.Equal(t, elements, sortedElements(t, top.Host), what)
		for _, network := range []string{"tcp", "udp"} {
			require.NoError(t, reaches(top.Client, network, "192.0.2.1:8080", "backend1", top.Gateway4)(answerTimeout), what)
			noAnswers(t, top.Neighbour, network, "192.0.2.1:8080", "[2001:db8:1::1]:8080")
		}
		require.NoError(t, reaches(top.Client, "tcp", "[2001:db8:1::1]:8080", "backend1", top.Gateway4)(answerTimeout), what)
		require.NoError(t, reaches(top.Client, "udp", "[2001:db8:1::1]:9000", "backend1", top.Gateway6)(answerTimeout), what)
	}
	check("published")
	daemon.Kill()
	require.NoError(t, reaches(top.Client, "tcp", "192.0.2.1:8080", "backend1", top.Gateway4)(answerTimeout))
	noAnswers(t, top.Neighbour, "tcp", "192.0.2.1:8080")
	daemon = serve()
	check("after a kill")
	nft(t, top.Host, "flush", "ruleset")
	await(t, "the table to be repaired", func() bool {
		return slices.Equal(elements, sortedElements(t, top.Host))
	})
	check("after a flush")
	nft(t, top.Host, "flush", "set", "inet", "nftnat", "tcp4_from")
	nft(t, top.Host, "flush", "set", "inet", "nftnat", "limited")
	nft(t, top.Host, "flush", "set", "inet", "nftnat", "masquerade_to4")
	await(t, "the sets to be filled again", func() bool {
		return slices.Equal(elements, sortedElements(t, top.Host))
	})
	check("after a flush of the sets")
	require.NoError(t, daemon.Signal(unix.SIGTERM))
	require.Zero(t, daemon.Wait())
	nft(t, top.Host, "flush", "ruleset")
	serve()
	check("restored from the file")
	saved := t.TempDir() + "/saved.yaml"
	require.NoError(t, os.WriteFile(saved, []byte(before), 0o600))
	require.Empty(t, s.succeed(t, "apply -f "+saved))
	s.succeed(t, "purge")
	require.NotContains(t, nft(t, top.Host, "list", "ruleset"), "nftnat")
}

// What is left of an expired port goes with it, and renewing keeps it.
func TestOptionsExpire(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour})
	labtest.EchoTCP(t, top.Backend1, "backend1", ":80")
	e := serving(t, top.Host)
	m := from(t, "8080->172.30.0.2:80", "192.0.2.2")
	m.Masquerade = true
	for range 5 {
		m.Expires = time.Now().Add(time.Second).UTC().Truncate(time.Millisecond)
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
		require.NoError(t, err)
		require.NoError(t, reaches(top.Client, "tcp", "192.0.2.1:8080", "backend1", top.Gateway4)(answerTimeout))
		noAnswers(t, top.Neighbour, "tcp", "192.0.2.1:8080")
	}
	await(t, "the port and its options to go", func() bool {
		return slices.Equal(sortedElements(t, top.Host), elementsOf(nil, "172.30.0.0/24")) // a segment goes with the next change
	})
	labtest.EchoTCP(t, top.Host, "host", ":8080")
	require.NoError(t, reaches(top.Neighbour, "tcp", "192.0.2.1:8080", "host", anybody)(answerTimeout))
}

// A thousand mappings for some clients are elements: no rule more, and other ports are as
// fast as without.
func TestManyFrom(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour})
	labtest.EchoTCP(t, top.Backend1, "backend1", ":80")
	e := open(t, top.Host, engine.Options{})
	publish(t, e, "80->172.30.0.2:80")
	rules := func() int { return strings.Count(nft(t, top.Host, "-s", "list", "table", "inet", "nftnat"), "\n\t\t") }
	empty := strings.Count(nft(t, top.Host, "-st", "list", "table", "inet", "nftnat"), "\n")
	ms := make([]nat.Mapping, 1000)
	for i := range ms {
		ms[i] = from(t, fmt.Sprintf("%d->172.30.0.2:80", 10000+i), fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), "192.0.2.2", "2001:db8:1::2")
	}
	began := time.Now()
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, ms...)
	require.NoError(t, err)
	t.Logf("1,000 mappings with three prefixes each: %v; %d lines", time.Since(began), rules())
	require.Equal(t, empty, strings.Count(nft(t, top.Host, "-st", "list", "table", "inet", "nftnat"), "\n"), "no rule more")
	require.Equal(t, append(mappings(t, "80->172.30.0.2:80"), ms...), must(e.Mappings(t.Context())))
	for _, port := range []int{80, 10000, 10999} {
		require.NoError(t, reaches(top.Client, "tcp", at(top.Host.V4, port), "backend1", top.Client.V4)(answerTimeout))
	}
	noAnswers(t, top.Neighbour, "tcp", at(top.Host.V4, 10000), at(top.Host.V4, 10999))
	require.NoError(t, e.Close())
	again := open(t, top.Host, engine.Options{})
	require.Equal(t, append(mappings(t, "80->172.30.0.2:80"), ms...), must(again.Mappings(t.Context())))
	_, err = again.Apply(t.Context())
	require.NoError(t, err)
	require.Empty(t, sortedElements(t, top.Host))
}
