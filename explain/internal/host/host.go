// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
)

// Host is what a network namespace was like. It is for one goroutine at a time.
type Host struct {
	netNS  int
	unread []string
}

// Open opens the network namespace of the open descriptor netNS, which must stay open. Zero: that of
// the process.
func Open(netNS int) (*Host, error) { return &Host{netNS: netNS}, nil }

// Close closes the sockets.
func (h *Host) Close() error { return nil }

// Unread lists what could not be read for want of a privilege or of a feature of the kernel, in the
// order in which it was asked for.
func (h *Host) Unread() []string { return h.unread }

var errTODO = errors.ErrUnsupported
