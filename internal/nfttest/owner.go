// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nft"
)

// flags are the table's as Conn reads them. A table that has lost its owner is an orphan.
func (t *table) flags() nft.TableFlags {
	if t.owner == nil {
		return t.def.Flags &^ nft.TableOwner
	}
	return t.def.Flags
}

// denied is the error if f is not the owner of a table that has one.
func (k *Kernel) denied(f *Fake, verb, name string) error {
	if t, ok := k.tables[name]; ok && t.owner != nil && t.owner != f {
		return &nft.OpError{Op: verb, Object: "inet " + name, Err: unix.EPERM}
	}
	return nil
}

// deniedElement is denied for the first of the elements.
func (k *Kernel) deniedElement(f *Fake, verb, name string, es []nft.Element) error {
	if len(es) != 0 && k.denied(f, verb, name) != nil {
		return &nft.OpError{Op: verb, Object: es[0].Set, Err: unix.EPERM}
	}
	return nil
}

// Owns is that of nft.Conn.
func (f *Fake) Owns() (bool, error) {
	return ask(f, "Owns", func(k *Kernel) (bool, error) { return !k.NoOwners, nil })
}

// Claim is that of nft.Conn.
func (f *Fake) Claim(name string, generation uint32) error {
	return f.run("Claim", func(k *Kernel) error {
		t, ok := k.tables[name]
		if !ok {
			return noTable(name)
		}
		if k.stale(generation) {
			return nft.ErrStale
		}
		if err := k.denied(f, "claim table", name); err != nil {
			return err
		}
		switch {
		case t.owner == f:
			return nil // which is no change
		case k.NoOwners || t.def.Flags&nft.TablePersist == 0:
			return &nft.OpError{Op: "claim table", Object: "inet " + name, Err: unix.EOPNOTSUPP}
		}
		t.owner, t.def.Flags = f, nft.TableOwned
		k.commit(f, name)
		return nil
	})
}

// watcher is a Watch under way.
type watcher struct {
	conn  *Fake
	table string
	word  chan struct{}
}

// wake reports a change, or several as one.
func (w *watcher) wake() {
	select {
	case w.word <- struct{}{}:
	default: // the one before was not read yet
	}
}

// Watch is that of nft.Conn.
func (f *Fake) Watch(ctx context.Context, table string, changed func()) error {
	if f.closed.Load() {
		return fmt.Errorf("watch table %s: %w", table, os.ErrClosed)
	}
	w := &watcher{conn: f, table: table, word: make(chan struct{}, 1)}
	w.wake()
	f.kernel.mu.Lock()
	f.kernel.watchers[w] = struct{}{}
	f.kernel.mu.Unlock()
	defer func() {
		f.kernel.mu.Lock()
		defer f.kernel.mu.Unlock()
		delete(f.kernel.watchers, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.word:
			changed()
		}
	}
}

// Overrun makes all watchers lose notifications.
func (k *Kernel) Overrun() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for w := range k.watchers {
		w.wake()
	}
}
