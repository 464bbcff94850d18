// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/process"
	"github.com/nftnat/nftnat/nat"
)

// findHolder returns the error for a port that could not be bound: it looks up the socket
// that holds the port, which may be closed by now, and its process.
func (e *core) findHolder(p portset.Port) error {
	held := &nat.HeldError{Want: p.Mapping()}
	sockets, err := hostnet.SocketsAt(e.namespace, p.Proto, p.AddrPort.Port())
	if err != nil {
		return fmt.Errorf("%w (who has it cannot be told: %w)", held, err)
	}
	s, ok := chooseSocket(p.Frontend, sockets)
	if !ok {
		return held
	}
	held.Address, held.Peer, held.Ended = s.Addr, s.Peer, s.Ended
	if s.Peer.IsValid() {
		held.Ephemeral, _ = hostnet.Sysctls{Namespace: e.namespace}.GivesToClients(s.Addr.Port()) // false: nothing is said
	}
	if !s.Ended {
		held.Inode, held.UID = s.Inode, s.UID
		_ = nameHolder(e.namespace, held) // what is not known is not said
	}
	if p.AddrPort.Port() == resolverPort && held.Inode != 0 {
		held.Free = e.freeAddress(p, sockets)
	}
	return held
}

const resolverPort = 53

// chooseSocket chooses one of those that prevent binding the frontend: one without a peer
// before others, and one of a process before others. The kernel gives clients their ports
// without SO_REUSEADDR, and so they too keep others from these ports.
func chooseSocket(f portset.Frontend, sockets []hostnet.Socket) (found hostnet.Socket, ok bool) {
	rank := func(s hostnet.Socket) int {
		switch {
		case !s.Peer.IsValid():
			return 2
		case s.Inode != 0:
			return 1
		}
		return 0
	}
	for _, s := range sockets {
		if blockedBy(f, s.Addr) && (!ok || rank(s) > rank(found)) {
			found, ok = s, true
		}
	}
	return found, ok
}

// blockedBy reports whether a socket at the address prevents binding the frontend.
func blockedBy(f portset.Frontend, at netip.AddrPort) bool {
	mine, theirs := f.AddrPort.Addr(), at.Addr()
	switch {
	case at.Port() != f.AddrPort.Port():
		return false
	case !mine.IsValid(), mine == theirs:
		return true
	case theirs == netip.IPv6Unspecified(): // which may take IPv4 as well
		return true
	}
	return mine.Is4() == theirs.Is4() && (mine.IsUnspecified() || theirs.IsUnspecified())
}

// freeAddress returns an address of this host at which the port can be published, or could
// be if the socket at any address were bound to another one. Zero: none is known, or the
// mapping is for one address.
func (e *core) freeAddress(p portset.Port, sockets []hostnet.Socket) netip.Addr {
	if a := p.AddrPort.Addr(); a.IsValid() && !a.IsUnspecified() {
		return netip.Addr{}
	}
	addrs, err := e.host.Addresses(p.Backend.Addr().Is6())
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		taken := slices.ContainsFunc(sockets, func(s hostnet.Socket) bool { return s.Addr.Addr() == a })
		if !taken && !e.ipam.Contains(a) {
			return a
		}
	}
	return netip.Addr{}
}

// NameHolder adds to the error what this process can tell of the holder and the engine that
// made it could not, because it may not look into other processes: the process that has the
// socket; or that the kernel has it, if this process can see all others, and none has it.
// NetNS is the path of the engine's network namespace; empty: that of this process.
func NameHolder(netNS string, held *nat.HeldError) error {
	if held.PID != 0 || held.Inode == 0 {
		return nil
	}
	ns, err := hostnet.OpenNamespace(netNS)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }() // it was only read
	return nameHolder(ns, held)
}

func nameHolder(ns *hostnet.Namespace, held *nat.HeldError) error {
	pid, command, none := process.Find(held.Inode)
	if pid != 0 {
		held.PID, held.Command = pid, nat.HarmlessName(command)
		held.Kernel, held.Purpose = false, ""
		return nil
	}
	// The socket may have been closed before the search, or be in another namespace.
	sockets, err := hostnet.SocketsAt(ns, held.Want.Proto, held.Address.Port())
	if err != nil || !slices.ContainsFunc(sockets, func(s hostnet.Socket) bool { return s.Inode == held.Inode }) {
		return err
	}
	if held.Want.Proto == nat.UDP && !held.Peer.IsValid() && held.Purpose == "" {
		held.Purpose, held.Kernel, err = hostnet.TunnelAt(ns, held.Address)
	}
	held.Kernel = held.Kernel || none
	return err
}

// ProcessOf names a process that has the socket of that inode open, by the links of
// /proc/PID/fd (proc(5)). Those of other users, and of processes with more capabilities,
// can be seen with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH. A pid of zero: none was
// found.
func ProcessOf(inode uint32) (pid int, command string) {
	pid, command, _ = process.Find(inode)
	return pid, nat.HarmlessName(command)
}
