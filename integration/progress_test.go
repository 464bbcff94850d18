// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// terminal is a pseudoterminal (pty(7)) that collects what programs write to it.
type terminal struct {
	program *os.File // the end for programs

	mu   sync.Mutex
	text bytes.Buffer
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	screen := os.NewFile(uintptr(fd), "screen")
	t.Cleanup(func() { _ = screen.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	// Not by its name, which may be another terminal's in this mount namespace (ioctl_tty(2)).
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	require.Zero(t, errno)
	term := &terminal{program: os.NewFile(peer, "terminal")}
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := screen.Read(buf)
			term.mu.Lock()
			term.text.Write(buf[:n])
			term.mu.Unlock()
			if err != nil { // EIO, when the other end is closed
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = term.program.Close()
		reading.Wait()
	})
	return term
}

func (t *terminal) shown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// slowEngine publishes nothing, and takes long.
type slowEngine struct {
	api.Engine
	entered, leave chan struct{}
}

func (e *slowEngine) ApplyState(context.Context, nat.State) ([]nat.Change, error) {
	e.entered <- struct{}{}
	<-e.leave
	return nil, nil
}

func (e *slowEngine) Mappings(context.Context) ([]nat.Mapping, error) { return nil, nil }

// serveSlowly answers instead of a daemon.
func (s *testbed) serveSlowly(t *testing.T) *slowEngine {
	t.Helper()
	e := &slowEngine{entered: make(chan struct{}), leave: make(chan struct{})}
	listener, err := api.Listen(s.socket, -1)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	server := api.NewServer(api.Options{
		Engine:   e,
		Status:   func(context.Context) (api.Status, error) { return api.Status{}, nil },
		Progress: func() api.Progress { return api.Progress{Step: "bind", Done: 256, Total: 600} },
	})
	serving.Go(func() { _ = server.Serve(ctx, listener) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
	return e
}

// A command that takes long shows its progress on a terminal, and erases it. It shows nothing
// in a pipe, and with --quiet or --json.
func TestProgress(t *testing.T) {
	s := newTestbed(t, labtest.NewNS(t, "host"))
	e := s.serveSlowly(t)
	start := func(stderr *os.File, args ...string) *labtest.Process {
		cmd := s.command(t, append(args, "apply", "-f", "testdata/empty.yaml")...)
		cmd.Stderr = stderr
		p := labtest.StartCmd(t, s.ns, cmd)
		select {
		case <-e.entered:
		case <-p.Done():
			t.Fatalf("apply has ended: %s", p.Output())
		}
		return p
	}
	quiet := map[string]*terminal{"--quiet": newTerminal(t), "--json": newTerminal(t)}
	silent := []*labtest.Process{start(quiet["--quiet"].program, "--quiet"), start(quiet["--json"].program, "--json")}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	silent = append(silent, start(w))
	require.NoError(t, w.Close())

	// These have run for longer when this one shows its progress.
	screen := newTerminal(t)
	talking := start(screen.program)
	const erase = "\r\x1b[K"
	await(t, "progress", func() bool { return screen.shown() == erase+"nftnat: binding ports: 256 of 600" })
	for range 1 + len(silent) {
		e.leave <- struct{}{}
	}
	require.Zero(t, talking.Wait())
	await(t, "the line to be wiped", func() bool { return screen.shown() == erase+"nftnat: binding ports: 256 of 600"+erase })
	for _, p := range silent {
		require.Zero(t, p.Wait())
	}
	for option, term := range quiet {
		require.Empty(t, term.shown(), option)
	}
	var piped bytes.Buffer
	_, err = piped.ReadFrom(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Empty(t, piped.String())
}
