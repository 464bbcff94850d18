// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// damage removes rules from the table, for the next engine to repair. It cannot if the
// table has an owner, even one that is dead.
func (w *killRun) damage() bool {
	w.Helper()
	r := labtest.Run(w.T, w.top.Host, command(w.T, "nft", "flush", "chain", "inet", "nftnat", "publish"))
	if r.Code != 0 {
		return false
	}
	w.covered.mu.Lock()
	defer w.covered.mu.Unlock()
	w.covered.damages++
	return true
}

// read returns what the kernel holds, read by an engine that changes nothing.
func (w *killRun) read() model {
	w.Helper()
	e, err := engine.Open(context.Background(), engine.Options{NetNS: w.top.Host.Path(), ReadOnly: true})
	require.NoError(w, err, w.what)
	s, err := e.State(context.Background())
	require.NoError(w, err, w.what)
	require.NoError(w, e.Close())
	return modelOf(s)
}

// requireFile compares the state file with the model.
func (w *killRun) requireFile() {
	w.Helper()
	f, err := os.Open(w.file)
	require.NoError(w, err, w.what)
	s, err := state.Decode(f, w.file)
	require.NoError(w, errors.Join(err, f.Close()), w.what)
	w.requireEqual(modelOf(s), "in the file")
}

func (w *killRun) requireEqual(found model, how string) {
	w.Helper()
	if !w.model.equal(found) {
		require.Fail(w, "not what was acknowledged", "%s\nwhat was %s:\n%s", w.what, how, w.model.difference(found))
	}
}

// requireTable compares the table, as nft(8) lists it, with the model. All of the notes on
// what has ended are there, or none, and some of those on what has been replaced may be. It does
// nothing if the ruleset has not changed since the last time.
func (w *killRun) requireTable(notes, replaced []string) {
	w.Helper()
	now := generation(w.T, w.top.Host)
	if now == w.compared {
		return
	}
	w.compared = now
	rest, mapped := []string{}, []string{}
	w.notes = nil
	for _, line := range singleElements(sortedElements(w.T, w.top.Host)) {
		set, _, _ := strings.Cut(line, " ")
		if strings.HasSuffix(set, "_ended") {
			w.notes = append(w.notes, line)
			continue
		}
		rest = append(rest, line)
		if (strings.HasPrefix(line, "tcp") || strings.HasPrefix(line, "udp")) && !strings.HasSuffix(set, "_out") {
			mapped = append(mapped, line)
		}
	}
	require.Equal(w, elementsOf(w.model.mappings), mapped, w.what)
	for _, m := range w.model.mappings {
		if line, ok := noteOn(m); ok && !m.Expires.IsZero() {
			i := slices.Index(w.notes, line)
			require.NotEqual(w, -1, i, "%s: no note on %s", w.what, m)
			w.notes = slices.Delete(w.notes, i, i+1)
		}
	}
	ended := slices.DeleteFunc(slices.Clone(w.notes), func(line string) bool { return slices.Contains(replaced, line) })
	if len(ended) != 0 {
		require.Equal(w, notes, ended, "%s: notes of what has ended", w.what)
	}
	// The same state is the same table, whatever the history.
	if w.cut || w.IntN(3) == 0 {
		_, err := w.mirror.ApplyState(context.Background(), w.model.state())
		require.NoError(w, err, w.what)
		mirrored := slices.DeleteFunc(singleElements(sortedElements(w.T, w.mirrorTop.Host)), func(line string) bool {
			set, _, _ := strings.Cut(line, " ")
			return strings.HasSuffix(set, "_ended")
		})
		require.Equal(w, mirrored, rest, "%s: same state, another table", w.what)
	}
}

// requireRules compares the table without its elements.
func (w *killRun) requireRules() {
	w.Helper()
	list := []string{"-s", "-t", "list", "table", "inet", "nftnat"}
	require.Equal(w, nft(w.T, w.mirrorTop.Host, list...), nft(w.T, w.top.Host, list...), w.what)
}

