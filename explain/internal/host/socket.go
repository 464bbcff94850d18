// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import "net/netip"

// Socket is a socket that takes packets to a port: it listens, or it is a UDP socket that is not
// connected.
type Socket struct {
	Proto  uint8
	Addr   netip.AddrPort // what it is bound to; an address without specified bits: any
	V6Only bool           // of an any-address of IPv6: it takes no IPv4
	Link   int            // the interface that it is bound to; zero: none
	UID    uint32
	Inode  uint32
	// Queue is how many connections wait to be accepted or, of UDP, how many bytes to be read. Limit
	// is how many connections may wait.
	Queue, Limit uint32
	Process      *Process // nil: not known
}

// Process is a process that has a socket open.
type Process struct {
	PID     int
	Command string // as in /proc/PID/comm
}

// Full reports whether the queue of connections is full: further ones are not answered.
func (s *Socket) Full() bool { return false }

// String returns it about as ss(8) prints it: "0.0.0.0:8080 users:((\"nginx\",pid=12))".
func (s *Socket) String() string { return "" }

// Sockets lists those that are bound to a port, of both families.
func (h *Host) Sockets(proto uint8, port uint16) ([]*Socket, error) { return nil, errTODO }

// Listener returns the socket that takes a packet to an address and port that comes in by an
// interface; nil: none. It has its Process.
func (h *Host) Listener(proto uint8, to netip.AddrPort, iif int) (*Socket, error) {
	return nil, errTODO
}
