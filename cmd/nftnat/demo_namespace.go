// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// envDemoNamespace is in the environment of a demo that was started in a user namespace
// of its own, so that it never starts another.
const envDemoNamespace = "NFTNAT_DEMO_NAMESPACE"

// needsUserNamespace reports whether this process may not make network namespaces, and
// has not tried a user namespace yet.
func needsUserNamespace() (bool, error) {
	if os.Getenv(envDemoNamespace) != "" {
		return false, nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("read capabilities: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0, nil
}

// inUserNamespace runs this command line again as root of new user and network
// namespaces. The error is a namespaceError if they cannot be made, and a shownError
// if the command failed there.
func inUserNamespace(ctx context.Context) error {
	// The child is ended when the thread that started it ends (prctl(2),
	// PR_SET_PDEATHSIG), so the thread is kept until it has.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	process, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), envDemoNamespace+"=1"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
			Pdeathsig:   unix.SIGKILL,
		},
	})
	if err != nil {
		return namespaceError{fmt.Errorf("create user namespace: %w", bare(err))}
	}
	stop := context.AfterFunc(ctx, func() { _ = process.Kill() })
	defer stop()
	state, err := process.Wait()
	if err != nil {
		return fmt.Errorf("wait for the demo in a user namespace: %w", err)
	}
	switch code := state.ExitCode(); code {
	case exitDone:
		return nil
	case -1:
		return fmt.Errorf("the demo in a user namespace ended: %s", state)
	default:
		return shownError(code)
	}
}

// bare is err without the path that os.StartProcess names, which did not cause it.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// namespaceError is why namespaces cannot be made. Whatever the kernel says (EPERM,
// ENOSPC where their number is limited to 0, EINVAL where it has none), it is
// fs.ErrPermission.
type namespaceError struct{ error }

func (e namespaceError) Unwrap() []error { return []error{e.error, fs.ErrPermission} }