// notesBetween returns the notes on mappings that ended between two models: on those over
// UDP, and on those that end by themselves.
func notesBetween(before, after model) []string {
	var lines []string
	for _, m := range before.mappings {
		line, ok := noteOn(m)
		if ok && after.at(m) < 0 && (m.Proto == nat.UDP || !m.Expires.IsZero()) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// notesOnReplaced returns the notes on mappings that end by themselves and were replaced between two
// models. A change of ranges leaves them until the flows have ended.
func notesOnReplaced(before, after model) (lines []string) {
	for _, m := range before.mappings {
		line, ok := noteOn(m)
		if !ok || m.Expires.IsZero() {
			continue
		}
		i := after.at(m)
		if i < 0 {
			continue
		}
		if is, _ := noteOn(after.mappings[i]); after.mappings[i].Expires.IsZero() || is != line {
			lines = append(lines, line)
		}
	}
	return lines
}

// noteOn returns the note on a mapping, if netfilter translates to its backend.
func noteOn(m nat.Mapping) (line string, ok bool) {
	loopback, host := m.Frontend.Addr().IsLoopback(), m.Frontend.Addr()
	if crosses := host.IsValid() && host.Is4() != m.Backend.Addr().Is4(); loopback || crosses {
		return "", false
	}
	digit := "4"
	if m.Backend.Addr().Is6() {
		digit = "6"
	}
	if !host.IsValid() {
		host = netip.IPv4Unspecified()
		if digit == "6" {
			host = netip.IPv6Unspecified()
		}
	}
	line = fmt.Sprintf("%s%s_ended %s . %d : %s . %d", m.Proto, digit, host, m.Frontend.Port(), m.Backend.Addr(), m.Backend.Port())
	if m.Name != "" {
		line += " " + m.Name
	}
	return line, true
}

// requireSockets tries to bind every port that is published, and some others: the process
// that has adopted the table holds what is published, and nothing else.
func (w *killRun) requireSockets() {
	w.Helper()
	held := map[string]bool{}
	key := func(p nat.Proto, a netip.AddrPort) string { return p.String() + " " + a.String() }
	for _, m := range w.model.mappings {
		for _, a := range addressesOf(m.Frontend.Addr()) {
			held[key(m.Proto, netip.AddrPortFrom(a, m.Frontend.Port()))] = true
		}
	}
	var wrong []string
	err := w.top.Host.Do(func() error {
		for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
			for range 4 {
				port := uint16(firstFrontendPort + w.IntN(frontendPorts+2))
				for _, a := range addressesOf(netip.Addr{}) {
					at := netip.AddrPortFrom(a, port)
					free, err := canBind(proto, at)
					if err != nil {
						return err
					}
					if free == held[key(proto, at)] {
						wrong = append(wrong, fmt.Sprintf("%s free: %t", key(proto, at), free))
					}
				}
			}
		}
		for _, m := range w.model.mappings {
			for _, a := range addressesOf(m.Frontend.Addr()) {
				at := netip.AddrPortFrom(a, m.Frontend.Port())
				if free, err := canBind(m.Proto, at); err != nil || free {
					wrong = append(wrong, fmt.Sprintf("%s of %s free: %t, %v", key(m.Proto, at), m, free, err))
				}
			}
		}
		return nil
	})
	require.NoError(w, err)
	if len(wrong) != 0 {
		sockets := labtest.Exec(w.T, w.top.Host, "ss", "--no-header", "--numeric", "--all", "--tcp", "--udp", "--processes")
		require.Empty(w, wrong, "%s\n%s\n%s", w.what, strings.Join(w.model.lines(), "\n"), sockets)
	}
}

// addressesOf returns the addresses of the host that a frontend address covers.
func addressesOf(host netip.Addr) (as []netip.Addr) {
	for _, a := range []string{"192.0.2.1", "127.0.0.1", "2001:db8:1::1", "::1"} {
		addr := netip.MustParseAddr(a)
		if !host.IsValid() || host == addr || host.IsUnspecified() && host.Is4() == addr.Is4() {
			as = append(as, addr)
		}
	}
	return as
}

// canBind tries to bind a port, as a server does that ignores connections in TIME_WAIT.
func canBind(proto nat.Proto, at netip.AddrPort) (free bool, err error) {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	var addr unix.Sockaddr
	if at.Addr().Is4() {
		family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	} else {
		addr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	if proto == nat.UDP {
		kind = unix.SOCK_DGRAM
	}
	// A process that is being started has a copy of the socket until it executes its
	// program, and would keep the port from the next attempt.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }()
	if proto == nat.TCP {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return false, err
		}
	}
	err = unix.Bind(fd, addr)
	if err == nil && proto == nat.TCP {
		err = unix.Listen(fd, 1)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return false, nil
	}
	return err == nil, err
}

// inquiry is a client with a source port of its own: connection tracking sees all that it
// ever sends as one flow.
type inquiry struct {
	proto nat.Proto
	from  *lab.NS
	to    netip.AddrPort
	port  uint16 // the client's
}

// requireTraffic connects to a frontend that is published, and to one that was used before
// and may have another backend by now, or none.
func (w *killRun) requireTraffic() {
	w.Helper()
	if len(w.model.mappings) != 0 {
		m := pick(w.chooser, w.model.mappings)
		as := addressesOf(m.Frontend.Addr())
		q := inquiry{m.Proto, w.top.Client, netip.AddrPortFrom(pick(w.chooser, as), m.Frontend.Port()), 0}
		if q.to.Addr().IsLoopback() {
			q.from = w.top.Host
		}
		if i := slices.IndexFunc(w.asked, func(o inquiry) bool { return o.proto == q.proto && o.to == q.to }); i >= 0 {
			q = w.asked[i]
		} else {
			q.port = uint16(10_000 + len(w.asked))
			w.asked = append(w.asked, q)
		}
		w.ask(q)
	}
	if len(w.asked) != 0 {
		w.ask(pick(w.chooser, w.asked))
	}
}

// ask compares the server that answers with the one that the model expects.
func (w *killRun) ask(q inquiry) {
	w.Helper()
	want, known := w.model.answers(q)
	if !known {
		return // nobody answers, and nobody refuses
	}
	from := netip.AddrPort{}
	if q.proto == nat.UDP {
		from = netip.AddrPortFrom(netip.Addr{}, q.port)
	}
	name, _, err := askWithin(q.from, q.proto.String(), q.to.String(), from, answerTimeout)
	what := fmt.Sprintf("%s\n%s asks at %s %s, which the model says leads to %q", w.what, q.from, q.proto, q.to, want)
	if want == "" {
		require.ErrorIs(w, err, unix.ECONNREFUSED, what)
		return
	}
	require.NoError(w, err, what)
	require.Equal(w, want, name, what)
}

// answers returns the name of the server that has to answer, empty if the host has to
// refuse. It is not known for backends that do not exist.
func (l model) answers(q inquiry) (name string, known bool) {
	for _, m := range l.mappings {
		if m.Proto != q.proto || m.Frontend.Port() != q.to.Port() || !slices.Contains(addressesOf(m.Frontend.Addr()), q.to.Addr()) {
			continue
		}
		b := m.Backend
		proxied := q.to.Addr().IsLoopback() || q.to.Addr().Is4() != b.Addr().Is4()
		switch {
		case proxied && m.NoProxy:
			return "", m.Proto == nat.TCP // over UDP, nothing answers
		case b.Addr().Is4() && !strings.HasPrefix(b.Addr().String(), "172.30."), b.Addr().Is6() && !strings.HasPrefix(b.Addr().String(), "fd00:30:"):
			return "", false
		}
		return fmt.Sprintf("backend%d:%d", b.Addr().As16()[15]-1, b.Port()), true
	}
	return "", true
}
