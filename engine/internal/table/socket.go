// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// socketFailed reports whether an error means that the netlink socket is lost, and with it
// the ownership of the table.
func (t *Table) socketFailed(err error) bool {
	for _, failure := range []error{os.ErrClosed, unix.EBADF, unix.ENOTSOCK} {
		t.socketLost = t.socketLost || errors.Is(err, failure)
	}
	return err != nil && t.socketLost
}

// reconnect replaces a netlink socket that has failed.
func (t *Table) reconnect() error {
	if !t.socketLost {
		return nil
	}
	k, err := t.Dial()
	if err != nil {
		return fmt.Errorf("replace netlink socket: %w", err)
	}
	_ = t.kernel.Close() // it has failed
	t.kernel, t.socketLost = k, false
	t.counts.Sockets++
	if t.unwatch != nil {
		t.unwatch() // the watch would report changes by the new socket as those of another program
	}
	t.Log.Warn("netlink socket has failed and was replaced", "table", t.Rules.Name)
	return nil
}
