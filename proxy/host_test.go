// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf"
)

// host is a child process with nothing but proxies, whose memory and descriptors can
// be counted.
type host struct {
	t   testing.TB
	pid int
	in  io.Writer
	out *bufio.Reader
}

func newHost(tb testing.TB) *host {
	tb.Helper()
	exe, err := os.Executable()
	require.NoError(tb, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"=host")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(tb, err)
	out, err := cmd.StdoutPipe()
	require.NoError(tb, err)
	require.NoError(tb, cmd.Start())
	tb.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		require.NoError(tb, cmd.Wait(), "child host")
	})
	return &host{t: tb, pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
}

// ask sends one command and returns the answer.
func (h *host) ask(format string, args ...any) string {
	h.t.Helper()
	_, err := fmt.Fprintf(h.in, format+"\n", args...)
	require.NoError(h.t, err)
	line, err := h.out.ReadString('\n')
	require.NoError(h.t, err)
	line = strings.TrimSpace(line)
	require.NotContains(h.t, line, "error")
	return line
}

func (h *host) number(command string) int {
	h.t.Helper()
	n, err := strconv.Atoi(h.ask("%s", command))
	require.NoError(h.t, err)
	return n
}

// childHost obeys commands, one a line, each answered by one line.
func childHost() error {
	// Else the runtime's poller needs descriptors when there are none.
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = l.Close()
	}
	g := NewGroup(nil)
	defer func() { _ = g.Close() }()
	var last Proxy
	add := func(frontend, backend net.Addr) error {
		p, err := New(frontend, backend, &Options{Group: g})
		if err != nil {
			return err
		}
		last = p
		return p.Open()
	}
	var lookup *bpf.Lookup
	var hold *bpf.Hold
	defer func() {
		if hold != nil {
			_ = hold.Close()
		}
		if lookup != nil {
			_ = lookup.Close()
		}
	}()
	obey := func(words []string) (string, error) {
		switch words[0] {
		case "hold": // keeps others from binding ports
			var err error
			hold, err = holdHere()
			return "ok", err
		case "ports": // many ports behind one socket, all of one backend
			backend, err := netip.ParseAddrPort(words[2])
			if err != nil {
				return "", err
			}
			if lookup == nil {
				if lookup, err = lookupIn(ownNetNS); err != nil {
					return "", err
				}
			}
			opts := &Options{Group: g}
			if hold != nil {
				opts.BeforeBind = hold.Exempt
			}
			p, err := addPorts(words[1], backend, opts, lookup)
			last = p
			return "127.0.0.1:12345", err
		case "tcp":
			backend, err := net.ResolveTCPAddr("tcp", words[1])
			if err == nil {
				err = add(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, backend)
			}
			if err != nil {
				return "", err
			}
			return last.FrontendAddr().String(), nil
		case "udp":
			backend, err := net.ResolveUDPAddr("udp", words[1])
			if err == nil {
				err = add(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, backend)
			}
			if err != nil {
				return "", err
			}
			return last.FrontendAddr().String(), nil
		case "many": // as many listeners as said; answers the milliseconds
			n, err := strconv.Atoi(words[1])
			begin := time.Now()
			// Given ports: with port 0 the kernel searches longer the more are
			// in use.
			for port := 20000; err == nil && n > 0 && port < 65536; port++ {
				err = add(&net.TCPAddr{Port: port}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
				if errors.Is(err, unix.EADDRINUSE) {
					err = nil
					continue
				}
				n--
			}
			return strconv.FormatInt(time.Since(begin).Milliseconds(), 10), err
		case "limit": // leaves room for as many descriptors as said
			n, err := strconv.Atoi(words[1])
			if err != nil {
				return "", err
			}
			limit := uint64(openFDs() - 1 + n)
			return "ok", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: 20000})
		case "hog": // takes every descriptor that is left, but as many as said
			n, err := strconv.Atoi(words[1])
			var hogged []int
			for {
				fd, err := unix.Dup(0)
				if err != nil {
					break
				}
				hogged = append(hogged, fd)
			}
			for _, fd := range hogged[len(hogged)-n:] {
				_ = unix.Close(fd)
			}
			return "ok", err
		case "rss": // KiB
			runtime.GC()
			debug.FreeOSMemory()
			return strconv.Itoa(rss()), nil
		case "fds":
			return strconv.Itoa(openFDs()), nil
		case "goroutines":
			return strconv.Itoa(runtime.NumGoroutine()), nil
		case "cpu": // ms
			var u unix.Rusage
			err := unix.Getrusage(unix.RUSAGE_SELF, &u)
			return strconv.FormatInt((u.Utime.Nano()+u.Stime.Nano())/1e6, 10), err
		case "live":
			return strconv.FormatInt(last.Stats().Live, 10), nil
		case "accept-errors":
			return strconv.FormatUint(last.Stats().AcceptErrors, 10), nil
		case "evicted":
			return strconv.FormatUint(last.Stats().Evicted, 10), nil
		}
		return "", fmt.Errorf("unknown command %q", words)
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		answer, err := obey(strings.Fields(in.Text()))
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
	return nil
}

