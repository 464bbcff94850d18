// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Config says where Dial connects.
type Config struct {
	// NetNS is an open file descriptor of the network namespace whose rulesets the
	// Conn is for. Zero: the namespace of the calling thread.
	NetNS int
}

// Conn reads and changes the nftables of one network namespace. Its methods may be
// called at the same time; each is one request or transaction after another.
type Conn struct {
	mu     sync.Mutex // one request at a time: answers are matched by sequence number
	socket socket
	port   uint32 // the socket's address, by which the kernel knows the owner of a table
	netNS  bool   // whether it is in another namespace than the process
	seq    uint32
	buf    []byte // what receive reads into
	// hearing is whether a watcher tells of all changes while something is read.
	hearing bool
}

// readBuffer takes the largest datagram of a dump: the kernel makes them as large
// as the reader's buffer, up to 32 KiB (netlink_recvmsg in net/netlink/af_netlink.c).
// Larger ones mean fewer walks over a hash table, each of which starts anew.
const readBuffer = 64 << 10

// Dial opens a netlink socket in a network namespace. A nil config is a zero one.
// It takes no privilege; what the Conn is then asked to do takes CAP_NET_ADMIN in
// the user namespace that owns the network namespace, else it fails with an error
// that is fs.ErrPermission.
func Dial(cfg *Config) (*Conn, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	s, err := dial(cfg.NetNS)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &Conn{socket: s, port: s.PID(), netNS: cfg.NetNS != 0, buf: make([]byte, readBuffer)}, nil
}

// Close closes the socket. It leaves the kernel's tables as they are; those that the
// Conn owned are open to everybody from then on. After it every
// method fails with an error that is os.ErrClosed, but for a further Close, which
// does nothing.
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

// closedSocket is what is left of a socket that was closed.
type closedSocket struct{}

func (closedSocket) send([]byte) error           { return os.ErrClosed }
func (closedSocket) receive([]byte) (int, error) { return 0, os.ErrClosed }
func (closedSocket) Close() error                { return nil }

// nextSeq reserves n sequence numbers and returns the first. They are never zero,
// which is that of notifications.
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
// the answer is complete. Messages that f does not know are its to ignore. overrun
// means that some message before the last was dropped.
func (c *Conn) receiveEach(f func(message) (complete bool, err error)) (overrun bool, err error) {
	for {
		n, err := c.socket.receive(c.buf)
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
		for m := (messages{rest: c.buf[:n]}); ; {
			if !m.next() {
				if m.err != nil {
					return overrun, m.err
				}
				break
			}
			complete, err := f(m.message)
			if complete || err != nil {
				return overrun, err
			}
		}
	}
}
