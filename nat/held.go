// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"net/netip"
)

// HeldError says that a port is held by a socket of another process, or of the kernel.
type HeldError struct {
	// Want is the mapping that was to be published.
	Want Mapping
	// Address is the address of the other socket. Zero: the socket was gone when the engine
	// looked for it.
	Address netip.AddrPort
	// Peer is what the socket is connected to. Zero: nothing.
	Peer netip.AddrPort
	// Inode identifies the socket, so that a privileged process can find its owner. Zero: no
	// process has it any more. UID is the user who made it.
	Inode uint32
	UID   uint32
	// PID and Command are those of a process that has the socket. PID is zero if it cannot
	// be seen from here.
	PID     int
	Command string
	// Kernel is true if the kernel itself has the socket: an interface says so, or all
	// processes can be seen and none has it.
	Kernel bool
	// Purpose is what the kernel has the socket for: "vxlan interface vx0". It is a guess
	// if it begins with "perhaps", and then Kernel may be false. Empty: that is not known.
	Purpose string
	// Ended is true for a connection in TIME_WAIT (RFC 9293 section 3.6.1), which lasts at
	// most a minute (TCP_TIMEWAIT_LEN in include/net/tcp.h).
	Ended bool
	// Ephemeral is true if the socket has a peer, and its port is one that the kernel gives
	// to clients (ip_local_port_range).
	Ephemeral bool
	// Free is an address of this host at which the port is not held. Zero: there is none, or
	// the engine did not look. It does for the port of resolvers, 53, if Want is for any
	// address.
	Free netip.Addr
}

func (e *HeldError) Error() string {
	if !e.Address.IsValid() {
		return DescribeFrontend(e.Want) + " is held by another process"
	}
	return fmt.Sprintf("%s %s is held by %s%s", e.Want.Proto, e.Address, e.holder(), e.advice())
}

// Unwrap returns [ErrConflict].
func (e *HeldError) Unwrap() error { return ErrConflict }

// isClosing reports whether the socket is of a connection that no process has any more.
func (e *HeldError) isClosing() bool { return e.Inode == 0 && e.Peer.IsValid() }

func (e *HeldError) holder() string {
	with := ""
	if e.Peer.IsValid() {
		with = " with " + e.Peer.String()
	}
	switch {
	case e.Ended:
		return "a connection" + with + " that ended less than a minute ago"
	case e.isClosing():
		return "a connection" + with + " that is being closed"
	case e.Kernel && e.Purpose == "":
		return "the kernel: no process has the socket"
	case e.Kernel:
		return "the kernel (" + e.Purpose + ")"
	case e.Ephemeral:
		return e.process() + " as a client of " + e.Peer.String()
	case e.Peer.IsValid():
		return e.process() + " for a connection" + with
	}
	return e.process()
}

// process names the process, as far as it is known.
func (e *HeldError) process() string {
	switch {
	case e.PID != 0:
		return fmt.Sprintf("%s (pid %d)", e.Command, e.PID)
	case e.Inode == 0:
		return "a process that cannot be seen from here"
	}
	who := fmt.Sprintf("a process of uid %d", e.UID)
	if e.Want.Proto == UDP && !e.Peer.IsValid() { // as tunnels have
		who += " or by the kernel"
		if e.Purpose != "" {
			who += " (" + e.Purpose + ")"
		}
	}
	return who
}

// advice says what to do, if that is known: text that follows the holder.
func (e *HeldError) advice() string {
	switch {
	case e.Ended, e.isClosing(), e.Ephemeral:
		return ": try again"
	case e.Address.Port() == resolverPort && e.Free.IsValid():
		return ": " + e.resolverAdvice()
	}
	return ""
}

const resolverPort = 53

// resolverAdvice is what to do if a resolver has the port at some address, or at all.
func (e *HeldError) resolverAdvice() string {
	publish := fmt.Sprintf(`"nftnat add %s %s ..."`, e.Want.Proto, netip.AddrPortFrom(e.Free, resolverPort))
	at := e.Address.Addr()
	switch {
	case at.IsUnspecified():
		setting := ""
		switch e.Command {
		case "dnsmasq":
			setting = " (bind-interfaces and listen-address=127.0.0.1)"
		case "unbound":
			setting = " (interface: 127.0.0.1)"
		case "named":
			setting = " (listen-on { 127.0.0.1; };)"
		}
		return "have it listen on one address" + setting + " and publish another, as with " + publish
	case at.Is4() && at.As4() == [4]byte{127, 0, 0, 53}, at.Is4() && at.As4() == [4]byte{127, 0, 0, 54}:
		return "publish one address, as with " + publish + ", or set DNSStubListener=no in resolved.conf"
	}
	return "publish one address, as with " + publish
}
