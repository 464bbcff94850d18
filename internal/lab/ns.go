// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is a network namespace that only this process refers to. It ends when it and the last
// socket made in it are closed. Make one with [New].
// All methods may be called from several goroutines at once.
type NS struct {
	// V4 and V6 are the addresses that [Build] gave it; those of the host are on the LAN.
	// They are the zero Addr in a namespace that [New] made.
	V4, V6 netip.Addr

	name string
	file *os.File
	path string
}

// New makes a network namespace whose only interface is lo, up. Its settings do not depend
// on those of this machine: forwarding off, no reverse path filter, and no duplicate
// address detection, so that an address can be used as soon as it is added. The name is
// for messages and for the answers of this package's servers. It need not be unique, and
// must have no white space.
//
// Without CAP_SYS_ADMIN the error is fs.ErrPermission.
func New(name string) (*NS, error) {
	n := &NS{name: name}
	err := onThread(func() error {
		h, err := netns.New()
		if err != nil {
			return err
		}
		n.file = os.NewFile(uintptr(h), name)
		return configure()
	})
	if err != nil {
		if n.file != nil {
			_ = n.file.Close()
		}
		return nil, fmt.Errorf("create network namespace %s: %w", name, err)
	}
	n.path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
	return n, nil
}

// defaults are settings for which a new namespace does not have the kernel's defaults:
// with net.core.devconf_inherit_init_net=0, those of IPv4 are copied from the first
// namespace, so that they are ip_forward=1 on a machine with Docker
// (Documentation/admin-guide/sysctl/net.rst). accept_dad has to be off for
// "all" and for "default" both (net/ipv6/addrconf.c, addrconf_dad_begin).
var defaults = []struct{ key, value string }{
	{"net/ipv4/ip_forward", "0"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/conf/all/route_localnet", "0"},
	{"net/ipv4/conf/default/route_localnet", "0"},
	{"net/ipv6/conf/all/accept_dad", "0"},
	{"net/ipv6/conf/default/accept_dad", "0"},
}

// configure sets up the namespace of the calling thread.
func configure() error {
	for _, s := range defaults {
		if err := writeSysctl(s.key, s.value); err != nil {
			return err
		}
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
}

// Name returns the name the namespace was made with.
func (n *NS) Name() string { return n.name }

// String returns the name the namespace was made with.
func (n *NS) String() string { return n.name }

// Path returns a path by which this process and its children can open the namespace until
// it is closed: /proc/PID/fd/N.
func (n *NS) Path() string { return n.path }

// Close closes the namespace. It stays while there are sockets or processes in it. A second
// Close does nothing.
func (n *NS) Close() error {
	if err := n.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close network namespace %s: %w", n.name, err)
	}
	return nil
}

// Do calls fn on a thread that is inside the namespace and waits for it; the
// error is fn's. The thread ends with fn. Goroutines that fn starts are NOT
// inside the namespace, but sockets fn opens are, and stay there wherever they
// are used. Calls may be nested. A panic in fn goes on in the caller as a
// [*PanicError]; runtime.Goexit, and with it the FailNow of a test, ends the
// caller too. After Close the error is os.ErrClosed.
func (n *NS) Do(fn func() error) error {
	return onThread(func() error {
		if err := n.enter(); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.name, err)
		}
		return fn()
	})
}

// enter moves the calling thread into the namespace.
func (n *NS) enter() error {
	rc, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	// Control keeps a concurrent Close from handing the descriptor's number to
	// another file between the look and the leap.
	var set error
	if err := rc.Control(func(fd uintptr) { set = netns.Set(netns.NsHandle(fd)) }); err != nil {
		return os.ErrClosed // the only reason there is
	}
	return set
}

// Handle opens a route netlink socket inside the namespace, with which links,
// addresses and routes can be read and changed from anywhere. Close it.
func (n *NS) Handle() (*netlink.Handle, error) {
	var h *netlink.Handle
	err := n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", n.name, err)
	}
	return h, nil
}
