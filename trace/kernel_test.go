// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/nat"
)

// running is a Tracer that runs.
type running struct {
	tb     testing.TB
	tracer *Tracer
	mu     sync.Mutex
	events []Event
	stop   func()
}

// start runs a Tracer of a namespace until the test ends, or stop is called.
func start(tb testing.TB, ns *lab.NS, o Options) *running {
	tb.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(tb, err)
	o.NetNS = int(f.Fd())
	ctx, cancel := context.WithCancel(context.Background())
	tracer, err := Open(ctx, o)
	require.NoError(tb, err)
	r := &running{tb: tb, tracer: tracer}
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := tracer.Run(ctx, func(e Event) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
			return nil
		}); err != nil {
			tb.Error(err)
		}
	})
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			ended.Wait()
			if err := tracer.Close(); err != nil {
				tb.Error(err)
			}
			if err := f.Close(); err != nil {
				tb.Error(err)
			}
		})
	}
	tb.Cleanup(func() {
		r.stop()
		if tb.Failed() {
			tb.Log(r.text())
		}
	})
	return r
}

func (r *running) all() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.events)
}

func (r *running) text() string {
	var b strings.Builder
	for _, e := range r.all() {
		fmt.Fprintln(&b, Line(e))
	}
	return b.String()
}

// find returns an event of a kind that a condition holds for.
func find[E Event](r *running, is func(E) bool) (found E, ok bool) {
	for _, e := range r.all() {
		if e, ok := e.(E); ok && is(e) {
			return e, true
		}
	}
	return found, false
}

// wait waits for an event of a kind that a condition holds for.
func wait[E Event](r *running, what string, is func(E) bool) (found E) {
	r.tb.Helper()
	require.Eventually(r.tb, func() (ok bool) {
		found, ok = find(r, is)
		return ok
	}, labtest.Stretch(8*time.Second), 5*time.Millisecond, what)
	return found
}

// waitSending is wait that sends, and sends again if nothing comes of it: on a busy machine, a connection may
// be given up before its first packet is sent.
func waitSending[E Event](r *running, what string, is func(E) bool, send func()) E {
	r.tb.Helper()
	for range 10 {
		send()
		for began := time.Now(); time.Since(began) < time.Second; time.Sleep(5 * time.Millisecond) {
			if found, ok := find(r, is); ok {
				return found
			}
		}
	}
	return wait(r, what, is)
}

// reasons reports whether drop reasons are known.
func (r *running) reasons() bool { return r.tracer.drops != nil && r.tracer.drops.HasReasons() }

// frontend is what is traced.
func frontend(tb testing.TB, proto nat.Proto, text string) []nat.Mapping {
	tb.Helper()
	addr, more, err := nat.ParseFrontend(text)
	require.NoError(tb, err)
	return []nat.Mapping{{Proto: proto, Frontend: addr, More: more}}
}

// publish translates port 8080 of the host to port 80 of the first backend, TCP and UDP of both families.
const publish = `table inet publish {
	chain pre {
		type nat hook prerouting priority dstnat
		fib daddr type local meta nfproto ipv4 meta l4proto { tcp, udp } th dport 8080 dnat ip to 172.30.0.2:80
		fib daddr type local meta nfproto ipv6 meta l4proto { tcp, udp } th dport 8080 dnat ip6 to [fd00:30::2]:80
	}
}
`

// published is a topology with a backend and a rule that publishes it.
func published(tb testing.TB, o lab.Options) *lab.Topology {
	tb.Helper()
	o.Forwarding = true
	top := labtest.NewTopology(tb, o)
	labtest.EchoTCP(tb, top.Backend1, "backend1", ":80")
	labtest.EchoUDP(tb, top.Backend1, "backend1", ":80")
	labtest.ExecInput(tb, top.Host, publish, "nft", "-f", "-")
	return top
}

// send sends the first packet of a connection, and does not wait for an answer.
func send(tb testing.TB, ns *lab.NS, network, addr string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	c, err := ns.Dial(ctx, network, addr)
	if err != nil {
		return
	}
	_, _ = c.Write([]byte("hello\n")) // whether it arrives is the question
	_ = c.Close()
}

// rule is a table with one rule.
func rule(family, hook, rule string) string {
	return fmt.Sprintf("table %s corpwall {\n chain passing {\n type filter hook %s priority 5\n %s\n }\n}\n", family, hook, rule)
}

