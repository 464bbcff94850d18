// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// To distinguish a dropped packet from a late one, the test sends other packets after it from
// the same machine, which are answered later. After so many of them without an answer to the
// first, it counts as dropped.
const quietRounds = 5

// measure returns the outcomes of cells, in the same order. Cells of one source are measured
// at the same time.
func (r *reach) measure(t *testing.T, all []cell) []outcome {
	t.Helper()
	labtest.Exec(t, r.top.Host, "conntrack", "-F")
	outcomes := make([]outcome, len(all))
	for _, s := range sources() {
		var open []*question
		ns := r.machines[s]
		require.NoError(t, ns.Do(func() error {
			for i, c := range all {
				if c.source != s {
					continue
				}
				to, from := r.address(c)
				q, err := ask(c, i, to, from)
				if err != nil { // the kernel does not send it
					outcomes[i] = outcome{none: err.Error()}
					continue
				}
				open = append(open, q)
			}
			return nil
		}))
		for quiet := 0; quiet < quietRounds && len(open) != 0; quiet++ {
			r.askLater(t, ns)
			before := len(open)
			open = r.collect(t, open, outcomes)
			if len(open) < before {
				quiet = -1
			}
		}
		for _, q := range open {
			outcomes[q.index] = dropped
			_ = unix.Close(q.fd)
		}
	}
	return outcomes
}

// askLater connects to the host and, through it, to the backend, and waits for the answers.
func (r *reach) askLater(t *testing.T, ns *lab.NS) {
	t.Helper()
	for i, f := range families(r.top) {
		labtest.Reaches(t, ns, "tcp", at(f.host, reachOwn), "host")
		if !r.mutated { // otherwise nothing may pass
			labtest.Reaches(t, ns, "tcp", at(f.host, []int{reachAny4, reachAny6}[i]), serverPublished)
		}
	}
}

// question is a socket that waits for an answer.
type question struct {
	cell  cell
	index int
	fd    int
	// answer is the result over TCP.
	answer []byte
}

// ask sends the first packet of a cell from the namespace of the calling thread, without
// blocking.
func ask(c cell, index int, to, from netip.AddrPort) (*question, error) {
	domain, kind := unix.AF_INET6, unix.SOCK_STREAM
	if c.bits == 32 {
		domain = unix.AF_INET
	}
	if c.network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	q := &question{cell: c, index: index, fd: fd}
	if from.Port() != 0 { // it is used again, by each run and for other servers
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	}
	if err == nil && from.IsValid() {
		err = unix.Bind(fd, sockaddrPort(from))
	}
	if err == nil {
		if err = unix.Connect(fd, sockaddrPort(to)); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	}
	if err == nil && c.network == "udp" {
		_, err = unix.Write(fd, []byte("?"))
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return q, nil
}

func sockaddrPort(ap netip.AddrPort) unix.Sockaddr {
	switch a := sockaddr(ap.Addr().WithZone("")).(type) {
	case *unix.SockaddrInet4:
		a.Port = int(ap.Port())
		return a
	case *unix.SockaddrInet6:
		a.Port = int(ap.Port())
		if zone := ap.Addr().Zone(); zone != "" {
			_, _ = fmt.Sscan(zone, &a.ZoneId) // a number: see linkLocalAddr
		}
		return a
	}
	return nil
}

// collect reads the answers that have come, and returns the questions without one.
func (r *reach) collect(t *testing.T, open []*question, outcomes []outcome) (left []*question) {
	t.Helper()
	for _, q := range open {
		o, done := r.read(t, q)
		if !done {
			left = append(left, q)
			continue
		}
		outcomes[q.index] = o
		require.NoError(t, unix.Close(q.fd))
	}
	return left
}

// read looks for the answer to a question: the line of a server, or an error.
func (r *reach) read(t *testing.T, q *question) (outcome, bool) {
	t.Helper()
	buf := make([]byte, 256)
	n, err := unix.Read(q.fd, buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return outcome{}, false
	case errors.Is(err, unix.ECONNREFUSED):
		return refused, true
	case err != nil:
		return outcome{none: err.Error()}, true
	case n == 0:
		return outcome{none: "closed"}, true
	}
	q.answer = append(q.answer, buf[:n]...)
	line, _, whole := strings.Cut(string(q.answer), "\n")
	if !whole {
		return outcome{}, false
	}
	server, peer, _ := strings.Cut(line, " ")
	addr, err := netip.ParseAddrPort(peer)
	require.NoError(t, err, line)
	return outcome{server, r.seen(q.cell, addr), ""}, true
}

// confirm measures a cell again, alone, and waits: a late answer is no drop.
func (r *reach) confirm(c cell) outcome {
	to, from := r.address(c)
	wait := answerTimeout
	if r.mutated {
		wait = silence
	}
	server, peer, err := askWithin(r.machines[c.source], c.network, to.String(), from, wait)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return dropped
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	case err != nil:
		return outcome{none: err.Error()}
	}
	return outcome{server, r.seen(c, peer), ""}
}

// frontendOfSource is the port of the frontend that leads to the port which the source sends
// from; zero: none does.
func (c cell) frontendOfSource() uint16 {
	if c.target == fromAny && c.bits == 128 {
		return reachOut + 10
	}
	return map[target]uint16{fromAny: reachOut, fromOne: reachOutOne, fromNoLink: reachNoLink}[c.target]
}

// seen names the client that a server sees, and its port if masqueraded flows must not have
// it.
func (r *reach) seen(c cell, peer netip.AddrPort) string {
	name, ok := r.names[peer.Addr()]
	if !ok {
		name = peer.Addr().String()
	}
	switch {
	case c.asked != byFar && c.asked != byNear || !c.source.inNetwork() || masqueradePort(peer.Port()):
	case peer.Port() == c.frontendOfSource():
		name += byItsPort
	default:
		name += fmt.Sprint(", port ", peer.Port())
	}
	return name
}

// deviations lists the cells whose outcome is not as designed, one a line. For a mutated
// ruleset it lists the first one only.
func (r *reach) deviations(t *testing.T, all []cell) (lines []string) {
	t.Helper()
	for i, got := range r.measure(t, all) {
		want := all[i].want()
		if got == dropped && want != dropped {
			got = r.confirm(all[i])
		}
		if got == want {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: %s, not %s", all[i], got, want))
		if r.mutated {
			break
		}
	}
	return lines
}
