// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// namespace is the network namespace that an engine works in.
type namespace struct {
	handle netns.NsHandle // netns.None(): the process's own
}

func openNamespace(path string) (*namespace, error) {
	if path == "" {
		return &namespace{handle: netns.None()}, nil
	}
	h, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	// setns(2) would fail too, later, and for every other reason as well.
	if kind, err := unix.IoctlRetInt(int(h), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		reason := "it is no network namespace"
		return nil, errors.Join(&nat.InvalidError{What: "network namespace", Input: path, Reason: reason}, h.Close())
	}
	return &namespace{handle: h}, nil
}

// fd is the namespace for libraries that take a file descriptor, zero meaning the
// process's own.
func (n *namespace) fd() int {
	if !n.handle.IsOpen() {
		return 0
	}
	return int(n.handle)
}

// do runs f inside the namespace. A socket that f opens stays there; /proc/sys/net
// shows that namespace. f runs on a thread of its own, which is never used again:
// its goroutine ends while it is locked to it (runtime.LockOSThread), so that no
// other goroutine can find itself in the wrong namespace.
func (n *namespace) do(f func() error) error {
	if !n.handle.IsOpen() {
		return f()
	}
	result := make(chan error, 1)
	go n.onThread(f, result)
	return <-result
}

// onThread calls f inside the namespace and ends with its thread. The first thread of
// the process is passed on: the runtime cannot end it, and /proc/self would show the
// namespace that it was left in (proc(5)).
func (n *namespace) onThread(f func() error, result chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		// Locked to the first thread, this one leaves another for the next.
		inner := make(chan error, 1)
		go n.onThread(f, inner)
		result <- <-inner
		return
	}
	if err := netns.Set(n.handle); err != nil {
		result <- fmt.Errorf("enter network namespace: %w", err)
		return
	}
	result <- f()
}

func (n *namespace) close() error {
	if !n.handle.IsOpen() {
		return nil
	}
	return n.handle.Close()
}