// TestFates sends real packets to what stops them.
func TestFates(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1 | lab.PartFar})
	const addr, addr6 = "192.0.2.1:8080", "[2001:db8:1::1]:8080"
	ip := func(args ...string) func(testing.TB) {
		return func(tb testing.TB) { tb.Helper(); labtest.Exec(tb, top.Host, "ip", args...) }
	}
	nft := func(text string) func(testing.TB) {
		return func(tb testing.TB) { tb.Helper(); labtest.ExecInput(tb, top.Host, text, "nft", "-f", "-") }
	}
	gone := func(family string) func(testing.TB) { return nft("delete table " + family + " corpwall\n") }
	sysctl := func(name, value string) func(testing.TB) {
		return func(tb testing.TB) { tb.Helper(); require.NoError(tb, top.Host.Sysctl(name, value)) }
	}
	tests := []struct {
		name         string
		inject, undo func(testing.TB)
		network      string // empty: tcp
		to           string // empty: the address of IPv4
		answer       bool   // it is the answer that is asked about
		fate         Fate
		text         string // without eBPF: up to ": "
		reason       string
	}{
		{name: "passes", fate: Left, text: "left by br0 to 172.30.0.2:80"},
		{name: "passes, IPv6", to: addr6, fate: Left, text: "left by br0 to [fd00:30::2]:80"},
		{name: "passes, UDP", network: "udp", fate: Left, text: "left by br0 to 172.30.0.2:80"},
		{name: "is answered", answer: true, fate: Left, text: "left by lan0 to 192.0.2.2:PORT from 192.0.2.1:8080"},
		{
			name: "a rule drops", inject: nft(rule("inet", "forward", "tcp dport 80 counter drop")), undo: gone("inet"),
			fate: Dropped, text: "dropped in forward by inet corpwall passing: tcp dport 80 counter drop",
		},
		{
			name: "a policy drops", inject: nft(rule("ip", "forward", "policy drop; ct state established accept")), undo: gone("ip"),
			fate: Dropped, text: "dropped in forward by ip corpwall passing: policy drop",
		},
		{
			name: "a rule rejects", inject: nft(rule("inet", "forward", "tcp dport 80 reject with tcp reset")), undo: gone("inet"),
			fate: Dropped, text: "dropped in forward by inet corpwall passing: tcp dport 80 reject with tcp reset",
		},
		{
			name: "the answer is dropped", inject: nft(rule("inet", "forward", `iifname "br0" drop`)), undo: gone("inet"),
			answer: true, fate: Dropped, text: `dropped in forward by inet corpwall passing: iifname "br0" drop`,
		},
		{
			name: "netdev drops", inject: nft(rule("netdev", "ingress device lan0", "tcp dport 8080 drop")), undo: gone("netdev"),
			fate: Dropped, text: "dropped in ingress by netdev corpwall passing: tcp dport 8080 drop",
		},
		{
			name: "netdev drops, IPv6", inject: nft(rule("netdev", "ingress device lan0", "udp dport 8080 drop")), undo: gone("netdev"),
			network: "udp", to: addr6, fate: Dropped, text: "dropped in ingress by netdev corpwall passing: udp dport 8080 drop",
		},
		{
			name: "netdev drops the answer", inject: nft(rule("netdev", "ingress device port1", "tcp sport 80 drop")), undo: gone("netdev"),
			answer: true, fate: Dropped, text: "dropped in ingress by netdev corpwall passing: tcp sport 80 drop",
		},
		{
			name: "a bridge table drops", inject: nft(rule("bridge", "output", "ip daddr 172.30.0.2 drop")), undo: gone("bridge"),
			fate: Dropped, text: "dropped in output by bridge corpwall passing: ip daddr 172.30.0.2 drop",
		},
		{
			name: "forwarding off", inject: sysctl("net.ipv4.ip_forward", "0"), undo: sysctl("net.ipv4.ip_forward", "1"),
			fate: Dropped, text: "dropped in routing, behind prerouting", reason: "IP_INADDRERRORS",
		},
		{
			name: "blackhole", inject: ip("route", "add", "blackhole", "172.30.0.2/32"), undo: ip("route", "del", "blackhole", "172.30.0.2/32"),
			fate: Dropped, text: "dropped in routing, behind prerouting", reason: "NOT_SPECIFIED",
		},
		{
			name: "rp_filter",
			inject: func(tb testing.TB) {
				tb.Helper()
				ip("route", "add", "192.0.2.2/32", "dev", "far0")(tb)
				sysctl("net.ipv4.conf.lan0.rp_filter", "1")(tb)
			},
			undo: func(tb testing.TB) {
				tb.Helper()
				ip("route", "del", "192.0.2.2/32", "dev", "far0")(tb)
				sysctl("net.ipv4.conf.lan0.rp_filter", "0")(tb)
			},
			fate: Dropped, text: "dropped in routing, behind prerouting", reason: "IP_RPFILTER",
		},
		{
			name: "iptables-nft", fate: Dropped, text: "dropped in forward by ip filter FORWARD: -A FORWARD -p tcp -m tcp --dport 80 -j DROP",
			inject: func(tb testing.TB) {
				tb.Helper()
				labtest.Exec(tb, top.Host, "iptables-nft", "-A", "FORWARD", "-p", "tcp", "--dport", "80", "-j", "DROP")
			},
			undo: nft("delete table ip filter\n"),
		},
		{
			name: "tc drops", fate: Dropped, text: "dropped, and seen by no rule", reason: "TC_INGRESS",
			inject: func(tb testing.TB) {
				tb.Helper()
				labtest.Exec(tb, top.Host, "tc", "qdisc", "add", "dev", "lan0", "clsact")
				labtest.Exec(tb, top.Host, "tc", "filter", "add", "dev", "lan0", "ingress", "protocol", "ip", "bpf", "da", "bytecode", "1,6 0 0 2")
			},
			undo: func(tb testing.TB) {
				tb.Helper()
				labtest.Exec(tb, top.Host, "tc", "qdisc", "del", "dev", "lan0", "clsact")
			},
		},
		{ // last: the tables stay
			name: "iptables-legacy drops", fate: Dropped, text: "dropped in forward, by what is in no trace (iptables-legacy filter)", reason: "NETFILTER_DROP",
			inject: func(tb testing.TB) {
				tb.Helper()
				labtest.Exec(tb, top.Host, "iptables-legacy", "-A", "FORWARD", "-p", "tcp", "--dport", "80", "-j", "DROP")
			},
			undo: func(tb testing.TB) { tb.Helper(); labtest.Exec(tb, top.Host, "iptables-legacy", "-F", "FORWARD") },
		},
	}
	for _, tt := range tests {
		for _, without := range []bool{false, true} {
			if without && tt.reason == "" {
				continue // eBPF has no part in it
			}
			t.Run(fmt.Sprintf("%s, without eBPF %t", tt.name, without), func(t *testing.T) {
				if tt.inject != nil {
					tt.inject(t)
					t.Cleanup(func() { tt.undo(t) })
				}
				network, to := tt.network, tt.to
				if network == "" {
					network = "tcp"
				}
				if to == "" {
					to = addr
				}
				proto := nat.TCP
				if network == "udp" {
					proto = nat.UDP
				}
				r := start(t, top.Host, Options{Frontends: frontend(t, proto, "8080"), NoBPF: without})
				if tt.reason == "TC_INGRESS" && !r.reasons() {
					n := wait(r, "a note", func(n Note) bool { return strings.HasPrefix(n.Text, "lan0 has tc filters") })
					require.Equal(t, "lan0 has tc filters: what they drop comes to no rule", n.Text)
					return
				}
				p := waitSending(r, "a summary", func(p Packet) bool { return p.Answer == tt.answer }, func() { send(t, top.Client, network, to) })
				fate, text, got := tt.fate, tt.text, p.Text
				if tt.reason != "" && !r.reasons() {
					fate, text = Lost, strings.Replace(text, "dropped", "lost", 1)
				}
				if tt.answer {
					text = strings.Replace(text, "PORT", fmt.Sprint(p.DstAfter.Port()), 1)
				}
				if tt.reason != "" {
					got, _, _ = strings.Cut(got, ": ")
				}
				require.Equal(t, text, got)
				require.Equal(t, fate, p.Fate)
				if r.reasons() {
					require.Contains(t, []string{tt.reason, "NETFILTER_DROP"}, p.Reason)
				}
			})
		}
	}
}

