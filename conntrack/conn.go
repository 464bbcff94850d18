// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

const (
	// attempts bounds how often an exchange is tried after transient errors.
	attempts = 6

	// firstWait is how long the second attempt waits; each later one waits
	// twice as long, 31 ms in all.
	firstWait = time.Millisecond
)

// Config says where Dial connects.
type Config struct {
	// NetNS is an open file descriptor of the network namespace, which may be closed once
	// Dial has returned. 0: the namespace of the calling thread.
	NetNS int
}

// Conn is a connection to the conntrack table of one network namespace. Its methods may be
// called at the same time; they run one after the other.
type Conn struct {
	closed atomic.Bool

	mu       sync.Mutex // held for the whole of an operation
	reader   *channel   // dumps and queries
	writer   *channel   // changes: deletions must not wait for the dump that finds them
	noFilter bool       // the kernel has no dump filter, or is not to be asked
}

// Dial connects to the table. A nil cfg means the zero Config. Dial needs no
// privilege but that of entering cfg.NetNS.
func Dial(cfg *Config) (*Conn, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	wire := nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: cfg.NetNS, ReceiveBuffer: socketBuffer}
	reader, err := nlwire.Dial(wire)
	if err != nil {
		return nil, &OpError{Op: "dial ctnetlink", Err: err}
	}
	writer, err := nlwire.Dial(wire)
	if err != nil {
		return nil, &OpError{Op: "dial ctnetlink", Err: errors.Join(err, reader.Close())}
	}
	return newConn(reader, writer), nil
}

func newConn(reader, writer socket) *Conn {
	return &Conn{reader: newChannel(reader), writer: newChannel(writer)}
}

// Close closes the connection and interrupts an operation under way. Closing again does
// nothing and returns nil.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return errors.Join(c.reader.socket.Close(), c.writer.socket.Close())
}

// Count returns the number of entries in the namespace's table, and the limit
// above which the kernel drops the packets of new flows
// (net.netfilter.nf_conntrack_max); a limit of 0 means that it is not known.
func (c *Conn) Count() (entries, limit int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entries, limit, err = c.count(); err != nil {
		return 0, 0, c.opError("count flows", "", err)
	}
	return entries, limit, nil
}

func (c *Conn) count() (entries, limit int, err error) {
	err = c.retry(func() error {
		payload, err := c.reader.query(statsRequest(), msgGetStats)
		if err != nil {
			return explain(err)
		}
		n, most, err := decodeStats(payload)
		entries, limit = int(n), int(most)
		return err
	})
	return entries, limit, err
}

// Each calls yield for every flow that the filter matches, in no order. It
// stops at the first error that yield returns, and returns that error as it
// is. It may call yield for a flow more than once: see the package documentation.
func (c *Conn) Each(f Filter, yield func(Flow) error) error {
	const op = "list flows"
	f, err := f.normal()
	if err != nil {
		return &OpError{Op: op, Object: f.String(), Err: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	stop, err := c.walk(f, func(_ *entry, flow Flow) error { return yield(flow) })
	if stop == nil && err != nil {
		return c.opError(op, f.String(), err)
	}
	return stop
}

// walk calls fn with every entry that the filter matches, with some of them perhaps
// again. stop is the error of fn that ended it.
func (c *Conn) walk(f Filter, fn func(*entry, Flow) error) (stop, err error) {
	// The hash table is one for all namespaces, and large even when empty:
	// a namespace without flows, as a new one is, need not pay for it.
	if n, _, err := c.count(); err != nil || n == 0 {
		return nil, err
	}
	each := func(e *entry) error {
		flow, err := e.flow()
		if err != nil {
			return err
		}
		// An error of fn must not be taken for the kernel's, and tried again.
		if stop = fn(e, flow); stop != nil {
			return errStopped
		}
		return nil
	}
	if f.Proto != 0 && !c.noFilter {
		err := c.walkFiltered(f, each)
		if err == nil || !noFilter(err) {
			return stop, err
		}
		c.noFilter = true
	}
	return stop, explain(c.pass(dumpRequest(f), f, each))
}

// walkFiltered lets the kernel choose. Its filter wants a family, so that both
// families are two passes; they cost less than sending all entries would.
func (c *Conn) walkFiltered(f Filter, fn func(e *entry) error) error {
	families := []uint8{unix.AF_INET, unix.AF_INET6}
	if family := f.family(); family != unix.AF_UNSPEC {
		families = []uint8{family}
	}
	for _, family := range families {
		if err := c.pass(filteredDumpRequest(family, f), f, fn); err != nil {
			return err
		}
	}
	return nil
}

// pass dumps the table, again if the kernel could not send all of it. That is safe: a
// listing may repeat flows, and deleting an entry that is gone does nothing.
func (c *Conn) pass(req []byte, f Filter, fn func(e *entry) error) error {
	var e entry
	return c.retry(func() error {
		return c.reader.dump(req, func(payload []byte) error {
			ok, err := decodeEntry(payload, &e)
			if err != nil || !ok || !f.matches(e.origTuple, e.flags()) {
				return err
			}
			return fn(&e)
		})
	})
}

// retry calls fn until it succeeds, fails for good, or fails once too often.
func (c *Conn) retry(fn func() error) error {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		err := fn()
		if err == nil || !transient(err) || attempt == attempts || c.closed.Load() {
			return err
		}
		time.Sleep(wait)
		wait *= 2
	}
}

// opError makes an error of this package. Its cause on a closed connection is that.
func (c *Conn) opError(op, object string, err error) error {
	if c.closed.Load() {
		err = fs.ErrClosed
	}
	return &OpError{Op: op, Object: object, Err: err}
}
