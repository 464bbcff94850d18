// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// OpError is the error of every operation of this package, save that an error
// returned by the function handed to [Conn.Each] comes back as it is.
//
// Its cause is reached by errors.Is and errors.As: [io/fs.ErrPermission]
// without CAP_NET_ADMIN, [io/fs.ErrClosed] after Close, [io/fs.ErrInvalid] for
// a filter that makes no sense, [errors.ErrUnsupported] where the kernel has
// no ctnetlink, and the kernel's errno where there is one.
type OpError struct {
	// Op is what was tried: "dial ctnetlink", "list flows", "delete flows",
	// "count flows".
	Op string
	// Object is what it was tried on: the filter as text, such as
	// "udp 0.0.0.0:53". Empty where there is none.
	Object string
	// Err is the cause; never nil.
	Err error
}

// Error returns operation, object and cause: "delete flows udp 0.0.0.0:53:
// operation not permitted".
func (e *OpError) Error() string {
	if e.Object == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.Object + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

var (
	// errInterrupted: the kernel says that a dump missed entries
	// (NLM_F_DUMP_INTR).
	errInterrupted = errors.New("dump interrupted")

	// errStopped: the function that entries are handed to wants no more.
	errStopped = errors.New("stopped")
)

// transient reports whether an exchange with the kernel is worth another try:
// answers were lost for want of buffer space (ENOBUFS, also where memory is
// short), an earlier dump is still running (EBUSY), a signal came (EINTR), or
// the kernel says itself that it missed entries.
func transient(err error) bool {
	return errors.Is(err, errInterrupted) ||
		errors.Is(err, unix.ENOBUFS) ||
		errors.Is(err, unix.EBUSY) ||
		errors.Is(err, unix.EINTR) ||
		errors.Is(err, unix.EAGAIN)
}

// noFilter reports whether an error may mean that this kernel does not have
// the dump filter, or not this part of it (ctnetlink_parse_filter: EOPNOTSUPP
// for unknown flags, EINVAL for what its policy refuses).
func noFilter(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// explain says what EINVAL means in answer to a request that has nothing in it
// to be wrong: no subsystem of that number is registered, that is no
// nf_conntrack_netlink (nfnetlink_rcv_msg in net/netfilter/nfnetlink.c).
func explain(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return &unsupportedError{err}
	}
	return err
}

type unsupportedError struct{ err error }

func (e *unsupportedError) Error() string {
	return fmt.Sprintf("kernel without ctnetlink: %v", e.err)
}

func (e *unsupportedError) Unwrap() []error { return []error{errors.ErrUnsupported, e.err} }
