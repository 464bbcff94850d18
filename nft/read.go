// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// TableInfo is what the kernel knows of a table beside its contents.
type TableInfo struct {
	// Comment is the table's comment, empty where it has none.
	Comment string
	// Flags are the table's, as the kernel has them. Of a table whose owner has gone
	// TablePersist alone is left.
	Flags TableFlags
	// Mine is whether the table is owned by this very Conn.
	Mine bool
	// Handle is the number by which the kernel knows the table; a table that was
	// deleted and made again has another.
	Handle uint64
}

// Table reads about a table of the inet family. The error is fs.ErrNotExist where
// there is none.
func (c *Conn) Table(name string) (TableInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table(name)
}

func (c *Conn) table(name string) (TableInfo, error) {
	var info TableInfo
	var owner uint32
	err := c.request(unix.NFT_MSG_GETTABLE, "list table inet "+name,
		func(b []byte) []byte { return nlwire.AppendString(b, unix.NFTA_TABLE_NAME, name) },
		func(a nlwire.Attrs) error {
			for a.Next() {
				switch a.Type {
				case unix.NFTA_TABLE_FLAGS:
					info.Flags = TableFlags(a.BE32())
				case nftaTableOwner:
					owner = a.BE32()
				case nftaTableHandle:
					info.Handle = a.BE64()
				case nftaTableUserdata:
					info.Comment = comment(a.Payload)
				}
			}
			return a.Err
		})
	info.Mine = info.Flags&TableOwner != 0 && owner == c.port
	return info, err
}

// What x/sys does not name of enum nft_table_attributes.
const (
	nftaTableHandle = 4
	nftaTableOwner  = 7 // the port of the owner's socket
)

// Generation reads the number of the last change of any ruleset of the namespace.
func (c *Conn) Generation() (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation()
}

func (c *Conn) generation() (uint32, error) {
	var generation uint32
	err := c.request(unix.NFT_MSG_GETGEN, "read generation", nil, func(a nlwire.Attrs) error {
		for a.Next() {
			if a.Type == unix.NFTA_GEN_ID {
				generation = a.BE32()
			}
		}
		return a.Err
	})
	return generation, err
}

// Bounds of reading a ruleset that changes: the pauses double from the first to the
// last, so that the attempts take up to a third of a second beside the reading.
const (
	readAttempts   = 10
	firstReadPause = time.Millisecond
	lastReadPause  = 100 * time.Millisecond
	// calmAttempts is how many of them hope that nobody changes any ruleset meanwhile.
	calmAttempts = 2
)

// errChanged means that the ruleset changed while it was being read.
var errChanged = errors.New("the ruleset changed")

// readConsistent calls read until the table was the same before and after it, and returns the
// generation of that state. At last it gives up with ErrInterrupted.
func (c *Conn) readConsistent(what, table string, read func() error) (uint32, error) {
	pause := firstReadPause
	for attempt := range readAttempts {
		if attempt > 0 {
			time.Sleep(pause)
			pause = min(2*pause, lastReadPause)
		}
		once := c.readOnce
		if attempt >= calmAttempts {
			once = func(read func() error) (uint32, error) { return c.readFollowed(table, read) }
		}
		generation, err := once(read)
		if !errors.Is(err, errChanged) && !errors.Is(err, errNoAnswer) {
			return generation, err
		}
	}
	return 0, opError(what, ErrInterrupted)
}

func (c *Conn) readOnce(read func() error) (uint32, error) {
	before, err := c.generation()
	if err != nil {
		return 0, err
	}
	if err := read(); err != nil {
		return 0, err
	}
	after, err := c.generation()
	if err != nil {
		return 0, err
	}
	if before != after {
		return 0, errChanged
	}
	return after, nil
}

// request asks for one object. The answer is one message, or an error.
func (c *Conn) request(msg uint16, what string, fill func([]byte) []byte, read func(nlwire.Attrs) error) error {
	seq, err := c.sendRequest(msg, 0, fill)
	if err == nil {
		_, err = c.receiveEach(func(m nlwire.Message) (bool, error) {
			if m.Seq != seq {
				return false, nil
			}
			if m.Type == unix.NLMSG_ERROR {
				a, err := m.Answer()
				return true, errors.Join(err, a.Err())
			}
			return true, read(m.Attrs(nlwire.NetfilterHeader))
		})
	}
	return opError(what, err)
}

// dump asks for all objects of a kind and reads all of the answer, one object in each
// call of read. The error is errChanged if the ruleset changed meanwhile.
func (c *Conn) dump(msg uint16, what string, fill func([]byte) []byte, read func(nlwire.Attrs) error) error {
	seq, err := c.sendRequest(msg, unix.NLM_F_DUMP, fill)
	if err != nil {
		return opError(what, err)
	}
	var readErr error
	interrupted := false
	overrun, err := c.receiveEach(func(m nlwire.Message) (bool, error) {
		if m.Seq != seq {
			return false, nil
		}
		interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
		switch m.Type {
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			if m.Type == unix.NLMSG_DONE && len(m.Payload) < 4 {
				return true, nil
			}
			a, err := m.Answer()
			return true, errors.Join(err, a.Err())
		}
		// What cannot be read is remembered: a dump has to be read to its end, or
		// the socket refuses the next one with EBUSY (__netlink_dump_start).
		if readErr == nil {
			readErr = read(m.Attrs(nlwire.NetfilterHeader))
		}
		return false, nil
	})
	if interrupted && c.followed && msg == unix.NFT_MSG_GETSETELEM {
		// The elements of one set, which is not what has changed. Other dumps go through
		// the objects of all tables, and may miss some of ours for others that go.
		interrupted = false
	}
	if err == nil && (interrupted || overrun) {
		err = errChanged // what was read is no state that ever was, or not all of it
	}
	if err == nil {
		err = readErr
	}
	return opError(what, err)
}

// sendRequest sends a request and returns its sequence number.
func (c *Conn) sendRequest(msg, flags uint16, fill func([]byte) []byte) (uint32, error) {
	seq := c.nextSeq(1)
	b, at := nlwire.OpenNetfilter(nil, nftType(msg), flags, unix.NFPROTO_INET, 0, seq)
	if fill != nil {
		b = fill(b)
	}
	return seq, c.socket.Send(nlwire.CloseMessage(b, at))
}

func opError(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