const ownNetNS = "/proc/self/ns/net"

func lookupIn(netNS string) (*bpf.Lookup, error) {
	ns, err := os.Open(netNS)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	return bpf.OpenLookup(int(ns.Fd()))
}

// holdHere holds ports of all addresses.
func holdHere() (*bpf.Hold, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err = errors.Join(err, unix.Close(s)); err != nil {
		return nil, err
	}
	root, err := bpf.RootGroup()
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	h, err := bpf.OpenHold(bpf.HoldOptions{Group: int(root.Fd()), NetNS: cookie})
	if err != nil {
		return nil, err
	}
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		err = errors.Join(err, h.Add(bpf.Range{Proto: proto, First: firstPort, Last: lastPort}))
	}
	return h, err
}

// addPorts leads ports of 127.0.0.1, no ephemeral ones, to a proxy.
func addPorts(network string, backend netip.AddrPort, opts *Options, l *bpf.Lookup) (Proxy, error) {
	s, err := BindPorts(network, opts)
	if err != nil {
		return nil, err
	}
	p, err := s.Ports(func(netip.AddrPort) netip.AddrPort { return backend }, opts)
	if err != nil {
		return nil, err
	}
	proto := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[network]
	r := bpf.Range{Proto: proto, Addr: netip.MustParseAddr("127.0.0.1"), First: firstPort, Last: 29999}
	all := bpf.Range{Proto: proto, Addr: netip.MustParseAddr("127.0.0.7"), First: firstPort, Last: lastPort}
	return p, errors.Join(l.Lead(p.Descriptor()), l.Add(r), l.Add(all), p.Open())
}

// fronts are the ways to a backend by a host: its commands. Those by many ports need a program in the kernel.
func fronts(tb testing.TB, network string) []string {
	tb.Helper()
	ways := []string{network}
	if l, err := lookupIn(ownNetNS); err == nil {
		require.NoError(tb, l.Close())
		ways = append(ways, "ports "+network)
	}
	return ways
}

// rss is this process's resident memory in KiB, shared pages of the binary
// included: only differences mean anything.
func rss() int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	n, _ := strconv.Atoi(strings.Fields(after)[0])
	return n
}

// needSockets skips a test that may not use so many sockets in this process and in a child
// each.
func needSockets(tb testing.TB, want int) {
	tb.Helper()
	var r unix.Rlimit
	require.NoError(tb, unix.Getrlimit(unix.RLIMIT_NOFILE, &r))
	if r.Cur < uint64(want) {
		tb.Skipf("RLIMIT_NOFILE is %d, this test needs %d", r.Cur, want)
	}
}

func TestIdleConnectionsCostLittle(t *testing.T) {
	const n = 5000
	needSockets(t, 2*n+200)
	noLeak(t)
	backend := tcpBackend(t, "127.0.0.1:0", echoTCP)
	h := newHost(t)
	front := h.ask("tcp %s", backend)
	// The first connections bring up what all others share.
	for range 8 {
		roundTrip(t, dial(t, "tcp", front), phrase)
	}
	memory, fds, goroutines := h.number("rss"), h.number("fds"), h.number("goroutines")
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = dial(t, "tcp", front)
		require.NoError(t, conns[i].SetDeadline(time.Now().Add(time.Minute)))
		roundTrip(t, conns[i], phrase)
	}
	memory2, fds2 := h.number("rss"), h.number("fds")
	perConn := float64(memory2-memory) / n
	t.Logf("%d idle connections: %.2f KiB each, %.2f descriptors each", n, perConn, float64(fds2-fds)/n)
	require.LessOrEqual(t, perConn, 9.0)
	require.LessOrEqual(t, fds2-fds, 2*n)
	require.Equal(t, goroutines, h.number("goroutines"))
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	eventually(t, "all connections gone", func() bool { return h.number("live") == 8 })
	eventually(t, "all descriptors back", func() bool { return h.number("fds") <= fds })
}

func TestIdleFlowsCostLittle(t *testing.T) {
	const n = 10000
	needSockets(t, n+200)
	backend := udpEcho(t, "127.0.0.1:0")
	h := newHost(t)
	front := h.ask("udp %s", backend)
	roundTrip(t, dial(t, "udp", front), phrase)
	memory := h.number("rss")
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = dial(t, "udp", front)
		roundTrip(t, conns[i], phrase)
	}
	require.Equal(t, n+1, h.number("live"))
	grown := h.number("rss") - memory
	t.Logf("%d live flows: %.1f MiB, %.2f KiB each", n, float64(grown)/1024, float64(grown)/n)
	require.LessOrEqual(t, grown, 60*1024)
	// Full datagrams through every flow: no flow keeps a buffer.
	big := strings.Repeat("x", 60000)
	for _, c := range conns[:n/10] {
		require.NoError(t, c.SetDeadline(time.Now().Add(deadline)))
		roundTrip(t, c, big)
	}
	grown = h.number("rss") - memory
	t.Logf("after full datagrams: %.1f MiB", float64(grown)/1024)
	require.LessOrEqual(t, grown, 60*1024)
}

