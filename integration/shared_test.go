// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// holdShared has another program bind a port at all addresses of both families, as a runtime does that never serves it.
func holdShared(t *testing.T, ns *lab.NS, network string, port int) io.Closer {
	t.Helper()
	held, err := occupy(ns, network, fmt.Sprintf("[::]:%d", port))
	require.NoError(t, err)
	t.Cleanup(func() { _ = held.Close() })
	return held
}

// requireNobodyCame checks that nobody has connected to a listener of TCP, or sent to a socket of UDP.
func requireNobodyCame(t *testing.T, held io.Closer) {
	t.Helper()
	raw, err := held.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		require.NoError(t, err)
		require.Zero(t, n, "%T has a client", held)
	}))
}

// came waits for a client of a listener of TCP, or a datagram for a socket of UDP, and takes it.
func came(t *testing.T, held io.Closer) {
	t.Helper()
	deadline := time.Now().Add(labtest.Stretch(answerTimeout))
	switch held := held.(type) {
	case *net.TCPListener:
		require.NoError(t, held.SetDeadline(deadline))
		c, err := held.Accept()
		require.NoError(t, err)
		require.NoError(t, c.Close())
	case *net.UDPConn:
		require.NoError(t, held.SetReadDeadline(deadline))
		_, _, err := held.ReadFrom(make([]byte, 64))
		require.NoError(t, err)
	default:
		t.Fatalf("%T", held)
	}
}

