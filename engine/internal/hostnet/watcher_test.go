// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// isLink takes the messages about links.
func isLink(m nlwire.Message) (uint16, bool) { return m.Type, m.Type == unix.RTM_NEWLINK }

func namespaceOf(t *testing.T, ns *lab.NS) *Namespace {
	t.Helper()
	n, err := OpenNamespace(ns.Path())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

// A watcher receives each kind of change of the host, and neighbours only once it was asked.
func TestWatcher(t *testing.T) {
	ns := labtest.NewNS(t, "watched")
	w, err := Watch(namespaceOf(t, ns), func(m nlwire.Message) (uint16, bool) { return m.Type, true })
	require.NoError(t, err)
	defer w.Close()
	receives := func(what string, changes func(Changes[uint16]) bool, args ...string) {
		t.Helper()
		labtest.Exec(t, ns, args[0], args[1:]...)
		deadline := time.After(10 * time.Second)
		for {
			select {
			case ch := <-w.Changes():
				require.False(t, ch.Lost)
				if changes(ch) {
					return
				}
			case <-deadline:
				require.Fail(t, "no event", what)
			}
		}
	}
	host := func(ch Changes[uint16]) bool { return ch.Host }
	receives("link", func(ch Changes[uint16]) bool { return ch.Host && len(ch.Events) != 0 }, "ip", "link", "add", "d0", "type", "bridge")
	receives("up", host, "ip", "link", "set", "d0", "up")
	// A router, or a DHCP server, has the kernel say that an address is there still.
	stays := func(ch Changes[uint16]) bool { return ch.Host && len(ch.Addrs) == 0 }
	receives("address", stays, "ip", "addr", "add", "192.0.2.1/24", "dev", "d0")
	receives("renewed address", stays, "ip", "addr", "change", "192.0.2.1/24", "dev", "d0", "valid_lft", "600", "preferred_lft", "600")
	receives("IPv6 address", stays, "ip", "addr", "add", "2001:db8::1/64", "dev", "d0", "nodad")
	receives("renewed IPv6 address", stays, "ip", "addr", "change", "2001:db8::1/64", "dev", "d0", "valid_lft", "600", "preferred_lft", "600")
	went := func(a string) func(Changes[uint16]) bool {
		return func(ch Changes[uint16]) bool { return ch.Host && slices.Contains(ch.Addrs, netip.MustParseAddr(a)) }
	}
	labtest.Exec(t, ns, "ip", "addr", "add", "192.0.2.3/24", "dev", "d0")
	labtest.Exec(t, ns, "ip", "addr", "add", "2001:db8::3/64", "dev", "d0", "nodad")
	receives("address gone", went("192.0.2.3"), "ip", "addr", "del", "192.0.2.3/24", "dev", "d0")
	receives("IPv6 address gone", went("2001:db8::3"), "ip", "addr", "del", "2001:db8::3/64", "dev", "d0")
	receives("route", host, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.2")
	receives("IPv6 route", host, "ip", "route", "add", "2001:db8:1::/64", "via", "2001:db8::2")
	receives("rule", host, "ip", "rule", "add", "from", "192.0.2.1", "lookup", "100")
	receives("IPv6 rule", host, "ip", "-6", "rule", "add", "from", "2001:db8::1", "lookup", "100")
	receives("forwarding", host, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	receives("forwarding of a link", host, "sysctl", "-qw", "net.ipv4.conf.d0.forwarding=0")
	receives("IPv6 forwarding", host, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	neighbour := func(ch Changes[uint16]) bool { return len(ch.Events) != 0 }
	require.NoError(t, w.WatchNeighbours())
	require.NoError(t, w.WatchNeighbours())
	receives("neighbour", neighbour, "ip", "neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "d0")
}

// A watcher does not keep events for ever, and knows that some are missing, also those that
// were too many for the socket.
func TestWatcherLoses(t *testing.T) {
	ns := labtest.NewNS(t, "watched")
	w, err := watch(namespaceOf(t, ns), isLink, 4096)
	require.NoError(t, err)
	takeChanges := func() Changes[uint16] {
		select {
		case ch := <-w.Changes():
			return ch
		default:
			return Changes[uint16]{}
		}
	}
	many := ""
	for range 50 {
		many += "link add type bridge\n"
	}
	labtest.ExecInput(t, ns, many, "ip", "-batch", "-")
	require.Eventually(t, func() bool { return takeChanges().Lost }, 10*time.Second, time.Millisecond)
	labtest.Exec(t, ns, "ip", "link", "set", "bridge0", "up")
	require.Eventually(t, func() bool { return len(takeChanges().Events) != 0 }, 10*time.Second, time.Millisecond)
	w.Close()

	for range maxEvents {
		w.add(Changes[uint16]{Events: make([]uint16, 1)})
	}
	ch := takeChanges()
	require.False(t, ch.Lost)
	require.Len(t, ch.Events, maxEvents)
	w.add(Changes[uint16]{Events: make([]uint16, maxEvents+1)})
	w.add(Changes[uint16]{Events: make([]uint16, 1), Host: true})
	ch = takeChanges()
	require.True(t, ch.Lost)
	require.True(t, ch.Host)
	require.Len(t, ch.Events, 1)
	w.add(Changes[uint16]{})
	require.Equal(t, Changes[uint16]{}, takeChanges())
}
