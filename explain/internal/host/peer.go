// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// peer opens the namespace of a backend, if it is on this machine: that of the other end of the link,
// or of the bridge's port behind which its neighbour is known. nil: it is not, or it cannot be found;
// the error says why, if something could not be read. Close it. iif is the link there by which packets of
// this host come in.
func (h *Host) peer(backend netip.Addr) (p *Host, iif int, err error) {
	port, err := h.PortOf(backend)
	if err != nil || port == nil {
		return nil, 0, err
	}
	p, err = h.PeerOf(port)
	return p, port.Lower, err
}

// PeerOf opens the namespace of the other end of a link; nil: it is not on this machine, or it cannot be
// found. Close it.
func (h *Host) PeerOf(port *Link) (*Host, error) {
	if port.PeerNS < 0 {
		return nil, nil
	}
	if h.peers == nil {
		h.peers = h.namespaces()
	}
	path, ok := h.peers[port.PeerNS]
	if !ok {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, h.note(fmt.Errorf("open network namespace behind %s: %w", port.Name, err))
	}
	p, err := Open(int(f.Fd()))
	if err != nil {
		_ = f.Close() // it was only opened
		return nil, h.note(fmt.Errorf("open network namespace behind %s: %w", port.Name, err))
	}
	p.file = f
	return p, nil
}

// PortOf returns the interface by which packets to an address on link leave the host: the port of
// the bridge if it is known behind one, else the interface of the route. nil: the way is not known, or
// it leads by a gateway.
func (h *Host) PortOf(addr netip.Addr) (*Link, error) {
	addr = addr.Unmap()
	route, fault, err := h.Lookup(RouteQuery{Dst: addr})
	if err != nil || fault != nil || route.Type != unix.RTN_UNICAST || route.Gateway.IsValid() {
		return nil, err
	}
	l, err := h.Link(route.Oif)
	if err != nil || l.Kind != "bridge" {
		return l, err
	}
	n, err := h.Neighbour(addr, l.Index)
	if err != nil || n == nil || n.MAC == nil {
		return nil, err
	}
	e, err := h.FDB(l.Index, n.MAC)
	if err != nil || e == nil || e.Local {
		return nil, err
	}
	return h.Link(e.Port)
}

// Of include/uapi/linux/net_namespace.h.
const (
	netnsaNSID = 1
	netnsaFD   = 3
)

// namespaces finds the network namespaces of this machine that have a name or a process, by the numbers
// that this one has for them.
func (h *Host) namespaces() map[int32]string {
	found := map[int32]string{}
	seen := map[uint64]bool{}
	for path := range namespacePaths {
		inode, err := netns.Inode(path)
		if err != nil || seen[inode] {
			continue // it has ended, or is another user's
		}
		seen[inode] = true
		if id, err := h.namespaceID(path); err == nil && id >= 0 {
			found[id] = path
		}
	}
	return found
}

// namespacePaths yields the paths of network namespaces that have a name, and those of all processes,
// of which there may be thousands: each costs one look.
func namespacePaths(yield func(string) bool) {
	for _, dir := range []string{netns.Dir, "/run/docker/netns", "/proc"} {
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		names, _ := f.Readdirnames(-1) // those that were read count
		_ = f.Close()                  // it was only read
		for _, name := range names {
			path := dir + "/" + name
			if dir == "/proc" {
				if name[0] < '0' || name[0] > '9' {
					continue
				}
				path += "/ns/net"
			}
			if !yield(path) {
				return
			}
		}
	}
}

// namespaceID returns the number of a namespace; -1: it has none here.
func (h *Host) namespaceID(path string) (id int32, err error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return -1, fs.ErrInvalid
	}
	f, err := os.Open(path)
	if err != nil {
		return -1, err
	}
	defer func() { _ = f.Close() }() // it was only read
	id = -1
	body := appendU32([]byte{unix.AF_UNSPEC, 0, 0, 0}, netnsaFD, uint32(f.Fd()))
	err = h.ask(unix.NETLINK_ROUTE, unix.RTM_GETNSID, 0, body, nil, func(m nlwire.Message) error {
		a := m.Attrs(4)
		for a.Next() {
			if a.Type == netnsaNSID && len(a.Payload) == 4 {
				id = int32(binary.NativeEndian.Uint32(a.Payload))
			}
		}
		return a.Err
	})
	return id, err
}
