// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// fakeDaemon publishes nothing.
type fakeDaemon struct {
	api.Engine
	socket string

	mu sync.Mutex
	// err is why sessions are refused; nil: they are not.
	err error
	// sessions are those that were opened, with the sockets that came with them.
	sessions []api.Session
	sockets  int
	opened   chan api.Session
}

func (d *fakeDaemon) open(_ context.Context, s api.Session) ([]nat.Mapping, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	d.sessions, d.sockets = append(d.sessions, s), d.sockets+len(s.Sockets)
	d.opened <- s
	return s.Mappings, nil
}

// closeAll ends the sessions, as the end of a daemon does.
func (d *fakeDaemon) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sessions {
		_ = s.Conn.Close()
	}
	d.sessions = nil
}

// newFakeDaemon has a socket, at which nobody listens before serve.
func newFakeDaemon(t *testing.T) *fakeDaemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "") // t.TempDir is too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return &fakeDaemon{socket: filepath.Join(dir, "s"), opened: make(chan api.Session, 1000)}
}

func (d *fakeDaemon) serve(t *testing.T) *fakeDaemon {
	t.Helper()
	l, err := api.Listen(d.socket, -1)
	require.NoError(t, err)
	s := api.NewServer(api.Options{Engine: d, Sessions: d.open, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
		d.closeAll()
	})
	return d
}

// next is the next session that is opened.
func (d *fakeDaemon) next(t *testing.T) api.Session {
	t.Helper()
	select {
	case s := <-d.opened:
		return s
	case <-time.After(labtest.Stretch(20 * time.Second)):
		t.Fatal("no session was opened")
	}
	return api.Session{}
}

// ends reports that the client of a session has ended it, and closes the daemon's side.
func ends(t *testing.T, s api.Session) {
	t.Helper()
	require.NoError(t, s.Conn.SetReadDeadline(time.Now().Add(labtest.Stretch(20*time.Second))))
	_, err := s.Conn.Read(make([]byte, 1))
	if !errors.Is(err, unix.ECONNRESET) { // it may not have read the answer
		require.ErrorIs(t, err, io.EOF)
	}
	require.NoError(t, s.Conn.Close())
}

// proxyCmd is a docker-proxy.
func (d *fakeDaemon) proxyCmd(t *testing.T, flags string, files ...*os.File) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(program, strings.Fields(flags)...)
	cmd.Env = append(os.Environ(), envSocket+"="+d.socket)
	cmd.ExtraFiles = files
	return cmd
}

const web = "-proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80"

// start starts a docker-proxy as dockerd does, and returns what it wrote to the status pipe.
func (d *fakeDaemon) start(t *testing.T, flags string, files ...*os.File) (cmd *exec.Cmd, status string) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	cmd = d.proxyCmd(t, flags, append([]*os.File{w}, files...)...)
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	require.NoError(t, r.SetReadDeadline(time.Now().Add(labtest.Stretch(16*time.Second))))
	text, err := io.ReadAll(r)
	require.NoError(t, errors.Join(err, r.Close()))
	return cmd, string(text)
}

// stops stops a process, which must end with status 0.
func stops(t *testing.T, cmd *exec.Cmd, s os.Signal) {
	t.Helper()
	require.NoError(t, cmd.Process.Signal(s))
	require.NoError(t, cmd.Wait())
}

// A process that waits is one page and one of stack, has one thread, and keeps the name that administrators look for.
func TestWaiting(t *testing.T) {
	d := newFakeDaemon(t).serve(t)
	cmd, status := d.start(t, web)
	require.Equal(t, "0\n", status)
	s := d.next(t)
	require.Len(t, s.Mappings, 1)
	require.Equal(t, "0.0.0.0:8080->172.17.0.2:80", s.Mappings[0].String())
	owner, ok := api.ParseSessionOwner(s.Mappings[0].Name)
	require.True(t, ok, s.Mappings[0].Name)
	require.Equal(t, cmd.Process.Pid, owner.PID)
	proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
	comm, err := os.ReadFile(proc + "comm")
	require.NoError(t, err)
	require.Equal(t, "docker-proxy\n", string(comm))
	threads, err := os.ReadDir(proc + "task")
	require.NoError(t, err)
	require.Len(t, threads, 1)
	require.LessOrEqual(t, pss(t, cmd.Process.Pid), 2*os.Getpagesize()>>10)
	cmdline, err := os.ReadFile(proc + "cmdline")
	require.NoError(t, err)
	require.Contains(t, string(cmdline), "-host-port\x008080\x00")
	fds, err := os.ReadDir(proc + "fd")
	require.NoError(t, err)
	require.Less(t, len(fds), 10)
	require.NoError(t, cmd.Process.Signal(unix.SIGINT))
	ends(t, s)
	require.NoError(t, cmd.Wait())
}

