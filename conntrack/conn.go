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
	// attempts bounds how often an exchange is tried that fails in passing.
	attempts = 6

	// firstWait is how long the second attempt waits; each later one waits
	// twice as long, so that all of them take 31 ms of waiting at most.
	firstWait = time.Millisecond
)

// Config says how to reach the conntrack table. The zero Config is ready to
// use.
type Config struct {
	// NetNS is an open file descriptor of the network namespace whose table
	// is meant; it may be closed once Dial has returned. 0: the namespace of
	// the calling thread.
	NetNS int
}

// Conn is a connection to the conntrack table of one network namespace. It may
// be used from many goroutines; operations run one after the other.
type Conn struct {
	closed atomic.Bool

	mu       sync.Mutex // held for the whole of an operation
	reader   *channel   // dumps and queries
	deleter  *channel   // deletions, which must not wait for the dump that finds them
	noFilter bool       // the kernel has no dump filter, or is not to be asked
}

// Dial connects to the table. A nil cfg means the zero Config. It needs no
// privilege but that of entering cfg.NetNS; operations do.
func Dial(cfg *Config) (*Conn, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	wire := nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: cfg.NetNS, ReceiveBuffer: socketBuffer}
	reader, err := nlwire.Dial(wire)
	if err != nil {
		return nil, &OpError{Op: "dial ctnetlink", Err: err}
	}
	deleter, err := nlwire.Dial(wire)
	if err != nil {
		return nil, &OpError{Op: "dial ctnetlink", Err: errors.Join(err, reader.Close())}
	}
	return newConn(reader, deleter), nil
}

func newConn(reader, deleter socket) *Conn {
	return &Conn{reader: newChannel(reader), deleter: newChannel(deleter)}
}

// Close closes the connection. It takes no lock, so that it can interrupt an
// operation under way. Closing again does nothing and returns nil.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return errors.Join(c.reader.socket.Close(), c.deleter.socket.Close())
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
// is. A flow may be handed over more than once: see the package documentation.
func (c *Conn) Each(f Filter, yield func(Flow) error) error {
	const op = "list flows"
	f, err := f.normal()
	if err != nil {
		return &OpError{Op: op, Object: f.String(), Err: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var stop error
	err = c.walk(f, func(e *entry) error {
		flow, err := e.flow()
		if err != nil {
			return err
		}
		stop = yield(flow)
		return stop
	})
	switch {
	case stop != nil:
		return stop
	case err != nil:
		return c.opError(op, f.String(), err)
	}
	return nil
}

// walk hands every entry that the filter matches to fn, which may see some of
// them again. An error of fn ends it.
func (c *Conn) walk(f Filter, fn func(e *entry) error) error {
	// An error of fn must not be taken for the kernel's, and tried again.
	var fnErr error
	guarded := func(e *entry) error {
		if fnErr = fn(e); fnErr != nil {
			return errStopped
		}
		return nil
	}
	err := c.walkTable(f, guarded)
	if fnErr != nil {
		return fnErr
	}
	return err
}

func (c *Conn) walkTable(f Filter, fn func(e *entry) error) error {
	// The hash table is one for all namespaces, and large even when empty:
	// a namespace without flows, as a new one is, need not pay for it.
	if n, _, err := c.count(); err != nil || n == 0 {
		return err
	}
	if f.Proto != 0 && !c.noFilter {
		err := c.walkFiltered(f, fn)
		if err == nil || !noFilter(err) {
			return err
		}
		c.noFilter = true
	}
	return explain(c.pass(dumpRequest(f.family()), f, fn))
}

// walkFiltered lets the kernel choose. Its filter wants a family, so that both
// families are two passes; they cost less than sending all entries over would.
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

// pass dumps the table once, or again as long as the kernel says in passing
// that it could not send all. Trying again is safe because nothing done so far
// has to be undone: listing promises no uniqueness, and deleting an entry that
// is gone is nothing. Giving up with an error is right after that, as entries
// that nobody has seen may be left.
func (c *Conn) pass(req []byte, f Filter, fn func(e *entry) error) error {
	var e entry
	return c.retry(func() error {
		return c.reader.dump(req, func(payload []byte) error {
			ok, err := decodeEntry(payload, &e)
			if err != nil || !ok || !f.matches(e.origTuple) {
				return err
			}
			return fn(&e)
		})
	})
}

// retry calls fn until it succeeds, fails for good, or has failed in passing
// once too often.
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

// opError makes an error of this package of a cause. What goes wrong on a
// closed connection goes wrong because it is closed.
func (c *Conn) opError(op, object string, err error) error {
	if c.closed.Load() {
		err = fs.ErrClosed
	}
	return &OpError{Op: op, Object: object, Err: err}
}
