// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Any commit of anybody, to whatever table, is a new generation and interrupts all dumps.
// Where somebody commits all the time, a kube-proxy for instance, there is no reading
// between two of them. But what was read is whole all the same if none of them was about
// the table that was read, and the kernel tells of what each was about.

// readHearing is readOnce while others may change tables of their own.
func (c *Conn) readHearing(table string, read func() error) (uint32, error) {
	if _, ok := c.socket.(*kernelSocket); !ok {
		return c.readOnce(read) // nobody would tell
	}
	w, err := c.openWatcher(watchBuffer)
	if err != nil {
		return 0, err
	}
	generation, err := c.readBetween(w, table, read)
	return generation, errors.Join(err, w.Close())
}

func (c *Conn) readBetween(w *watcher, table string, read func() error) (uint32, error) {
	before, err := c.generation()
	if err != nil {
		return 0, err
	}
	h := w.hear(table)
	c.hearing = true
	err = read()
	c.hearing = false
	var after uint32
	if err == nil {
		after, err = c.generation()
	}
	if err != nil || after == before {
		_ = h.until(0) // it does not matter what was heard
		return after, err
	}
	return after, h.until(after)
}

// hearPatience is how long word of a commit is waited for. It is sent within the commit,
// moments after the generation is there to read (nf_tables_commit in
// net/netfilter/nf_tables_api.c).
const hearPatience = time.Second

// hearing is a watcher that hears while something else is done, so that its buffer has
// room however long that takes.
type hearing struct {
	w     *watcher
	table string
	// last is the generation that was heard of last, and target that of which word ends
	// the hearing; zero, which none is: none.
	last, target atomic.Uint32
	ended        chan error
}

// hear begins to hear. It has to be followed by until.
func (w *watcher) hear(table string) *hearing {
	h := &hearing{w: w, table: table, ended: make(chan error, 1)}
	go func() { h.ended <- h.run() }()
	return h
}

// until hears of all changes up to a generation, or of no more if that is zero, and ends
// the hearing. The error is
// errChanged if one of them was, or may have been, about the table.
func (h *hearing) until(generation uint32) error {
	h.target.Store(generation)
	deadline := time.Now().Add(hearPatience)
	if generation == 0 || h.reached() {
		deadline = time.Unix(1, 0) // it may wait for what does not come
	}
	err := h.w.SetReadDeadline(deadline)
	if err != nil {
		_ = h.w.Close() // ends it in any case; the error says why
	}
	return errors.Join(err, <-h.ended)
}

// reached reports whether all that was asked for was heard. Generations wrap.
func (h *hearing) reached() bool {
	last, target := h.last.Load(), h.target.Load()
	return last != 0 && target != 0 && int32(last-target) >= 0
}

func (h *hearing) run() error {
	buf := make([]byte, readBuffer)
	for !h.reached() {
		n, err := h.w.read(buf, false)
		switch {
		case h.reached() && errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, os.ErrDeadlineExceeded):
			return errChanged
		case err != nil:
			return err
		}
		about, heard := concerns(buf[:n], h.table)
		if about {
			return errChanged
		}
		if heard != 0 {
			h.last.Store(heard)
		}
	}
	return nil
}
