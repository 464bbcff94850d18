// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	netnsthread "github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/nat"
)

// Namespace is a network namespace. The zero value is the one of the process.
type Namespace struct{ file *os.File }

// OpenNamespace opens the namespace at the path; "" is the one of the process.
func OpenNamespace(path string) (*Namespace, error) {
	if path == "" {
		return &Namespace{}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	// setns(2) would fail as well, but later and with an error that has other causes too.
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		reason := "it is no network namespace"
		return nil, errors.Join(&nat.InvalidError{What: "network namespace", Input: path, Reason: reason}, f.Close())
	}
	return &Namespace{f}, nil
}

// FD is the namespace for packages that take a file descriptor, where zero is the
// namespace of the process.
func (n *Namespace) FD() int {
	if n.file == nil {
		return 0
	}
	return int(n.file.Fd())
}

// Handle is the namespace for the netlink library.
func (n *Namespace) Handle() netns.NsHandle {
	if n.file == nil {
		return netns.None()
	}
	return netns.NsHandle(n.FD())
}

// Do runs f inside the namespace: a socket that f opens stays there, and /proc/sys/net
// shows that namespace.
func (n *Namespace) Do(f func() error) error {
	if n.file == nil {
		return f()
	}
	return netnsthread.Do(n.FD(), f)
}

// bootID names the time since the machine was started (random(4)).
const bootID = "/proc/sys/kernel/random/boot_id"

// ID names the namespace among all that exist or existed, on whatever boot: the kernel
// gives no two of them the same cookie.
func (n *Namespace) ID() (string, error) {
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	cookie, err := n.Cookie()
	if errors.Is(err, unix.ENOPROTOOPT) { // before Linux 5.13 all namespaces have one ID
		err = nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("namespace %d of boot %s", cookie, strings.TrimSpace(string(boot))), nil
}

// Cookie is the number by which the kernel's programs know the namespace (SO_NETNS_COOKIE).
func (n *Namespace) Cookie() (cookie uint64, err error) {
	err = n.Do(func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		cookie, err = unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return errors.Join(os.NewSyscallError("getsockopt", err), unix.Close(s))
	})
	if err != nil {
		return 0, fmt.Errorf("read cookie of network namespace: %w", err)
	}
	return cookie, nil
}

// Close closes the namespace.
func (n *Namespace) Close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}
