// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// chunk is how many requests go to the kernel in one datagram. If all failed, their answers,
// some 830 bytes each as the kernel accounts them, would fill half of a receive buffer of the
// default size (net.core.rmem_default, 212,992 bytes).
const chunk = 128

// Delete deletes the flows that the filter matches and for which match, which may
// be nil, returns true. It returns how many entries it deleted, also with an error. Those
// that expired meanwhile do not count. (The count may be too low if the kernel's answers are
// lost and a deletion is repeated.)
//
// The filter must name a protocol. match is called once for each candidate,
// seldom twice, while the pass over the table is under way; it must not use c.
// Each entry is deleted by its exact original tuple, zone and id, so that no
// other flow is ever touched.
func (c *Conn) Delete(f Filter, match func(Flow) bool) (deleted int, err error) {
	const op = "delete flows"
	f, err = f.normal()
	if err == nil && f.Proto == 0 {
		err = fmt.Errorf("no protocol: %w", fs.ErrInvalid)
	}
	if err != nil {
		return 0, &OpError{Op: op, Object: f.String(), Err: err}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	q := requests{conn: c, redundant: unix.ENOENT} // it has timed out, or somebody else deleted it
	stop, err := c.walk(f, func(e *entry, flow Flow) error {
		if match != nil && !match(flow) {
			return nil
		}
		return q.delete(e)
	})
	// Also after an error: what is queued was found to match.
	if err = cmp.Or(stop, err, q.flush()); err != nil {
		return q.made, c.opError(op, f.String(), err)
	}
	return q.made, nil
}

// requests is a queue of at most one chunk of requests that change entries. They are sent on a socket
// of their own, deletions between two pieces of the dump that finds the entries.
// That does not disturb the dump: if the entry at which it paused is gone,
// it repeats that entry's hash bucket (ctnetlink_dump_table).
type requests struct {
	conn *Conn
	// redundant is the answer to a request that there was no need for.
	redundant unix.Errno
	buf       []byte
	n         int
	made      int // how many changes
}

func (q *requests) delete(e *entry) error {
	q.buf = appendDelete(q.buf, e)
	return q.queued()
}

// queued counts a request that was appended.
func (q *requests) queued() error {
	if q.n++; q.n < chunk {
		return nil
	}
	return q.flush()
}

// flush sends the queue and empties it. If answers were lost, it sends the requests again,
// one at a time, since a single answer always finds room. The answer to one that was
// done already is that it is redundant.
func (q *requests) flush() error {
	b, n := q.buf, q.n
	q.buf, q.n = q.buf[:0], 0
	if n == 0 {
		return nil
	}
	err := q.send(b, n)
	if !transient(err) {
		return err
	}
	for len(b) > 0 {
		size := binary.NativeEndian.Uint32(b)
		if err := q.conn.retry(func() error { return q.send(b[:size], 1) }); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// send sends n requests and counts what they changed.
func (q *requests) send(b []byte, n int) error {
	made := n
	var failed error
	err := q.conn.writer.batch(b, n, func(a nlwire.Answer) {
		made--
		if a.Errno != q.redundant && failed == nil {
			failed = a.Err()
		}
	})
	if err != nil {
		return err
	}
	q.made += made
	return failed
}
