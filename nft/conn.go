// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Config says where Dial connects.
type Config struct {
	// NetNS is an open file descriptor of the network namespace whose rulesets the
	// Conn is for. Zero: the namespace of the calling thread.
	NetNS int
}

// Conn reads and changes the nftables of one network namespace. Its methods may be
// called at the same time; they run one after the other.
type Conn struct {
	mu     sync.Mutex // one request at a time: answers are matched by sequence number
	socket socket
	port   uint32 // the socket's address, by which the kernel knows the owner of a table
	netNS  bool   // whether it is in another namespace than the process
	seq    uint32
	buf    []byte // Receive reads into it
	// uncounted is whether the kernel does not count the elements of sets.
	uncounted bool
	// followed is set while a follower checks the changes that others make.
	followed bool
}

// socket is a *nlwire.Socket, or that of a test.
type socket interface {
	Send(b []byte) error
	Receive(b []byte, wait bool) (int, error)
	Close() error
}

// receiveBuffer has room for the answers to a batch of which every message fails. Without
// CAP_NET_ADMIN it is smaller, and the loss of an answer is noticed.
const receiveBuffer = 1 << 20

// Dial opens a netlink socket in a network namespace. A nil config means the zero Config.
// Dial needs no privilege; the methods of the Conn need CAP_NET_ADMIN in the user namespace
// that owns the network namespace, else their error is fs.ErrPermission.
func Dial(cfg *Config) (*Conn, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: cfg.NetNS, ReceiveBuffer: receiveBuffer})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Conn{socket: s, port: s.Port(), netNS: cfg.NetNS != 0, buf: make([]byte, nlwire.LargestDatagram)}, nil
}

// Close closes the socket. It leaves the kernel's tables as they are; those that the
// Conn owned are orphans from then on. Closing again does nothing; the error of the other
// methods is os.ErrClosed then.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.socket.Close()
	c.socket = closedSocket{}
	if err != nil {
		return fmt.Errorf("close netlink socket: %w", err)
	}
	return nil
}

// closedSocket takes the place of a socket that was closed.
type closedSocket struct{}

func (closedSocket) Send([]byte) error                 { return os.ErrClosed }
func (closedSocket) Receive([]byte, bool) (int, error) { return 0, os.ErrClosed }
func (closedSocket) Close() error                      { return nil }

// nftType is a message type of the nf_tables subsystem.
func nftType(msg uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | msg }

// nextSeq reserves n sequence numbers and returns the first. None is zero, which
// notifications have.
func (c *Conn) nextSeq(n int) uint32 {
	if c.seq > 1<<31 {
		c.seq = 0
	}
	first := c.seq + 1
	c.seq += uint32(n)
	return first
}

// errNoAnswer means that the kernel's answers ended before the one that was waited
// for: it was dropped when the receive buffer was full.
var errNoAnswer = errors.New("the kernel's answer was lost")

// receiveEach reads datagrams and calls f with each message, until f reports that
// the answer is complete. f ignores messages that it does not know. overrun
// means that some message before the last was dropped.
func (c *Conn) receiveEach(f func(nlwire.Message) (complete bool, err error)) (overrun bool, err error) {
	for {
		n, err := c.socket.Receive(c.buf, false)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// Some answer did not fit; those behind it may have. It is reported once.
			if overrun {
				return true, errNoAnswer
			}
			overrun = true
			continue
		case errors.Is(err, unix.EAGAIN):
			return overrun, errNoAnswer
		case err != nil:
			return overrun, err
		}
		m := nlwire.Messages{Data: c.buf[:n]}
		for m.Next() {
			complete, err := f(m.Message)
			if complete || err != nil {
				return overrun, err
			}
		}
		if m.Err != nil {
			return overrun, m.Err
		}
	}
}

// ErrStale means that a change was refused because the ruleset has changed since its
// generation, or the table has another handle. Nothing was done: read and decide again.
var ErrStale = errors.New("the ruleset has changed since it was read")

// ErrInterrupted means that the ruleset changed during every attempt to read it.
var ErrInterrupted = errors.New("the ruleset kept changing while it was read")

// OpError is the error of one operation of a transaction. Nothing of the transaction was
// done.
//
// errors.Is finds the kernel's error: unix.EEXIST for an element whose key is there already,
// fs.ErrNotExist for a table, chain or element that is not, fs.ErrPermission without
// CAP_NET_ADMIN or if another process owns the table, unix.ENFILE if a map is full.
type OpError struct {
	Op     string // "add element", "delete element", "add table", …
	Object string // as nft(8) spells it
	Err    error  // the kernel's error number, with its explanation if it gave one
}

func (e *OpError) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Object, e.Err) }

func (e *OpError) Unwrap() error { return e.Err }
