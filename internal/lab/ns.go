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

// NS is a network namespace that nothing but this process refers to. It ends
// when it is closed and the last socket made in it is. Make one with [New].
// All methods may be called from several goroutines at once.
type NS struct {
	// V4 and V6 are the namespace's own addresses where [Build] gave it some:
	// for the host those on the LAN. The zero Addr in what [New] makes.
	V4, V6 netip.Addr

	name string
	file *os.File
	path string
}

// New makes a network namespace whose only interface is lo, up, and whose
// settings are the kernel's defaults whatever those of this machine are:
// forwarding off, no reverse path filter, no duplicate address detection (an
// address can be used as soon as it is added). The name is for messages, and
// is what the servers of this package call themselves by; it need not be
// unique, and must not hold white space.
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

// defaults are the settings that a new namespace does not get from the kernel:
// with net.core.devconf_inherit_init_net=0, IPv4's are copied from the first
// namespace, so that a machine with Docker on it hands out ip_forward=1
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

// Path returns a path by which this process and its children can open the
// namespace, for as long as it is not closed: /proc/PID/fd/N.
func (n *NS) Path() string { return n.path }

// Close gives the namespace up. It lives on while there are sockets or
// processes in it. A second Close does nothing.
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
