// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/confine"
)

// onlooker is a process of the daemon's that looks into other processes, for the daemon
// itself cannot when it is confined. All that can be asked of it is which process has
// the socket of an inode. It ends when the daemon does, however that ends.
type onlooker struct {
	process *os.Process // nil: the service manager's

	mu  sync.Mutex
	end *os.File // of a pair of sockets; nil: it does not answer any more
}

// onlookerVerb is what this program is told to be an onlooker by.
const onlookerVerb = "onlooker"

// envOnlooker is the path of a socket by which the service manager starts one, so that
// the daemon needs none of its privileges.
const envOnlooker = "NFTNAT_ONLOOKER"

// onlookerPatience bounds how long an answer is waited for. Looking through the
// descriptors of a thousand processes takes some ten milliseconds.
const onlookerPatience = 5 * time.Second

func startOnlooker() (*onlooker, error) {
	if path := os.Getenv(envOnlooker); path != "" {
		return dialOnlooker(path)
	}
	// Each read and write is a whole question or answer.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start onlooker: %w", os.NewSyscallError("socketpair", err))
	}
	theirs := os.NewFile(uintptr(pair[1]), onlookerVerb)
	defer func() { _ = theirs.Close() }() // it has its own
	err = unix.SetNonblock(pair[0], true) // so that waiting for it can end
	mine := os.NewFile(uintptr(pair[0]), onlookerVerb)
	if err == nil {
		// What the daemon was handed is not for it; the daemon's own descriptors are not either.
		err = closeOnExec()
	}
	o := &onlooker{end: mine}
	if err == nil {
		// This very program, also when another one has been installed meanwhile.
		o.process, err = os.StartProcess("/proc/self/exe", []string{"nftnat", onlookerVerb}, &os.ProcAttr{
			Dir: "/", Env: []string{}, Files: []*os.File{theirs, theirs, os.Stderr},
		})
	}
	if err != nil {
		return nil, fmt.Errorf("start onlooker: %w", errors.Join(err, mine.Close()))
	}
	return o, nil
}

// dialOnlooker has the service manager start one.
func dialOnlooker(path string) (*onlooker, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for onlooker: %w", os.NewSyscallError("socket", err))
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, fmt.Errorf("ask for onlooker: %w", errors.Join(&os.PathError{Op: "connect", Path: path, Err: err}, unix.Close(fd)))
	}
	return &onlooker{end: os.NewFile(uintptr(fd), onlookerVerb)}, nil
}

// processOf asks it. Where it does not answer, nothing can be seen.
func (o *onlooker) processOf(inode uint32) (pid int, command string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.end == nil {
		return 0, ""
	}
	pid, command, err := o.ask(inode)
	if err != nil {
		_ = o.end.Close() // an answer that comes late would be taken for that to another question
		o.end = nil
	}
	return pid, command
}

func (o *onlooker) ask(inode uint32) (pid int, command string, err error) {
	if err := o.end.SetDeadline(time.Now().Add(onlookerPatience)); err != nil {
		return 0, "", err
	}
	if _, err := o.end.Write(strconv.AppendUint(nil, uint64(inode), 10)); err != nil {
		return 0, "", err
	}
	buf := make([]byte, 256)
	n, err := o.end.Read(buf)
	if err != nil {
		return 0, "", err
	}
	number, command, _ := strings.Cut(string(buf[:n]), " ")
	pid, err = strconv.Atoi(number)
	return pid, command, err
}

// close ends it and waits for it.
func (o *onlooker) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var err error
	if o.end != nil {
		err, o.end = o.end.Close(), nil
	}
	if o.process == nil {
		return err
	}
	_, waitErr := o.process.Wait()
	return errors.Join(err, waitErr)
}

func newOnlooker(*global) *cobra.Command {
	return &cobra.Command{
		Use:    onlookerVerb,
		Short:  "Tell the daemon which processes have which sockets",
		Args:   usage(cobra.NoArgs),
		Hidden: true,
		RunE:   func(*cobra.Command, []string) error { return lookOn() },
	}
}

// lookOn answers until the daemon has gone.
func lookOn() error {
	if kind, err := unix.GetsockoptInt(0, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		return usageError{errors.New("the daemon starts its onlooker by itself")}
	}
	// What ends the daemon from a terminal ends it when the daemon is through.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// For ps(1); the name of a thread has 15 bytes.
	_ = os.WriteFile("/proc/self/comm", []byte("nftnat-onlooker"), 0)
	// What cannot be restricted cannot be in the daemon either, which says so.
	_ = confine.Apply(confine.Options{Onlooker: true, Capabilities: []confine.Capability{confine.SysPtrace, confine.DACReadSearch}})
	buf := make([]byte, 16)
	for {
		n, err := unix.Read(0, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("hear the daemon: %w", err)
		case n == 0: // it has gone
			return nil
		}
		inode, err := strconv.ParseUint(string(buf[:n]), 10, 32)
		if err != nil {
			return fmt.Errorf("hear the daemon: %w", err)
		}
		pid, command := engine.ProcessOf(uint32(inode))
		if _, err := unix.Write(1, fmt.Appendf(nil, "%d %s", pid, command)); err != nil {
			if errors.Is(err, unix.EPIPE) {
				return nil
			}
			return fmt.Errorf("answer the daemon: %w", err)
		}
	}
}
