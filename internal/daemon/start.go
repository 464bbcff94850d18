// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// envReady names the descriptor on which a daemon says to the command that started it that it
// is ready, or why it cannot be.
const envReady = "NFTNAT_READY_FD"

const readyWord = "ready\n"

// StartError is why a daemon could not be started, with its exit status.
type StartError struct {
	Reason string
	Status int
}

func (e *StartError) Error() string { return e.Reason }

// Start runs this program in the background, as a daemon that writes its log to a file, and
// waits until it is ready. With service, the daemon takes the place of the one that the service
// manager started, if there is a service manager. The error is a [*StartError] if the daemon
// said why it could not start.
func Start(ctx context.Context, args []string, log *os.File, service bool) error {
	reply, process, err := startProcess(args, log, service)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = reply.Close() }() // was only read
	if deadline, ok := ctx.Deadline(); ok {
		_ = reply.SetReadDeadline(deadline)
	}
	text, err := bufio.NewReader(reply).ReadString('\n')
	switch {
	case text == readyWord:
		return process.Release()
	case text != "":
		_, _ = process.Wait()
		number, reason, _ := strings.Cut(strings.TrimSpace(text), " ")
		status, err := strconv.Atoi(number)
		if err != nil {
			status = 1
		}
		return &StartError{reason, status}
	case errors.Is(err, io.EOF):
		_, _ = process.Wait()
		return errors.New("start daemon: it ended and gave no reason")
	}
	return fmt.Errorf("start daemon: it is not ready: %w", err)
}

// startProcess starts the process, and returns the pipe through which it says that it is ready.
func startProcess(args []string, log *os.File, service bool) (reply *os.File, _ *os.Process, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = null.Close() }()
	reply, ready, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = ready.Close() }() // so that the end of the daemon ends the reading
	// All descriptors but the standard ones, also those that this process was started with.
	err = os.NewSyscallError("close_range", unix.CloseRange(3, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC))
	if err != nil {
		return nil, nil, errors.Join(err, reply.Close())
	}
	names, sys := ownVariables(), &syscall.SysProcAttr{Setsid: true}
	if service {
		names = slices.Concat(names, serviceVariables())
		// For a service manager that this command is a process of: it has to be the parent when
		// it is told of the daemon, and this command may not have ended by then.
		if ofService(os.Environ()) {
			sys.Cloneflags = unix.CLONE_PARENT
		}
	}
	process, err := os.StartProcess(self, args, &os.ProcAttr{
		Env:   append(keepVariables(os.Environ(), names), envReady+"=3"),
		Files: []*os.File{null, null, log, ready}, Sys: sys,
	})
	if err != nil {
		return nil, nil, errors.Join(err, reply.Close())
	}
	return reply, process, nil
}