// becomes returns when a process is the small program.
func becomes(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	require.Eventually(t, func() bool { return pss(t, cmd.Process.Pid) <= 64 }, labtest.Stretch(20*time.Second), 5*time.Millisecond)
}

// pss is what a process takes, in KiB, what it shares counted in part.
func pss(t *testing.T, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for s := bufio.NewScanner(f); s.Scan(); {
		if kib := 0; strings.HasPrefix(s.Text(), "Pss:") {
			_, err := fmt.Sscanf(s.Text(), "Pss: %d kB", &kib)
			require.NoError(t, err)
			return kib
		}
	}
	t.Fatal("no Pss")
	return 0
}

// Each of many that are stopped at once after their start ends with 0.
func TestImmediateStops(t *testing.T) {
	d := newFakeDaemon(t).serve(t)
	go func() {
		for s := range d.opened {
			go func() {
				_, _ = s.Conn.Read(make([]byte, 1))
				_ = s.Conn.Close()
			}()
		}
	}()
	for range 300 {
		cmd, status := d.start(t, web)
		require.Equal(t, "0\n", status)
		stops(t, cmd, unix.SIGINT)
	}
}

// A daemon that says no is believed, and dockerd is told in one piece.
func TestRefused(t *testing.T) {
	d := newFakeDaemon(t)
	m, err := nat.ParseMappingText("8080->172.17.0.9:80")
	require.NoError(t, err)
	d.err = fmt.Errorf("publish tcp 8080: %w", &nat.ConflictError{Want: m, Have: m})
	d.serve(t)
	cmd, status := d.start(t, web)
	require.Equal(t, "1\nnftnat: publish tcp 8080: tcp 8080 is published as 8080->172.17.0.9:80", status)
	requireStatus(t, cmd.Wait(), 1)
}

func requireStatus(t *testing.T, err error, status int) {
	t.Helper()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, status, exit.ExitCode())
}

// What the flags ask for and cannot be is refused, in docker-proxy's way.
func TestRefusedFlags(t *testing.T) {
	d := newFakeDaemon(t)
	for flags, want := range map[string]struct {
		pipe string
		code int
	}{
		"-host-port x":                               {"", 2},
		"-no-such-flag":                              {"", 2},
		"-host-ip nonsense":                          {"", 2},
		"-proto icmp -host-port 1":                   {"1\nnftnat: unsupported protocol icmp", 1},
		"-host-port 70000":                           {"1\nnftnat: invalid host port 70000: it is not 1 to 65535", 1},
		web + " -use-listen-fd":                      {"1\nnftnat: there is no socket as descriptor 4", 1},
		"-proto sctp -host-port 1 -container-port 1": {"1\nnftnat: publish sctp port 1: only TCP and UDP are supported", 1},
	} {
		cmd, status := d.start(t, flags)
		require.Equal(t, want.pipe, status, flags)
		requireStatus(t, cmd.Wait(), want.code)
	}
	for _, flags := range []string{"-v", "-version", "-h"} {
		cmd, status := d.start(t, flags)
		require.Empty(t, status)
		require.NoError(t, cmd.Wait(), flags)
	}
	out, err := d.proxyCmd(t, "-version").Output()
	require.NoError(t, err)
	require.Equal(t, "docker-proxy (nftnat) version 1.2.3\n", string(out))
}

// A socket that is not of the protocol is refused.
func TestWrongSocket(t *testing.T) {
	d := newFakeDaemon(t).serve(t)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	f, err := c.File()
	require.NoError(t, errors.Join(err, c.Close()))
	cmd, status := d.start(t, web+" -use-listen-fd", f)
	require.Equal(t, "1\nnftnat: the socket of descriptor 4 is not one of tcp", status)
	requireStatus(t, cmd.Wait(), 1)
	require.NoError(t, f.Close())
}