// TestOtherWays: clients of other kinds are seen to their ends.
func TestOtherWays(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1, BridgeNF: true, Hairpin: true})
	labtest.ExecInput(t, top.Host, `table inet publish {
	chain out {
		type nat hook output priority -100
		ip daddr 192.0.2.1 tcp dport 8080 dnat ip to 172.30.0.2:80
	}
	chain post {
		type nat hook postrouting priority srcnat
		ip saddr 172.30.0.0/24 ip daddr 172.30.0.2 masquerade
	}
}
`, "nft", "-f", "-")
	labtest.EchoTCP(t, top.Host, "host", ":8081")
	r := start(t, top.Host, Options{Frontends: frontend(t, nat.TCP, "8080-8081")})
	passes := func(name string, ns *lab.NS, to, request, answer string) {
		t.Helper()
		_, peer := labtest.Ask(t, ns, "tcp", to)
		_ = peer
		p := wait(r, name, func(p Packet) bool {
			return p.Flags == "syn" && p.Dst.String() == to && strings.Contains(p.Text, request)
		})
		wait(r, name+", answer", func(a Packet) bool {
			return a.Answer && a.Flags == "syn,ack" && a.DstAfter == p.Src && strings.HasPrefix(a.Text, answer)
		})
	}
	passes("the host itself", top.Host, "192.0.2.1:8080", "left by br0 to 172.30.0.2:80", "delivered to this host at 192.0.2.1:")
	passes("a program of the host", top.Client, "192.0.2.1:8081", "delivered to this host at 192.0.2.1:8081", "left by lan0 to 192.0.2.2:")
	passes("by loopback", top.Host, "127.0.0.1:8081", "delivered to this host at 127.0.0.1:8081", "delivered to this host at 127.0.0.1:")
	passes("hairpin", top.Backend1, "172.30.0.1:8080", "left by br0 to 172.30.0.2:80 from 172.30.0.1:", "left by br0 to 172.30.0.2:")
}

