// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// Descriptors that dockerd passes.
const (
	statusFD = 3
	listenFD = 4
)

const (
	// answerTimeout is how long the daemon has to publish a port before a process carries it.
	answerTimeout = 5 * time.Second
	// longestPause is the longest one between the end of a daemon and the sessions with the next one,
	// so that a thousand processes do not ask at once.
	longestPause = 2 * time.Second
)

// envServe tells a process that it is to carry a port for its parent.
const envServe = "NFTNAT_DOCKER_SERVE"

// Process is a docker-proxy.
type Process struct {
	// Socket is that of the daemon.
	Socket string
	// Args are those of the process, the program's name included, and Flags those among them which
	// are docker-proxy's.
	Args, Flags []string
	// Version is what -version prints.
	Version string
	// Stdout and Stderr are not nil.
	Stdout, Stderr io.Writer
	// Text writes an error for dockerd; it may name the process that holds a port, into which the daemon
	// may not look. Nil: the error's own text.
	Text func(error) string

	config Config
	// status and listener are descriptors; negative: there is none.
	status, listener int
}

// Run does what docker-proxy does, and returns the exit status: 0 when it was told to stop or
// printed something, 1 for an error, which is told to dockerd, 2 for flags that cannot be read.
// Where all goes well it does not return: another program goes on in its place. It has to be called
// by the main goroutine, at the begin of the program.
func (p *Process) Run() int {
	// The thread that executes a program gives it its own signal at its parent's death
	// (PR_SET_PDEATHSIG): the main thread has that of dockerd.
	runtime.LockOSThread()
	p.status, p.listener = -1, -1
	var err error
	p.config, err = ParseFlags(p.Args[0], p.Flags, p.Stderr)
	switch {
	case helpAsked(err):
		return 0
	case err != nil:
		return 2
	case p.config.Version:
		_, _ = fmt.Fprintf(p.Stdout, "docker-proxy (nftnat) version %s\n", p.Version)
		return 0
	case os.Getenv(envServe) != "":
		return p.serveForParent()
	}
	if inherited(statusFD) {
		p.status = statusFD
	}
	if err := p.publishAndWait(); err != nil {
		return p.fail(err)
	}
	return 0
}

// publishAndWait returns when the process was told to stop, or with an error for dockerd, if it was not
// replaced by another program.
func (p *Process) publishAndWait() error {
	if err := p.check(); err != nil {
		return err
	}
	owner, err := api.ThisSessionOwner()
	if err != nil {
		return err
	}
	m, err := p.mapping(owner.String())
	var conn *net.UnixConn
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
		conn, _, err = api.NewClient(p.Socket).Session(ctx, p.sockets(), m)
		cancel()
	}
	switch {
	case refusal(err):
		return err
	case err != nil:
		if conn, err = p.startServer(owner.String(), m.ProxyOnly); err != nil {
			return err
		}
	}
	p.closeListener() // somebody else has it
	err = p.become(conn, m)
	// Where no image can be executed, this process waits.
	return p.stay(conn, m, err)
}

// check refuses what cannot be carried.
func (p *Process) check() error {
	if err := p.config.Check(); err != nil {
		return err
	}
	if !p.config.ListenFD {
		return nil
	}
	if !inherited(listenFD) {
		return fmt.Errorf("there is no socket as descriptor %d", listenFD)
	}
	kind, err := unix.GetsockoptInt(listenFD, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("descriptor %d: %w", listenFD, os.NewSyscallError("getsockopt", err))
	}
	p.listener = listenFD
	if (kind == unix.SOCK_DGRAM) != (p.config.Proto == "udp") {
		return fmt.Errorf("the socket of descriptor %d is not one of %s", listenFD, p.config.Proto)
	}
	return nil
}