// Without a status pipe all is the same, and errors go to standard error.
func TestNoStatusPipe(t *testing.T) {
	d := newFakeDaemon(t).serve(t)
	cmd := d.proxyCmd(t, web)
	require.NoError(t, cmd.Start())
	s := d.next(t)
	becomes(t, cmd)
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	ends(t, s)
	require.NoError(t, cmd.Wait())
	out, err := d.proxyCmd(t, "-host-port 0").CombinedOutput()
	requireStatus(t, err, 1)
	require.Equal(t, "nftnat: invalid host port 0: it is not 1 to 65535\n", string(out))
}

// The end of the thread that started it is a signal, which it gets after it became another program.
func TestParentDeath(t *testing.T) {
	d := newFakeDaemon(t).serve(t)
	started, release := make(chan error), make(chan struct{})
	cmd := d.proxyCmd(t, web)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	var start func()
	start = func() {
		runtime.LockOSThread() // the thread ends with the goroutine, unless it is the first one
		if unix.Gettid() != unix.Getpid() {
			started <- cmd.Start()
			<-release
			return
		}
		go start()
		<-release
		runtime.UnlockOSThread()
	}
	go start()
	require.NoError(t, <-started)
	s := d.next(t)
	becomes(t, cmd)
	close(release)
	ends(t, s)
	require.NoError(t, cmd.Wait())
}

// A process whose daemon has ended opens a session with the next one, under the same name.
func TestNextDaemon(t *testing.T) {
	d := newFakeDaemon(t).serve(t)
	cmd, status := d.start(t, web)
	require.Equal(t, "0\n", status)
	first := d.next(t)
	for range 2 {
		d.closeAll()
		again := d.next(t)
		require.Equal(t, first.Mappings, again.Mappings)
		becomes(t, cmd)
		first = again
	}
	require.NoError(t, cmd.Process.Signal(unix.SIGINT))
	ends(t, first)
	require.NoError(t, cmd.Wait())
}

// Without a daemon the process carries the port itself, also by a socket that it was given.
func TestNoDaemon(t *testing.T) {
	backend := echo(t)
	for _, given := range []bool{false, true} {
		socket, at := listening(t)
		flags := fmt.Sprintf("-proto tcp -host-ip 127.0.0.1 -host-port %d -container-ip 127.0.0.1 -container-port %d", at.Port(), backend.Port())
		var files []*os.File
		if given {
			flags += " -use-listen-fd"
			files = append(files, socket)
		} else {
			require.NoError(t, socket.Close())
		}
		cmd, status := newFakeDaemon(t).start(t, flags, files...)
		require.Equal(t, "0\n", status)
		if given {
			require.NoError(t, socket.Close())
		}
		answers(t, at.String())
		stops(t, cmd, unix.SIGINT)
		_, err := net.Dial("tcp", at.String())
		require.ErrorIs(t, err, unix.ECONNREFUSED)
	}
}

// A process that carries a port leaves it, with its socket, to the first daemon that comes.
func TestLaterDaemon(t *testing.T) {
	socket, at := listening(t)
	require.NoError(t, socket.Close())
	d := newFakeDaemon(t)
	cmd, status := d.start(t, fmt.Sprintf("-host-ip 127.0.0.1 -host-port %d -container-ip 192.0.2.9 -container-port 80", at.Port()))
	require.Equal(t, "0\n", status)
	d.serve(t)
	s := d.next(t)
	d.mu.Lock()
	require.Equal(t, 1, d.sockets)
	d.mu.Unlock()
	again := d.next(t) // that of the process which waits
	require.Equal(t, s.Mappings, again.Mappings)
	require.NoError(t, s.Conn.Close())
	becomes(t, cmd)
	_, err := net.Dial("tcp", at.String())
	require.ErrorIs(t, err, unix.ECONNREFUSED, "the fake has closed the socket")
	require.NoError(t, cmd.Process.Signal(unix.SIGINT))
	ends(t, again)
	require.NoError(t, cmd.Wait())
}

// listening is a socket as dockerd passes it: listening, and of TCP alone.
func listening(t *testing.T) (*os.File, netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "listener")
	require.NoError(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(fd, 128))
	name, err := unix.Getsockname(fd)
	require.NoError(t, err)
	sa, ok := name.(*unix.SockaddrInet4)
	require.True(t, ok)
	return f, netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
}

// echo is a server that sends back what it gets.
func echo(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// answers requires an echo.
func answers(t *testing.T, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.NoError(t, c.SetDeadline(time.Now().Add(labtest.Stretch(10*time.Second))))
	_, err = io.WriteString(c, "hello")
	require.NoError(t, err)
	b := make([]byte, 5)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
}
