// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/handover"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// relay passes messages between a daemon and its successor, and sees each of them first.
type relay struct {
	*testbed
	to        *testbed
	handovers chan *net.UnixConn
	end       func()
	// rename gives what is lent another name. Nil: everything keeps its own.
	rename func(name string) string
}

func relayTo(t *testing.T, s *testbed) *relay {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "relay-")
	require.NoError(t, err)
	path := filepath.Join(dir, "relay.sock")
	r := &relay{
		testbed: &testbed{ns: s.ns, socket: path, api: api.NewClient(path), args: []string{"--socket", path}},
		to:      s, handovers: make(chan *net.UnixConn, 1),
	}
	r.serve(t, r.handovers)
	t.Cleanup(func() {
		r.end()
		require.NoError(t, os.RemoveAll(dir))
	})
	return r
}

// serve answers instead of the daemon.
func (r *relay) serve(t *testing.T, handovers chan<- *net.UnixConn) {
	t.Helper()
	l, err := api.Listen(r.socket, -1)
	require.NoError(t, err)
	server := api.NewServer(api.Options{
		Status:    func(context.Context) (api.Status, error) { return r.to.api.Status(context.Background()) },
		Handovers: handovers,
	})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	r.end = func() {
		cancel()
		require.NoError(t, <-served)
	}
}

// forgetHandovers makes it answer like a daemon of a version without handover.
func (r *relay) forgetHandovers(t *testing.T) {
	t.Helper()
	r.end()
	r.serve(t, nil)
}

// succeed runs a successor and passes on the messages of a handover. It calls seen with each
// message before it passes it on; if seen returns false, the relay ends.
func (r *relay) succeed(t *testing.T, seen func(k handover.Kind, successor *labtest.Process) bool) *labtest.Process {
	t.Helper()
	successor := labtest.StartCmd(t, r.ns, r.command(t, "serve", "--takeover"))
	var nc *net.UnixConn
	select {
	case nc = <-r.handovers:
	case <-successor.Done():
		t.Fatalf("it has not asked: %s", successor.Output())
	}
	receiver, err := handover.NewConn(nc)
	require.NoError(t, err)
	defer func() { require.NoError(t, receiver.Close()) }()
	nc, err = r.to.api.Handover(context.Background())
	require.NoError(t, err)
	sender, err := handover.NewConn(nc)
	require.NoError(t, err)
	defer func() { require.NoError(t, sender.Close()) }()
	for _, turn := range []struct {
		from, to *handover.Conn
		last     handover.Kind
	}{
		{receiver, sender, handover.Begin},
		{sender, receiver, handover.EndOfList},
		{receiver, sender, handover.Ready},
		{sender, receiver, handover.Commit},
		{receiver, sender, handover.Committed},
		{sender, receiver, handover.Released},
	} {
		for kind := handover.Kind(0); kind != turn.last; {
			m, err := turn.from.Receive(answerTimeout)
			require.NoError(t, err, "%s, %s", turn.last, successor.Output())
			kind = m.Kind
			for i := range m.Sockets {
				if r.rename != nil {
					m.Sockets[i].Name = r.rename(m.Sockets[i].Name)
				}
			}
			goOn := seen(kind, successor)
			if goOn {
				err = turn.to.Send(m, answerTimeout)
			}
			for _, s := range m.Sockets {
				err = errors.Join(err, unix.Close(s.FD))
			}
			require.NoError(t, err)
			if !goOn {
				return successor
			}
		}
	}
	return successor
}

// everyKindOfMessage returns the messages of a handover.
var everyKindOfMessage = []handover.Kind{
	handover.Begin, handover.Lend, handover.EndOfList, handover.Ready, handover.Commit, handover.Committed, handover.Released,
}

// If a successor is killed at any step, the old daemon continues to serve: no connection is
// refused, and changes and the next takeover work.
func TestTakeoverSuccessorKilled(t *testing.T) {
	top, s := proxiedHost(t)
	daemon := s.serve(t)
	s.publishEveryKind(t)
	r := relayTo(t, s)
	before := withoutClocks(ruleset(t, top.Host))
	files, goroutines := openBy(t, daemon.Pid), s.goroutines(t)
	held := startOccupiers(t, top.Host)
	for _, step := range everyKindOfMessage[:6] {
		t.Run(step.String(), func(t *testing.T) {
			calls := startCallers(t, top.Host, "tcp", "127.0.0.1:8080")
			calls.goOn(t)
			successor := r.succeed(t, func(k handover.Kind, successor *labtest.Process) bool {
				if k == step {
					successor.Kill()
				}
				return k != step
			})
			require.Equal(t, -1, successor.Wait())
			require.Equal(t, daemon.Pid, s.status(t).PID)
			s.succeed(t, "add --quiet tcp 9000 172.30.0.2:80")
			labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:9000", "backend")
			s.succeed(t, "rm tcp 9000")
			calls.goOn(t)
			done := calls.end(t)
			require.Zero(t, calls.refused+calls.lost, done)
			if step != handover.Committed { // from then on it serves, and its connections end with it
				require.Zero(t, calls.broken, done)
			}
			require.Equal(t, before, withoutClocks(ruleset(t, top.Host)))
		})
	}
	held.end(t)
	await(t, "nothing to be left of those who were killed", func() bool {
		return openBy(t, daemon.Pid) == files && s.goroutines(t) <= goroutines
	})
	next := s.succeedBy(t)
	require.Zero(t, daemon.Wait(), daemon.Output())
	require.Equal(t, 8, s.status(t).Proxies)
	require.Equal(t, next.Pid, s.status(t).PID)
}

// If a daemon is killed after it has lent its sockets, its successor serves: no connection is
// refused, and no other process gets the ports.
func TestTakeoverPredecessorKilled(t *testing.T) {
	top, s := proxiedHost(t)
	for _, step := range labtest.Some(t, "messages of a takeover to be killed at", 3, everyKindOfMessage[2:]) {
		t.Run(step.String(), func(t *testing.T) {
			daemon := s.serve(t)
			s.succeed(t, "apply --quiet -f testdata/empty.yaml")
			s.publishEveryKind(t)
			r := relayTo(t, s)
			calls := startCallers(t, top.Host, "tcp", "127.0.0.1:8080")
			held := startOccupiers(t, top.Host)
			successor := r.succeed(t, func(k handover.Kind, _ *labtest.Process) bool {
				if k == step {
					daemon.Kill()
				}
				return k != step
			})
			daemon.Kill() // killed, because otherwise it waits for its connections
			await(t, "the successor to answer", func() bool {
				select {
				case <-successor.Done():
					t.Fatalf("the successor has ended: %s", successor.Output())
				default:
				}
				st, err := s.api.Status(context.Background())
				return err == nil && st.PID == successor.Pid
			})
			calls.goOn(t)
			done := calls.end(t)
			held.end(t)
			require.Zero(t, calls.refused+calls.lost, done)
			labtest.Reaches(t, top.Host, "udp", "127.0.0.1:8080", "backend")
			_, err := occupy(top.Host, "tcp", "127.0.0.1:8083", unix.SO_REUSEADDR)
			require.ErrorIs(t, err, unix.EADDRINUSE)
			require.NoError(t, successor.Signal(unix.SIGTERM))
			require.Zero(t, successor.Wait(), successor.Output())
		})
	}
}
