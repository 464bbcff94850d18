// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"net/netip"
)

// HeldError says that a port is held by a socket of another process.
type HeldError struct {
	// Want is the mapping that was to be published.
	Want Mapping
	// Address is the address of the other socket. Zero: the socket was gone when the engine
	// looked for it.
	Address netip.AddrPort
	// Inode identifies the socket, so that a privileged process can find its owner. Zero: no
	// process has it any more. UID is the user who made it.
	Inode uint32
	UID   uint32
	// PID and Command are those of a process that has the socket. PID is zero if it cannot
	// be seen from here.
	PID     int
	Command string
	// Ended is true for a connection in TIME_WAIT (RFC 9293 section 3.6.1), which lasts at
	// most a minute (TCP_TIMEWAIT_LEN in include/net/tcp.h).
	Ended bool
}

func (e *HeldError) Error() string {
	switch at := fmt.Sprintf("%s %s is held by ", e.Want.Proto, e.Address); {
	case !e.Address.IsValid():
		return DescribeFrontend(e.Want) + " is held by another process"
	case e.Ended:
		return at + "a connection that ended less than a minute ago"
	case e.PID != 0:
		return fmt.Sprintf("%s%s (pid %d)", at, e.Command, e.PID)
	case e.Inode != 0:
		return fmt.Sprintf("%sa process of uid %d", at, e.UID)
	default:
		return at + "a process that cannot be seen from here"
	}
}

// Unwrap returns [ErrConflict].
func (e *HeldError) Unwrap() error { return ErrConflict }
