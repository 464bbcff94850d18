// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// OpError is the error of every operation of this package, but for that of a
// function passed to [Conn.Each].
//
// errors.Is finds its cause: [io/fs.ErrPermission]
// without CAP_NET_ADMIN, [io/fs.ErrClosed] after Close, [io/fs.ErrInvalid] for
// an invalid filter or connection, [errors.ErrUnsupported] if the kernel has
// no ctnetlink, or the kernel's error number.
type OpError struct {
	Op     string // "dial ctnetlink", "list flows", "delete flows", "create flows", "count flows"
	Object string // the filter: "udp 0.0.0.0:53"; may be empty
	Err    error  // the cause, never nil
}

// Error returns "delete flows udp 0.0.0.0:53: operation not permitted".
func (e *OpError) Error() string {
	if e.Object == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.Object + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

var (
	errInterrupted = errors.New("dump interrupted") // it missed entries (NLM_F_DUMP_INTR)
	errStopped     = errors.New("stopped")          // by the function that is called with entries
)

// transient reports whether an exchange with the kernel may be tried again:
// answers were lost for lack of buffer space or memory (ENOBUFS), an earlier dump is still
// running (EBUSY), a signal came (EINTR), or the dump missed entries.
func transient(err error) bool {
	return errors.Is(err, errInterrupted) ||
		errors.Is(err, unix.ENOBUFS) ||
		errors.Is(err, unix.EBUSY) ||
		errors.Is(err, unix.EINTR) ||
		errors.Is(err, unix.EAGAIN)
}

// noFilter reports whether an error may mean that the kernel lacks the dump filter or a
// part of it (ctnetlink_parse_filter: EOPNOTSUPP for unknown flags, EINVAL by its policy).
func noFilter(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// explain says what EINVAL means as the answer to a plain request: there is no
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