// TestFrom: only packets of the client, and their answers.
func TestFrom(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour})
	r := start(t, top.Host, Options{Frontends: frontend(t, nat.TCP, "192.0.2.1:8080"), From: netip.MustParseAddr("192.0.2.2")})
	labtest.Ask(t, top.Neighbour, "tcp", "192.0.2.1:8080")
	labtest.Ask(t, top.Client, "tcp", "192.0.2.1:8080")
	wait(r, "the answer", func(p Packet) bool { return p.Answer && p.Fate == Left })
	for _, e := range r.all() {
		if b, ok := e.(Begin); ok {
			require.Contains(t, []netip.Addr{b.Src.Addr(), b.Dst.Addr()}, netip.MustParseAddr("192.0.2.2"), Line(e))
		}
	}
}

// listener collects all events of nftrace in a namespace, as "nft monitor trace" does.
func listener(tb testing.TB, ns *lab.NS) func() []message {
	tb.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(tb, err)
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: int(f.Fd()), Groups: traceGroup, ReceiveBuffer: eventBuffer})
	require.NoError(tb, err)
	tb.Cleanup(func() { _, _ = s.Close(), f.Close() })
	return func() (list []message) {
		buf := make([]byte, nlwire.LargestDatagram)
		for {
			n, err := s.Receive(buf, false)
			if err != nil {
				require.ErrorIs(tb, err, unix.EAGAIN)
				return list
			}
			for m := (nlwire.Messages{Data: buf[:n]}); m.Next(); {
				if e, ok := decodeMessage(m.Message); ok {
					list = append(list, e)
				}
			}
		}
	}
}

// TestOthersNotMarked: who listens to nftrace sees no packets but those that were asked for.
func TestOthersNotMarked(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1 | lab.PartFar})
	labtest.EchoTCP(t, top.Host, "host", ":22")
	labtest.EchoTCP(t, top.Far, "far", ":8080")
	heard := listener(t, top.Host)
	r := start(t, top.Host, Options{Published: func(context.Context) ([]nat.Mapping, error) {
		ms := frontend(t, nat.TCP, "8080")
		ms[0].Backend = netip.MustParseAddrPort("172.30.0.2:80")
		return ms, nil
	}})
	for _, other := range []struct{ network, addr string }{
		{"tcp", "192.0.2.1:22"},       // of the host
		{"tcp", "172.30.0.2:80"},      // the backend itself
		{"tcp", "198.51.100.2:8080"},  // the same port of another host
		{"udp", "192.0.2.1:8080"},     // another protocol
		{"udp", "[2001:db8:1::1]:22"}, // nobody listens
	} {
		send(t, top.Client, other.network, other.addr)
	}
	require.Empty(t, heard())
	waitSending(r, "the answer", func(p Packet) bool { return p.Answer }, func() { send(t, top.Client, "tcp", "192.0.2.1:8080") })
	list := heard()
	require.NotEmpty(t, list)
	for _, m := range list {
		if m.known {
			require.Contains(t, []uint16{m.header.src.Port(), m.header.dst.Port()}, map[bool]uint16{true: 8080, false: 80}[m.header.src.Port() == 8080 || m.header.dst.Port() == 8080])
		}
	}
}