// inherited reports whether a descriptor was there when the program began. Those that the runtime has
// opened by itself (epoll, files of the control group) are closed on exec.
func inherited(fd uintptr) bool {
	flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// sockets are those that the daemon is to have.
func (p *Process) sockets() []int {
	if p.listener < 0 {
		return nil
	}
	return []int{p.listener}
}

func (p *Process) closeListener() {
	if p.listener >= 0 {
		_ = unix.Close(p.listener) // frees it whatever it returns
		p.listener = -1
	}
}

// mapping is what is published. The error is for what the daemon does not serve.
func (p *Process) mapping(name string) (nat.Mapping, error) {
	dual := p.listener >= 0 && p.config.HostIP == netip.IPv6Unspecified() && isDual(p.listener)
	return p.config.mapping(name, p.proxyOnly(), dual)
}

// isDual reports whether a socket is for both families.
func isDual(fd int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain != unix.AF_INET6 {
		return false
	}
	only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	return err == nil && only == 0
}

// refusal reports whether an error is the daemon's decision that the port cannot be published, which
// this process could not do either.
func refusal(err error) bool {
	return errors.Is(err, nat.ErrConflict) || errors.Is(err, nat.ErrExhausted)
}

// fail tells dockerd why the port is not published.
func (p *Process) fail(err error) int {
	text := err.Error()
	if p.Text != nil {
		text = p.Text(err)
	}
	text = "nftnat: " + text
	if p.status < 0 {
		_, _ = fmt.Fprintln(p.Stderr, text)
		return 1
	}
	_, _ = unix.Write(p.status, []byte("1\n"+text)) // dockerd may have gone
	_ = unix.Close(p.status)
	return 1
}

// ready tells dockerd that the port is published.
func (p *Process) ready() {
	if p.status < 0 {
		return
	}
	_, _ = unix.Write(p.status, []byte("0\n")) // dockerd may have gone
	_ = unix.Close(p.status)
	p.status = -1
}

// become replaces the process by one that waits. It returns an error if that cannot be.
func (p *Process) become(conn *net.UnixConn, m nat.Mapping) error {
	session, err := inheritable(conn)
	if err != nil {
		return err
	}
	defer closeFD(session)
	w := wait{session: session, status: p.status, name: "docker-proxy", socket: p.Socket, pause: rand.N(longestPause)}
	if w.request, w.line, err = api.SessionRequest(m); err != nil {
		return err
	}
	if w.signals, err = blockSignals(); err != nil {
		return err
	}
	defer closeFD(w.signals)
	image := w.image(runtime.GOARCH)
	if image == nil {
		return errors.ErrUnsupported
	}
	memory, err := loadImage(image)
	if err != nil {
		return err
	}
	defer closeFD(memory)
	if p.status >= 0 {
		if _, err := unix.FcntlInt(uintptr(p.status), unix.F_SETFD, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	// Without an environment, and without a random distance between the arguments and the stack, both
	// are on one page. No secret is lost with that: the image has a fixed address.
	_, _, _ = unix.Syscall(unix.SYS_PERSONALITY, addrNoRandomize, 0, 0) // it works without, too
	return os.NewSyscallError("execve", syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", memory), p.Args, nil))
}

// addrNoRandomize is ADDR_NO_RANDOMIZE of personality(2).
const addrNoRandomize = 0x0040000

// closeFD frees a descriptor, which close(2) does whatever it returns.
func closeFD(fd int) { _ = unix.Close(fd) }

// inheritable returns a descriptor of a connection that stays open when a program is executed.
func inheritable(conn *net.UnixConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	controlErr := raw.Control(func(n uintptr) { fd, err = unix.Dup(int(n)) })
	return fd, errors.Join(err, controlErr)
}

// blockSignals blocks those that stop a process in the calling thread, and returns a signalfd(2) of
// them.
func blockSignals() (int, error) {
	// A daemon that has ended is no reason to end.
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, signalSet(unix.SIGINT, unix.SIGTERM, unix.SIGPIPE), nil); err != nil {
		return -1, os.NewSyscallError("rt_sigprocmask", err)
	}
	fd, err := unix.Signalfd(-1, signalSet(unix.SIGINT, unix.SIGTERM), 0)
	return fd, os.NewSyscallError("signalfd", err)
}

func signalSet(signals ...unix.Signal) *unix.Sigset_t {
	var set unix.Sigset_t
	width := 8 * int(unsafe.Sizeof(set.Val[0]))
	for _, s := range signals {
		n := int(s) - 1
		set.Val[n/width] |= 1 << (n % width)
	}
	return &set
}

// loadImage returns a file in memory that can be executed.
func loadImage(image []byte) (int, error) {
	const name = "docker-proxy"
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	if _, err = unix.Write(fd, image); err != nil {
		return -1, errors.Join(os.NewSyscallError("write", err), unix.Close(fd))
	}
	return fd, nil
}

// Is reports whether a process was started under docker-proxy's name.
func Is(args []string) bool { return len(args) != 0 && filepath.Base(args[0]) == "docker-proxy" }
