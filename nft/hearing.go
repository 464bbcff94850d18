// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
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
	c.hearing = true
	err = read()
	c.hearing = false
	if err != nil {
		return 0, err
	}
	after, err := c.generation()
	if err != nil || after == before {
		return after, err
	}
	return after, w.hearTo(after, table)
}

// hearAttempts bounds how often word of a commit is waited for. It is sent within the
// commit, moments after the generation is there to read (nf_tables_commit in
// net/netfilter/nf_tables_api.c).
const hearAttempts = 100

// hearTo hears of all changes up to a generation. The error is errChanged if one of them
// was, or may have been, about the table.
func (w *watcher) hearTo(generation uint32, table string) error {
	buf := make([]byte, readBuffer)
	for attempt := 0; attempt < hearAttempts; {
		n, err := w.read(buf, true)
		switch {
		case errors.Is(err, unix.EAGAIN):
			attempt++
			time.Sleep(firstReadPause)
			continue
		case errors.Is(err, unix.ENOBUFS):
			return errChanged
		case err != nil:
			return err
		}
		about, heard := concerns(buf[:n], table)
		if about {
			return errChanged
		}
		if heard != 0 && int32(heard-generation) >= 0 { // it wraps
			return nil
		}
	}
	return errChanged
}