// TestHostChanges: interfaces, addresses and rules that come later are seen.
func TestHostChanges(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1})
	r := start(t, top.Host, Options{Frontends: frontend(t, nat.TCP, "8080")})
	labtest.Exec(t, top.Host, "ip", "addr", "add", "192.0.2.77/24", "dev", "lan0")
	labtest.Exec(t, top.Host, "ip", "link", "set", "dev", "lan0", "alias", "renamed")
	require.Eventually(t, func() bool {
		send(t, top.Client, "tcp", "192.0.2.77:8080")
		return strings.Contains(r.text(), "> 192.0.2.77:8080 from lan0")
	}, labtest.Stretch(5*time.Second), 50*time.Millisecond)
	// A wire that comes later, with a rule of netdev.
	require.NoError(t, lab.Wire(
		lab.End{NS: top.Client, Link: "late0", Addrs: []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24")}},
		lab.End{NS: top.Host, Link: "late0", Addrs: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}}))
	labtest.ExecInput(t, top.Host, rule("netdev", "ingress device late0", "tcp dport 8080 drop"), "nft", "-f", "-")
	require.Eventually(t, func() bool {
		send(t, top.Client, "tcp", "203.0.113.1:8080")
		return strings.Contains(r.text(), "dropped in ingress by netdev corpwall passing: tcp dport 8080 drop")
	}, labtest.Stretch(5*time.Second), 50*time.Millisecond)
	labtest.Exec(t, top.Host, "ip", "link", "set", "dev", "late0", "name", "later0")
	labtest.ExecInput(t, top.Host, "delete table netdev corpwall\n"+rule("netdev", "ingress device later0", "tcp dport 8080 counter drop"), "nft", "-f", "-")
	require.Eventually(t, func() bool {
		send(t, top.Client, "tcp", "203.0.113.1:8080")
		return strings.Contains(r.text(), "dropped in ingress by netdev corpwall passing: tcp dport 8080 counter drop")
	}, labtest.Stretch(5*time.Second), 50*time.Millisecond)
}

// TestNeighbour: what waits for a neighbour has left, and is dropped later.
func TestNeighbour(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1})
	require.NoError(t, top.Host.Sysctl("net.ipv4.neigh.br0.retrans_time_ms", "100"))
	labtest.Exec(t, top.Backend1, "ip", "addr", "flush", "dev", "eth0")
	labtest.Exec(t, top.Host, "ip", "neigh", "flush", "dev", "br0")
	r := start(t, top.Host, Options{Frontends: frontend(t, nat.TCP, "8080")})
	send(t, top.Client, "tcp", "192.0.2.1:8080")
	if r.reasons() {
		wait(r, "a drop", func(p Event) bool {
			return strings.Contains(Line(p), "dropped") && strings.Contains(Line(p), "NEIGH_FAILED")
		})
		return
	}
	l := wait(r, "no answer", func(l Later) bool { return true })
	require.Contains(t, l.Text, "no answer from 172.30.0.2:80 has come: its neighbour entry of br0 is ")
}

// TestNothingLeft: a table goes with its Tracer.
func TestNothingLeft(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1})
	list := func() string { return labtest.Exec(t, top.Host, "nft", "list", "ruleset") }
	before := list()
	r := start(t, top.Host, Options{Frontends: frontend(t, nat.TCP, "8080")})
	waitSending(r, "a packet", func(Packet) bool { return true }, func() { send(t, top.Client, "tcp", "192.0.2.1:8080") })
	require.Contains(t, list(), "table inet "+r.tracer.table.Name())
	r.stop()
	require.Equal(t, before, list())
}

