// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// chooseOwner decides whether the table is to be owned. A reader takes it as it is.
func (e *Engine) chooseOwner() error {
	if e.opts.ReadOnly || e.opts.NoOwner {
		return nil
	}
	can, err := e.kernelOwns()
	if err != nil {
		return fmt.Errorf("open table %s: %w", e.opts.Table, err)
	}
	if can {
		e.table.Flags = nft.TableOwned
	}
	return nil
}

// kernelOwns reports whether the kernel knows tables that are owned and outlive their
// owners. One that is there says it; to ask the kernel takes a transaction that it
// refuses, after which it waits until nobody reads what was refused (synchronize_rcu in
// __nf_tables_abort, net/netfilter/nf_tables_api.c): ten milliseconds and more.
func (e *Engine) kernelOwns() (bool, error) {
	info, err := e.kernel.Table(e.opts.Table)
	switch {
	case err == nil && info.Flags&nft.TablePersist != 0:
		return true, nil
	case err != nil && !isNotExist(err):
		return false, err
	}
	return e.kernel.Owns()
}

// own takes a table that is there for this engine, as far as that can be done without
// making it again: an orphan is claimed. One that somebody else owns is an error, unless
// it is only read. It returns what the table is by then.
func (e *Engine) own(info nft.TableInfo) (nft.TableInfo, error) {
	if e.opts.ReadOnly {
		e.ownedByOther = info.Flags&nft.TableOwner != 0
		return info, nil
	}
	if info.Mine {
		return info, nil
	}
	if info.Flags&nft.TableOwner != 0 {
		return info, &nat.OwnedError{Table: e.opts.Table}
	}
	if info.Flags&nft.TablePersist == 0 && e.opts.AsFound && !e.present {
		e.table.Flags = 0
	}
	if e.table.Flags == 0 || info.Flags&nft.TablePersist == 0 {
		return info, nil
	}
	generation, err := e.kernel.Generation()
	if err != nil {
		return info, err
	}
	switch err := e.kernel.Claim(e.opts.Table, generation); {
	case errors.Is(err, fs.ErrPermission):
		return info, &nat.OwnedError{Table: e.opts.Table}
	case errors.Is(err, errors.ErrUnsupported): // it is another by now
		return info, fmt.Errorf("%w: %w", nft.ErrStale, err)
	case err != nil:
		return info, staleIfGone(err)
	}
	e.log.Debug("table was claimed", "table", e.opts.Table)
	info.Flags, info.Mine = nft.TableOwned, true
	return info, nil
}

// readHandle notes the handle of a table that this engine has just made.
func (e *Engine) readHandle() {
	info, err := e.kernel.Table(e.opts.Table)
	e.handle = info.Handle
	if err != nil {
		// Whose the next table is will not be known, but what it holds will be.
		e.handle = 0
	}
}

// socketFailed reports whether an error means that the netlink socket is no more. That
// does not happen by itself; but what was owned is an orphan then.
func (e *Engine) socketFailed(err error) bool {
	for _, failure := range []error{os.ErrClosed, unix.EBADF, unix.ENOTSOCK} {
		e.lost = e.lost || errors.Is(err, failure)
	}
	return err != nil && e.lost
}

// reconnect opens another netlink socket in the place of one that has failed.
func (e *Engine) reconnect() error {
	if !e.lost {
		return nil
	}
	k, err := e.dial()
	if err != nil {
		return fmt.Errorf("replace netlink socket: %w", err)
	}
	_ = e.kernel.Close() // it has failed
	e.kernel, e.lost = k, false
	e.failures.Sockets++
	if e.deafen != nil {
		e.deafen() // who listens takes what the new socket does for somebody else's
	}
	e.log.Warn("netlink socket has failed and was replaced", "table", e.opts.Table)
	return nil
}
