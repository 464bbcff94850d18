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

// TableInfo is what the kernel knows of a table besides its contents.
type TableInfo struct {
	// Comment is the table's comment. Empty: none.
	Comment string
	// Tag is what it was made with. Others may have written any bytes.
	Tag string
	// Flags are the table's. An orphan has TablePersist alone.
	Flags TableFlags
	// Mine is whether this Conn owns the table.
	Mine bool
	// Handle is the kernel's number for the table. A table that is deleted and made again
	// gets another.
	Handle uint64
}

// Table returns what the kernel knows of a table of the inet family. The error is
// fs.ErrNotExist if there is none.
func (c *Conn) Table(name string) (TableInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table(name)
}

func (c *Conn) table(name string) (TableInfo, error) {
	info, _, err := c.tableUse(name)
	return info, err
}

// tableUse also returns how many sets with a name, chains, objects and flow tables the
// table has.
func (c *Conn) tableUse(name string) (info TableInfo, use uint32, err error) {
	var owner uint32
	err = c.request(unix.NFT_MSG_GETTABLE, "list table inet "+name, func(a nlwire.Attrs) error {
		for a.Next() {
			switch a.Type {
			case unix.NFTA_TABLE_FLAGS:
				info.Flags = TableFlags(a.BE32())
			case unix.NFTA_TABLE_USE:
				use = a.BE32()
			case nftaTableOwner:
				owner = a.BE32()
			case nftaTableHandle:
				info.Handle = a.BE64()
			case nftaTableUserdata:
				info.Comment = comment(a.Payload)
				info.Tag = string(userdata(a.Payload, udataTag))
			}
		}
		return a.Err
	}, name)
	info.Mine = info.Flags&TableOwner != 0 && owner == c.port
	return info, use, err
}

// What x/sys does not name of enum nft_table_attributes.
const (
	nftaTableHandle = 4
	nftaTableOwner  = 7 // the port of the owner's socket
)

// Generation returns the number of the last change of any ruleset of the namespace.
func (c *Conn) Generation() (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation()
}

func (c *Conn) generation() (generation uint32, err error) {
	err = c.request(unix.NFT_MSG_GETGEN, "read generation", func(a nlwire.Attrs) error {
		generation, _ = nlwire.FindBE32(a.Data, unix.NFTA_GEN_ID)
		if generation == 0 {
			return nlwire.ErrMalformed
		}
		return nil
	})
	return generation, err
}

// Bounds of reading a ruleset that changes: the pauses double from the first to the
// last, a third of a second in all.
const (
	readAttempts   = 10
	firstReadPause = time.Millisecond
	lastReadPause  = 100 * time.Millisecond
	// simpleAttempts is how many of them fail if anybody changes any ruleset meanwhile.
	simpleAttempts = 2
)

// errChanged means that the ruleset changed while it was being read.
var errChanged = errors.New("the ruleset changed")

// readConsistent calls read until the table was the same before and after it, and returns
// the generation of that state. After the last attempt the error is ErrInterrupted.
func (c *Conn) readConsistent(what, table string, read func() error) (uint32, error) {
	pause := firstReadPause
	for attempt := range readAttempts {
		if attempt > 0 {
			time.Sleep(pause)
			pause = min(2*pause, lastReadPause)
		}
		once := c.readOnce
		if attempt >= simpleAttempts {
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

// request asks for one object and calls read with its attributes.
func (c *Conn) request(msg uint16, what string, read func(nlwire.Attrs) error, names ...string) error {
	seq, err := c.sendRequest(msg, 0, names...)
	if err != nil {
		return opError(what, err)
	}
	return c.answer(what, seq, read)
}

// answer calls read with the attributes of the object that was asked for.
func (c *Conn) answer(what string, seq uint32, read func(nlwire.Attrs) error) error {
	_, err := c.receiveEach(func(m nlwire.Message) (bool, error) {
		if m.Seq != seq {
			return false, nil
		}
		if m.Type == unix.NLMSG_ERROR {
			a, err := m.Answer()
			return true, errors.Join(err, a.Err())
		}
		return true, read(m.Attrs(nlwire.NetfilterHeader))
	})
	return opError(what, err)
}

// dump asks for all objects of a kind and calls read with the attributes of each. The error
// is errChanged if the ruleset changed meanwhile.
func (c *Conn) dump(msg uint16, what string, read func(nlwire.Attrs) error, names ...string) error {
	seq, err := c.sendRequest(msg, unix.NLM_F_DUMP, names...)
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
		// An error is kept: a dump has to be read to its end, or the socket refuses
		// the next one with EBUSY (__netlink_dump_start).
		if readErr == nil {
			readErr = read(m.Attrs(nlwire.NetfilterHeader))
		}
		if errors.Is(readErr, errEnough) {
			return true, readErr
		}
		return false, nil
	})
	if interrupted && c.followed && msg == unix.NFT_MSG_GETSETELEM {
		// These are the elements of one set, which has not changed. Other dumps go through
		// the objects of all tables, and may miss some of this one when those of another go.
		interrupted = false
	}
	if err == nil && (interrupted || overrun) {
		err = errChanged // what was read is of no one state, or incomplete
	}
	if err == nil {
		err = readErr
	}
	return opError(what, err)
}

// sendRequest sends a request and returns its sequence number. The names are the attributes
// 1, of the table in all requests (NFTA_TABLE_NAME, NFTA_SET_TABLE, ...), and 2, of the object
// (NFTA_SET_NAME, NFTA_SET_ELEM_LIST_SET).
func (c *Conn) sendRequest(msg, flags uint16, names ...string) (uint32, error) {
	seq := c.nextSeq(1)
	b, at := nlwire.OpenNetfilter(nil, nftType(msg), flags, unix.NFPROTO_INET, 0, seq)
	b = appendNames(b, names)
	return seq, c.socket.Send(nlwire.CloseMessage(b, at))
}

func appendNames(b []byte, names []string) []byte {
	for i, name := range names {
		b = nlwire.AppendString(b, uint16(i+1), name)
	}
	return b
}

func opError(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
