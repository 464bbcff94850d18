// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// stay does what the image does, where none can be executed.
func (p *Process) stay(conn *net.UnixConn, m nat.Mapping, reason error) error {
	_ = reason // which is how the machine is set up
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := unix.PthreadSigmask(unix.SIG_UNBLOCK, signalSet(unix.SIGINT, unix.SIGTERM), nil); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	p.ready()
	for {
		await(stopped, conn)
		for pause := time.Duration(0); ; pause = longestPause {
			if sleep(stopped, pause); stopped.Err() != nil {
				return nil
			}
			ctx, cancel := context.WithTimeout(stopped, answerTimeout)
			next, _, err := api.NewClient(p.Socket).Session(ctx, nil, m)
			cancel()
			if err == nil {
				conn = next
				break
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// await returns when the session has ended. It ends it if the process is to stop.
func await(stopped context.Context, conn *net.UnixConn) {
	stop := context.AfterFunc(stopped, func() {
		_ = conn.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(stopTimeout))
	})
	defer stop()
	var b [1]byte
	_, _ = conn.Read(b[:]) // nothing more is said: whatever it returns, it is the end
	_ = conn.Close()
}

// startServer starts a process that carries the port until a daemon does, and returns a connection by which
// each of the two notices the other's end, as if it were a session.
func (p *Process) startServer(owner string, proxyOnly bool) (*net.UnixConn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "session"), os.NewFile(uintptr(pair[1]), "session")
	defer func() { _ = errors.Join(ours.Close(), theirs.Close()) }()
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs}
	if p.listener >= 0 {
		files = append(files, os.NewFile(uintptr(p.listener), "listener"))
		p.listener = -1
		defer func() { _ = files[4].Close() }()
	}
	_, err = os.StartProcess("/proc/self/exe", p.Args, &os.ProcAttr{
		// The first of two variables of a name counts.
		Env: append([]string{envServe + "=" + owner, EnvMode + "=" + modeOf(proxyOnly)}, os.Environ()...), Files: files,
		// It ends with this process, and not by the signals of a terminal.
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	signal.Ignore(syscall.SIGCHLD) // also in the image: nobody waits for it
	if err != nil {
		return nil, err
	}
	_ = theirs.Close()
	c, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T is no unix socket", c), c.Close())
	}
	b := make([]byte, 4096)
	n, err := conn.Read(b)
	switch {
	case err != nil:
		err = fmt.Errorf("carry the port: %w", err)
	case b[0] != '0':
		err = errors.New(string(b[1:n]))
	default:
		return conn, nil
	}
	return nil, errors.Join(err, conn.Close())
}

// Pauses between attempts to reach a daemon.
const (
	servingPause = time.Second
	mostPause    = 30 * time.Second
)

// serveForParent carries the port until a daemon does and the connections have ended, or the parent ends.
func (p *Process) serveForParent() int {
	owner := os.Getenv(envServe)
	if p.config.ListenFD {
		p.listener = listenFD
	}
	f := os.NewFile(statusFD, "parent")
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return 1
	}
	parent, ok := c.(*net.UnixConn)
	if !ok {
		return 1
	}
	defer func() { _ = parent.Close() }()
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP) // the parent's end is what counts
	group := proxy.NewGroup(&proxy.GroupOptions{Loops: 1})
	defer func() { _ = group.Close() }()
	m, unserved := p.mapping(owner)
	px, err := p.open(group)
	if err != nil {
		_, _ = fmt.Fprintf(parent, "1%s", err) // the parent may have gone
		return 1
	}
	if _, err := parent.Write([]byte("0")); err != nil {
		return 1
	}
	ended, end := context.WithCancel(context.Background())
	defer end()
	go func() { // until the process ends
		defer end()
		var b [1]byte
		_, _ = parent.Read(b[:]) // the parent says nothing: whatever it returns, it is the end
	}()
	if unserved != nil {
		<-ended.Done()
		return 0
	}
	for pause := servingPause; ended.Err() == nil; pause = min(2*pause, mostPause) {
		sleep(ended, pause)
		ctx, cancel := context.WithTimeout(ended, answerTimeout)
		conn, _, err := api.NewClient(p.Socket).Session(ctx, []int{px.Descriptor()}, m)
		cancel()
		if err == nil {
			group.Leave()
			// The parent opens a session of its own, in the place of this one.
			_ = parent.Close()
			var b [1]byte
			_ = conn.SetReadDeadline(time.Now().Add(attemptTimeout))
			_, _ = conn.Read(b[:])
			_ = group.Shutdown(context.Background())
			return 0
		}
		if errors.Is(err, nat.ErrInvalid) {
			<-ended.Done()
		}
	}
	return 0
}

// open begins to carry the port.
func (p *Process) open(group *proxy.Group) (proxy.Proxy, error) {
	front, back := net.Addr(net.TCPAddrFromAddrPort(p.config.frontend())), net.Addr(net.TCPAddrFromAddrPort(p.config.backend()))
	switch p.config.Proto {
	case "udp":
		front, back = net.UDPAddrFromAddrPort(p.config.frontend()), net.UDPAddrFromAddrPort(p.config.backend())
	case "sctp":
		return nil, fmt.Errorf("publish sctp port %d: only TCP and UDP are supported", p.config.HostPort)
	}
	opts := &proxy.Options{Group: group, V6Only: true}
	var s *proxy.Socket
	var err error
	if p.listener >= 0 {
		if err := unix.SetNonblock(p.listener, true); err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		s, err = proxy.NewSocket(p.listener)
	} else {
		s, err = proxy.Bind(front, opts)
	}
	if err != nil {
		return nil, err
	}
	px, err := s.Proxy(back, opts)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return px, px.Open()
}
