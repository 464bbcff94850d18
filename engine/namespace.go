// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	netnsthread "github.com/nftnat/nftnat/internal/netns"
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
// shows that namespace.
func (n *namespace) do(f func() error) error {
	if !n.handle.IsOpen() {
		return f()
	}
	return netnsthread.Do(int(n.handle), f)
}

func (n *namespace) close() error {
	if !n.handle.IsOpen() {
		return nil
	}
	return n.handle.Close()
}