// sharedClients ask a shared port from everywhere that is led past the program that has it.
func sharedClients(t *testing.T, top *lab.Topology, network string, port int, want string) {
	t.Helper()
	at := func(host string) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
	for _, address := range []string{"127.0.0.1", "127.0.0.5", "::1", "192.0.2.1"} {
		labtest.Reaches(t, top.Host, network, at(address), want)
	}
	// A socket that is bound is left alone by eBPF.
	name, _, err := lab.Ask(t.Context(), top.Host, network, at("127.0.0.5"), netip.MustParseAddrPort("127.0.0.9:0"))
	require.NoError(t, err)
	require.Equal(t, want, name)
	// One that calls an address of the host from a loopback address.
	name, _, err = lab.Ask(t.Context(), top.Host, network, at("192.0.2.1"), netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	require.Equal(t, want, name)
	labtest.Reaches(t, top.Client, network, at("192.0.2.1"), want)
	labtest.Reaches(t, top.Backend1, network, at("192.0.2.1"), want)
}

// A port that another program has is published past it, for clients everywhere, by eBPF and by proxies; the program gets
// nothing. It stays so when the program goes, when the daemon is killed, and when another one takes over.
func TestShared(t *testing.T) {
	for _, loopback := range []string{"bpf", "proxy"} {
		t.Run(loopback, func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, top.Backend1, network, "one", ":80")
				labtest.Echo(t, top.Backend2, network, "two", ":80")
			}
			s := newTestbed(t, top.Host)
			s.loopback = loopback
			daemon := s.serve(t)
			var held []io.Closer
			all := func(port int, want string) {
				t.Helper()
				for _, network := range []string{"tcp", "udp"} {
					sharedClients(t, top, network, port, want)
				}
				for _, h := range held {
					requireNobodyCame(t, h)
				}
			}
			for _, network := range []string{"tcp", "udp"} {
				held = append(held, holdShared(t, top.Host, network, 8080))
				r := s.run(t, "add "+network+" 8080 172.30.0.2:80")
				require.Equal(t, 3, r.Code, r.Stderr)
				require.Equal(t, "8080->172.30.0.2:80"+map[string]string{"udp": "/udp"}[network]+"\n", s.succeed(t, "add --quiet "+network+" 8080 172.30.0.2:80 --hold shared --name web"))
			}
			require.Contains(t, s.succeed(t, "ls"), "OPTIONS\n")
			require.Contains(t, s.succeed(t, "ls"), "never    shared\n")
			require.Contains(t, s.succeed(t, "ls --json"), `"hold":"shared"`)
			require.Contains(t, s.succeed(t, "export"), `{mapping: "8080->172.30.0.2:80", name: web, hold: shared}`)
			all(8080, "one")
			warnings := s.status(t).Warnings
			require.Len(t, warnings, 1)
			require.Contains(t, warnings[0], "2 ports (--hold shared): clients from elsewhere, of another family than the backend, come to the program that has the port")
			r := s.run(t, "add tcp 8080 172.30.0.3:80")
			require.Equal(t, 3, r.Code, "it is reserved as others: %s", r.Stderr)

			// A change of the backend; UDP flows follow.
			f := dialFlow(t, top.Host, "udp", "127.0.0.5:8080")
			require.Equal(t, "one", f.name(t))
			s.succeed(t, "add --quiet --replace tcp 8080 172.30.0.3:80 --hold shared")
			s.succeed(t, "add --quiet --replace udp 8080 172.30.0.3:80 --hold shared")
			if loopback == "proxy" { // eBPF ends the socket
				await(t, "the flow to follow", func() bool { return f.name(t) == "two" })
			}
			all(8080, "two")

			// Killed, and again.
			require.NoError(t, daemon.Signal(unix.SIGKILL))
			_ = daemon.Wait()
			s.serve(t)
			all(8080, "two")
			s.succeedBy(t)
			all(8080, "two")
			labtest.Run(t, top.Host, command(t, "nft", "flush", "ruleset")) // which is refused, or repaired
			all(8080, "two")

			// The program goes: nothing changes, and the port is not held.
			for _, h := range held {
				require.NoError(t, h.Close())
			}
			held = nil
			all(8080, "two")
			for _, network := range []string{"tcp", "udp"} {
				held = append(held, holdShared(t, top.Host, network, 8080))
			}
			all(8080, "two")

			// The port is taken if it is free, and given up again.
			r = s.run(t, "add --replace tcp 8080 172.30.0.2:80")
			require.Equal(t, 3, r.Code, r.Stderr)
			require.Contains(t, r.Stderr, "is held by "+myself(t))
			all(8080, "two")
			for _, h := range held {
				require.NoError(t, h.Close())
			}
			held = nil
			for _, network := range []string{"tcp", "udp"} {
				s.succeed(t, "add --quiet --replace "+network+" 8080 172.30.0.2:80")
				_, err := occupy(top.Host, network, "[::]:8080")
				require.ErrorIs(t, err, unix.EADDRINUSE)
			}
			all(8080, "one")
			for _, network := range []string{"tcp", "udp"} {
				s.succeed(t, "add --quiet --replace "+network+" 8080 172.30.0.3:80 --hold shared")
				held = append(held, holdShared(t, top.Host, network, 8080))
			}
			all(8080, "two")

			// Nothing is left; clients on localhost come to the program.
			s.succeed(t, "rm --name web")
			f = dialFlow(t, top.Host, "tcp", "127.0.0.1:8080")
			defer func() { require.NoError(t, f.conn.Close()) }()
			require.NotContains(t, labtest.Exec(t, top.Host, "nft", "list", "table", "inet", "nftnat"), "elements")
			require.Zero(t, s.status(t).Proxies)
		})
	}
}

// One address of localhost, or of the host, a time-out, ranges, and the file.
func TestSharedForms(t *testing.T) {
	for _, loopback := range []string{"bpf", "proxy"} {
		t.Run(loopback, func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
			for _, network := range []string{"tcp", "udp"} {
				for _, port := range []string{":80", ":10007", ":10019"} {
					labtest.Echo(t, top.Backend1, network, "one", port)
				}
			}
			s := newTestbed(t, top.Host)
			s.loopback = loopback
			s.serve(t)
			for _, network := range []string{"tcp", "udp"} {
				for _, port := range []int{81, 82, 83, 10007, 10019} {
					holdShared(t, top.Host, network, port)
				}
				s.succeed(t, "add --quiet "+network+" 127.0.0.5:81 172.30.0.2:80 --hold shared")
				s.succeed(t, "add --quiet "+network+" [::1]:81 172.30.0.2:80 --hold shared")
				s.succeed(t, "add --quiet "+network+" 192.0.2.1:82 172.30.0.2:80 --hold shared --ttl 1h")
				s.succeed(t, "add --quiet "+network+" 0.0.0.0:83 172.30.0.2:80 --hold shared --ttl 1h")
				s.succeed(t, "add --quiet "+network+" 0.0.0.0:83 172.30.0.2:80 --hold shared --ttl 2h")
				s.succeed(t, "add --quiet "+network+" 10000-10099 172.30.0.2 --hold shared")
				s.succeed(t, "rm "+network+" 10010-10012")
			}
			check := func() {
				t.Helper()
				for _, network := range []string{"tcp", "udp"} {
					for _, address := range []string{"127.0.0.5:81", "[::1]:81", "192.0.2.1:82", "127.0.0.5:83", "127.0.0.1:10007", "[::1]:10019", "127.0.0.5:10007"} {
						labtest.Reaches(t, top.Host, network, address, "one")
					}
					for _, address := range []string{"192.0.2.1:82", "192.0.2.1:83", "192.0.2.1:10007", "192.0.2.1:10019"} {
						labtest.Reaches(t, top.Client, network, address, "one")
					}
				}
			}
			check()
			file := t.TempDir() + "/state.yaml"
			before := s.succeed(t, "export")
			require.NoError(t, os.WriteFile(file, []byte(before), 0o600))
			require.Empty(t, s.succeed(t, "apply -f "+file))
			s.succeed(t, "purge")
			s.serve(t)
			s.succeed(t, "apply --quiet -f "+file)
			require.Equal(t, withoutTimes(before), withoutTimes(s.succeed(t, "export")))
			check()
		})
	}
}