// TestFlood: marks, output and memory are bounded, and what is left out is said.
func TestFlood(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1})
	labtest.ExecInput(t, top.Host, rule("inet", "forward", "udp dport 80 drop"), "nft", "-f", "-")
	r := start(t, top.Host, Options{Frontends: frontend(t, nat.UDP, "8080")})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c, err := top.Client.Dial(context.Background(), "udp", "192.0.2.1:8080")
	require.NoError(t, err)
	began := time.Now()
	const sent = 50_000
	for range sent {
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
	}
	took := time.Since(began)
	require.NoError(t, c.Close())
	wait(r, "what was left out", func(n Note) bool { return strings.Contains(n.Text, "packets were left out") })
	r.stop()
	runtime.GC()
	runtime.ReadMemStats(&after)
	packets, out := 0, 0
	for _, e := range r.all() {
		switch e := e.(type) {
		case Packet:
			packets++
		case Note:
			n := 0
			if _, err := fmt.Sscanf(e.Text, "%d packets were left out", &n); err == nil {
				out += n
			}
		}
	}
	require.LessOrEqual(t, packets, 2*(200+100*int(took.Seconds()+2)))
	require.GreaterOrEqual(t, out, sent-packets-1000)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(16<<20))
}

// TestUnseen: programs before the rules are named, if there are any.
func TestUnseen(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1})
	program := func(typ ebpf.ProgramType, result int32) *ebpf.Program {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: typ, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, result), asm.Return()}})
		if errors.Is(err, fs.ErrPermission) {
			return nil // in a user namespace
		}
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		return p
	}
	notes := func(addr string) (text string) {
		r := start(t, top.Host, Options{Frontends: frontend(t, nat.TCP, addr), NoBPF: true})
		defer r.stop()
		wait(r, "the first note", func(Note) bool { return true })
		send(t, top.Client, "tcp", "192.0.2.1:8080")
		return r.text()
	}
	const of = " has "
	require.NotContains(t, notes("8080"), of)
	xdp, tcx := program(ebpf.XDP, 2), program(ebpf.SchedCLS, -1)
	if xdp == nil {
		return
	}
	require.NoError(t, top.Host.Do(func() error {
		l, err := netlink.LinkByName("lan0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetXdpFd(l, xdp.FD()); err != nil {
			return err
		}
		attached, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: tcx, Attach: ebpf.AttachTCXIngress})
		if errors.Is(err, ebpf.ErrNotSupported) {
			return nil
		}
		if err == nil {
			t.Cleanup(func() { require.NoError(t, attached.Close()) })
		}
		return err
	}))
	for _, addr := range []string{"8080", "192.0.2.1:8080"} {
		text := notes(addr)
		require.Contains(t, text, "note: lan0 has an XDP program: what they drop comes to no rule\n")
		require.Contains(t, text, "note: lan0 has tc filters: what they drop comes to no rule\n")
	}
	require.NotContains(t, notes("172.30.0.1:8080"), of, "not by its interface")
}

// TestLostEvents: a receive buffer without room is survived, and said once a second.
func TestLostEvents(t *testing.T) {
	top := published(t, lab.Options{Parts: lab.PartBackend1})
	r := start(t, top.Host, Options{Frontends: frontend(t, nat.TCP, "8080")})
	f, err := os.Open(top.Host.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: int(f.Fd()), Groups: traceGroup, ReceiveBuffer: 1})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	labtest.Ask(t, top.Client, "tcp", "192.0.2.1:8080")
	require.NoError(t, s.SetReadDeadline(time.Now().Add(100*time.Millisecond))) // what has come is there
	var kinds []inputKind
	readEvents(s, func(in input) bool {
		kinds = append(kinds, in.kind)
		return true
	})
	require.Contains(t, kinds, traceLost)
	require.Contains(t, kinds, traceMessage)
	r.stop()
	require.NotContains(t, r.text(), "events were lost")
}

// TestNotes: what was lost and left out is said once, with numbers.
func TestNotes(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	r := start(t, ns, Options{Frontends: frontend(t, nat.TCP, "8080"), NoBPF: true})
	r.stop()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	tracer, err := Open(context.Background(), Options{NetNS: int(f.Fd()), Frontends: frontend(t, nat.TCP, "8080")})
	require.NoError(t, err)
	defer func() { require.NoError(t, tracer.Close()) }()
	var text []string
	tracer.packets.notify = func(e Event) error { text = append(text, Line(e)); return nil }
	require.NoError(t, tracer.input(context.Background(), input{kind: traceLost}))
	require.NoError(t, tracer.input(context.Background(), input{kind: traceLost}))
	tracer.packets.full, tracer.packets.unseen = 3, 4
	for range 2 {
		require.NoError(t, tracer.everySecond(context.Background()))
	}
	require.Equal(t, []string{
		"note: events were lost: there were more than this program could read",
		"note: 7 packets were left out: at most 100 a second are shown",
	}, text)
}