func TestListenersCostLittle(t *testing.T) {
	const n = 10000
	needSockets(t, n+200)
	h := newHost(t)
	h.ask("many 10")
	memory, goroutines := h.number("rss"), h.number("goroutines")
	ms := h.ask("many %d", n)
	grown := h.number("rss") - memory
	t.Logf("%d listeners: %.1f MiB, %.2f KiB each, %s ms", n, float64(grown)/1024, float64(grown)/n, ms)
	require.LessOrEqual(t, grown, 10*n)
	require.Equal(t, goroutines, h.number("goroutines"))
}

// TestPortsCostLittle: 50,001 ports of each protocol, held and served, cost what one does.
func TestPortsCostLittle(t *testing.T) {
	if len(fronts(t, "tcp")) == 1 {
		return
	}
	h := newHost(t)
	backend := tcpBackend(t, "127.0.0.1:0", echoTCP)
	roundTrip(t, dial(t, "tcp", h.ask("tcp %s", backend)), phrase)
	memory, fds := h.number("rss"), h.number("fds")
	h.ask("hold")
	h.ask("ports udp %s", backend)
	roundTrip(t, dial(t, "tcp", at("127.0.0.7", mustTCP(t, h.ask("ports tcp %s", backend)))), phrase)
	grown, opened := h.number("rss")-memory, h.number("fds")-fds
	t.Logf("50,001 ports of each protocol: %d KiB and %d descriptors", grown, opened)
	require.LessOrEqual(t, grown, 3072)
	require.LessOrEqual(t, opened, 20)
}

func TestServesAgainAfterEMFILE(t *testing.T) {
	for _, way := range fronts(t, "tcp") {
		t.Run(way, func(t *testing.T) { servesAgainAfterEMFILE(t, way) })
	}
}

func servesAgainAfterEMFILE(t *testing.T, way string) {
	t.Helper()
	noLeak(t)
	backend := tcpBackend(t, "127.0.0.1:0", echoTCP)
	h := newHost(t)
	front := h.ask("%s %s", way, backend)
	for range 8 { // also brings up what all share
		roundTrip(t, dial(t, "tcp", front), phrase)
	}
	h.ask("limit 24") // room for ten connections and a little
	var served []net.Conn
	for range 10 {
		c := dial(t, "tcp", front)
		roundTrip(t, c, phrase)
		served = append(served, c)
	}
	// Clients beyond the limit wait in the queue and are then reset, whether accept
	// or the dial finds no descriptor.
	for _, left := range []int{1, 0} {
		h.ask("hog %d", left)
		for range 4 {
			wantReset(t, front)
		}
	}
	require.Positive(t, h.number("accept-errors"))
	// Without descriptors and with waiting clients it sleeps most of the time.
	knock, err := net.Dial("tcp", front)
	before, errors, begin := h.number("cpu"), h.number("accept-errors"), time.Now()
	time.Sleep(time.Second)
	failed := h.number("accept-errors") - errors
	starved := time.Since(begin)
	t.Logf("starved for %v: %d ms of processor time, %d failed accepts", starved, h.number("cpu")-before, failed)
	require.LessOrEqual(t, failed, int(starved/(4*time.Millisecond))) // 5 ms apart at worst
	if err == nil {                                                   // else it was reset at once
		_ = knock.Close()
	}
	for _, c := range served {
		roundTrip(t, c, phrase)
		require.NoError(t, c.Close())
	}
	eventually(t, "only the first are left", func() bool { return h.number("live") == 8 })
	eventually(t, "served again", func() bool {
		c, err := net.DialTimeout("tcp", front, time.Second)
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		got := make([]byte, 1)
		if _, err := c.Write(got); err != nil {
			return false
		}
		_, err = c.Read(got)
		return err == nil
	})
}

func TestFlowsMakeRoomAtEMFILE(t *testing.T) {
	for _, way := range fronts(t, "udp") {
		t.Run(way, func(t *testing.T) { flowsMakeRoomAtEMFILE(t, way) })
	}
}

func flowsMakeRoomAtEMFILE(t *testing.T, way string) {
	t.Helper()
	backend := udpEcho(t, "127.0.0.1:0")
	h := newHost(t)
	front := h.ask("%s %s", way, backend)
	roundTrip(t, dial(t, "udp", front), phrase)
	h.ask("limit 10")
	for range 50 {
		roundTrip(t, dial(t, "udp", front), phrase)
	}
	live, evicted := h.number("live"), h.number("evicted")
	require.Less(t, live, 15)
	require.Equal(t, 51, live+evicted)
}