// withoutTimes removes the ends of mappings from a file.
func withoutTimes(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		before, _, _ := strings.Cut(line, ", expires:")
		lines = append(lines, strings.TrimSpace(before))
	}
	return strings.Join(lines, "\n")
}

// A daemon that ends cleanly leads nobody on localhost to proxies that are gone; the rules lead there only what they should.
func TestSharedRules(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.Echo(t, top.Backend1, "tcp", "one", ":80")
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	daemon := s.serve(t)
	holdShared(t, top.Host, "tcp", 8080)
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80 --hold shared")
	elements := func() string { return labtest.Exec(t, top.Host, "nft", "list", "map", "inet", "nftnat", "tcp4_shared") }
	require.Contains(t, elements(), "elements = { 8080 : ")
	// Whoever is elsewhere does not reach the proxy's own port, at whichever address.
	_, port, ok := strings.Cut(strings.ReplaceAll(elements(), " ", ""), "8080:")
	require.True(t, ok)
	port, _, _ = strings.Cut(port, "}")
	_, err := top.Client.Dial(t.Context(), "tcp", "192.0.2.1:"+port)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.Contains(t, s.succeed(t, "explain tcp 8080 --from 127.0.0.1"), "passes by proxy")
	r := s.run(t, "explain tcp 8080 --from 2001:db8:1::2")
	require.Equal(t, 1, r.Code, r.Stdout)
	require.Contains(t, r.Stdout, "which is shared with it")
	require.NotContains(t, s.run(t, "doctor").Stdout, "tcp 8080")

	require.NoError(t, daemon.Signal(unix.SIGTERM))
	_ = daemon.Wait()
	require.NotContains(t, elements(), "elements")
	s.serve(t)
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "one")
}

// sharedMutation is a rule, and what shows that it is missing.
type sharedMutation struct {
	chain, rule            string
	network, address, from string // from: the client's own; empty: any
}

// sharedMutations are the rules that lead clients past programs that have a port.
func sharedMutations() (all []sharedMutation) {
	const chain = "nat-localhost"
	all = append(all,
		sharedMutation{chain, "ip daddr 127.0.0.0/8 jump past-holders4", "tcp", "127.0.0.1:8080", "192.0.2.9:0"},
		sharedMutation{chain, "ip6 daddr ::1 jump past-holders6", "udp", "[::1]:8080", "[2001:db8:1::9]:0"},
		sharedMutation{chain, "ip saddr 127.0.0.0/8 fib daddr type local jump past-holders4", "udp", "192.0.2.1:8080", "127.0.0.1:0"},
		sharedMutation{chain, "ip6 saddr ::1 fib daddr type local jump past-holders6", "tcp", "[2001:db8:1::1]:8080", "[::1]:0"},
		sharedMutation{chain, "ip saddr @proxied_sources4 fib daddr type local jump past-holders4", "tcp", "192.0.2.9:8080", "192.0.2.1:0"},
		sharedMutation{chain, "ip6 saddr @proxied_sources6 fib daddr type local jump past-holders6", "udp", "[2001:db8:1::9]:8080", "[2001:db8:1::1]:0"},
	)
	for _, network := range []string{"tcp", "udp"} {
		for digit, ip := range map[string][3]string{"4": {"ip", "127.0.0.1:8080", "127.0.0.5:81"}, "6": {"ip6", "[::1]:8080", "[::1]:81"}} {
			over, at := "meta l4proto "+network+" redirect to :", network+" dport map @"+network+digit
			all = append(all,
				sharedMutation{"past-holders" + digit, over + at + "_shared", network, ip[1], ""},
				sharedMutation{"past-holders" + digit, "meta nfproto ipv" + digit + " " + over + ip[0] + " daddr . " + at + "_host_shared", network, ip[2], ""})
		}
	}
	return all
}

// Without any one of the rules, a client comes to the program that has the port.
func TestSharedMutations(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	e, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), NoOwner: true, Loopback: engine.LoopbackProxy})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "one", ":80")
		holdShared(t, top.Host, network, 8080)
		holdShared(t, top.Host, network, 81)
		for _, text := range []string{"8080->172.30.0.2:80/", "127.0.0.5:81->172.30.0.2:80/", "[::1]:81->172.30.0.2:80/"} {
			m := mapping(t, text+network)
			m.Hold = nat.HoldShared
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
			require.NoError(t, err)
		}
	}
	nft(t, top.Host, "add", "element", "inet", "nftnat", "proxied_sources4", "{ 192.0.2.1 }")
	nft(t, top.Host, "add", "element", "inet", "nftnat", "proxied_sources6", "{ 2001:db8:1::1 }")
	for _, m := range labtest.Some(t, "rules taken away", 2, sharedMutations()) {
		t.Run(m.rule, func(t *testing.T) {
			var from netip.AddrPort
			if m.from != "" {
				from = netip.MustParseAddrPort(m.from)
			}
			ask := func(timeout time.Duration) (string, error) {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				name, _, err := lab.Ask(ctx, top.Host, m.network, m.address, from)
				return name, err
			}
			name, err := ask(answerTimeout)
			require.NoError(t, err)
			require.Equal(t, "one", name)
			nft(t, top.Host, "delete", "rule", "inet", "nftnat", m.chain, "handle", ruleHandle(t, top.Host, m.chain, m.rule))
			_, err = ask(silence)
			require.Error(t, err, "nobody has noticed")
			nft(t, top.Host, append([]string{"add", "rule", "inet", "nftnat", m.chain}, strings.Fields(m.rule)...)...)
		})
	}
}

// Bad values are refused, and nothing is changed; so is what cannot be shared.
func TestSharedBadInput(t *testing.T) {
	top := newTopology(t, lab.Options{})
	s := newTestbed(t, top.Host)
	for line, want := range map[string]string{
		"add tcp 8080 172.30.0.2:80 --hold x":                   `invalid hold "x": own or shared`,
		"add tcp 8080 172.30.0.2:80 --hold=":                    `invalid hold "": own or shared`,
		"add tcp 0 172.30.0.2:80 --hold shared":                 "the port is shared, so that it has to be given: a free one is nobody's",
		"add tcp 8080 172.30.0.2:80 --if-name web":              "--if-name is about what --replace replaces",
		"add tcp 8080 172.30.0.2:80 --replace --if-name=":       `invalid name "": it is empty`,
		"rm tcp 8080 --name=":                                   `invalid name "": it is empty`,
		"rm tcp 8080 9090 --name web":                           "wrong number of arguments",
		"add tcp 8080 172.30.0.2:80 --name a\x01":               "name has a control character at byte 2",
		"rm tcp 8080 --name " + strings.Repeat("n", 4097):       "name has 4097 bytes, more than 4096",
		"add tcp 8080 172.30.0.2:80 --hold shared --hold owned": `invalid hold "owned": own or shared`,
	} {
		r := s.run(t, line)
		require.Equal(t, 2, r.Code, line)
		require.Contains(t, r.Stderr, want, line)
	}
	_, err := s.api.Status(t.Context())
	require.ErrorIs(t, err, api.ErrNoServer, "nothing was contacted")
}
