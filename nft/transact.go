// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Replace makes the table exactly t, with exactly these elements, in one transaction: the
// table that had its name is deleted. Packets meet the one or the other, with an exception
// that Repair avoids: the kernel shows them the elements of new sets of prefixes and segments
// late, when the transaction ends (Linux 6.18). A generation other than zero refuses
// with ErrStale as in Change. On any error nothing has changed.
func (c *Conn) Replace(t Table, es []Element, generation uint32) error {
	if err := t.validateWith(Change{Add: es}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// If there is no table, or it cannot be read, the handle is zero, which no table has.
	before, _ := c.table(t.Name)
	b := newBatch(c.seq+1, generation)
	// To delete a table that may not be there, make sure that it is.
	b.ensureTable(t.Name)
	b.deleteTable(t.Name, 0)
	return c.commitTable(b, t, Change{Add: es}, before.Handle)
}

// Create makes the table exactly t, with exactly the elements that a change adds, in one
// transaction. The error is ErrStale if there is a table of that name.
func (c *Conn) Create(t Table, ch Change) error { return c.restore(t, ch, 0) }

// Restore is Replace of the table that has the handle, or of none if that is zero. The error
// is ErrStale if the table has another handle. Unlike a generation, a handle does not depend
// on what others do to their tables.
func (c *Conn) Restore(t Table, es []Element, handle uint64) error {
	return c.restore(t, Change{Add: es}, handle)
}

func (c *Conn) restore(t Table, ch Change, handle uint64) error {
	if err := cmp.Or(t.Validate(), ch.validateListed(t)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := newBatch(c.seq+1, 0)
	if handle != 0 {
		b.deleteTable(t.Name, handle)
	}
	err := c.commitTable(b, t, ch, handle)
	if op := (*OpError)(nil); errors.As(err, &op) && (op.Op == "add table" && errors.Is(err, unix.EEXIST) ||
		op.Op == "delete table" && errors.Is(err, unix.ENOENT)) {
		return fmt.Errorf("%w: %w", ErrStale, err)
	}
	return err
}

// commitTable adds the table with its elements to the batch and commits it. before is the
// handle of the table that the batch deletes.
func (c *Conn) commitTable(b *batch, t Table, with Change, before uint64) error {
	b.addTable(t.Name, t.Comment, t.Tag, t.Flags)
	for _, s := range t.Sets {
		b.addSet(t.Name, s)
	}
	for _, ch := range t.Chains {
		b.addChain(t.Name, ch)
	}
	if err := b.addRules(t); err != nil {
		return err
	}
	b.addElements(t, with.Add)
	if err := b.addFurther(t, with.Further); err != nil {
		return err
	}
	return c.commit(b, func() (bool, error) { return c.holds(t, with, before) })
}

// addRules appends all rules to chains that have none.
func (b *batch) addRules(t Table) error {
	for _, ch := range t.Chains {
		for _, r := range ch.Rules {
			if err := b.addRule(t.Name, ch.Name, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// Update changes elements of the table in one transaction. The error is ErrStale if the
// ruleset has changed since the generation of the change, unix.EEXIST or fs.ErrNotExist for
// an element that is there or is not. On any error nothing has changed.
func (c *Conn) Update(t Table, ch Change) error {
	if ch.Empty() {
		return nil
	}
	if err := ch.validateListed(t); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := newBatch(c.seq+1, ch.Generation)
	b.deleteElements(t, ch.Delete)
	b.addElements(t, ch.Add)
	if err := b.addFurther(t, ch.Further); err != nil {
		return err
	}
	return c.commit(b, func() (bool, error) { return c.shows(t, ch) })
}

// DeleteTable deletes a table of the inet family with all that it holds. The error
// is fs.ErrNotExist if there is none.
func (c *Conn) DeleteTable(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := newBatch(c.seq+1, 0)
	b.deleteTable(name, 0)
	return c.commit(b, func() (bool, error) {
		_, err := c.table(name)
		if errors.Is(err, unix.ENOENT) {
			return true, nil
		}
		return false, err
	})
}

// commit sends the batch and waits for its outcome. If the kernel's answer was lost or
// cannot be read, the transaction may have succeeded: applied looks at the ruleset.
func (c *Conn) commit(b *batch, applied func() (bool, error)) error {
	b.finish()
	c.nextSeq(len(b.ops) + 2)
	if err := c.socket.Send(b.buf); err != nil {
		// EMSGSIZE: without CAP_NET_ADMIN the send buffer is no larger than
		// net.core.wmem_max.
		return &OpError{Op: "send", Object: fmt.Sprintf("transaction of %d bytes", len(b.buf)), Err: err}
	}
	answered, err := c.outcome(b)
	if answered {
		return err
	}
	ok, readErr := applied()
	if readErr != nil {
		return &OpError{Op: "commit", Object: "transaction", Err: errors.Join(err, readErr)}
	}
	if !ok {
		return &OpError{Op: "commit", Object: "transaction", Err: fmt.Errorf("%w, and it was not applied", err)}
	}
	return nil
}

// outcome reads the answers to a batch: to the batch as a whole, under
// the sequence number of its first message, and to its operations, in their order, the
// last of which asks for an acknowledgement. Unless answered, the error is why the outcome
// is not known.
func (c *Conn) outcome(b *batch) (answered bool, err error) {
	var failed error
	_, err = c.receiveEach(func(m nlwire.Message) (bool, error) {
		if m.Type != unix.NLMSG_ERROR || m.Seq < b.seq || m.Seq > b.lastSeq() {
			return false, nil // an answer to an earlier request, or a notification
		}
		a, err := m.Answer()
		if err != nil {
			return false, err
		}
		if m.Seq == b.seq {
			failed = batchFailure(a)
			return true, nil
		}
		if a.Errno != 0 && failed == nil {
			o, _ := b.op(m.Seq)
			failed = b.failure(o, a)
		}
		return m.Seq == b.lastSeq(), nil
	})
	if failed != nil {
		return true, failed
	}
	return err == nil, err
}

// batchFailure is the error of a transaction that the kernel refused as a whole.
func batchFailure(a nlwire.Answer) error {
	if a.Errno == unix.ERESTART {
		return ErrStale
	}
	return &OpError{Op: "commit", Object: "transaction", Err: a.Err()}
}

// shows reports whether the change was made. A transaction is whole or nothing, so one
// element that differs means that it was not; and so does the generation that a change asks
// for, if the ruleset still has it.
func (c *Conn) shows(t Table, ch Change) (bool, error) {
	var names []string
	note := func(e Element) bool {
		if !slices.Contains(names, e.Set) {
			names = append(names, e.Set)
		}
		return true
	}
	slices.Values(ch.Delete)(note)
	ch.added(note)
	left, generation, err := c.index(t, names)
	if err != nil {
		return false, err
	}
	if ch.Generation != 0 && ch.Generation == generation || !left.removeAll(&ch) {
		return false, nil
	}
	for _, e := range ch.Delete {
		// Elements that were added again under a deleted key are removed from left.
		if _, ok := left[e.ElementKey()]; ok {
			return false, nil
		}
	}
	return true, nil
}

// holds reports whether the table is there with the elements that are added and no others, and
// is not the one that had the handle.
func (c *Conn) holds(t Table, with Change, handle uint64) (bool, error) {
	info, err := c.table(t.Name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil || info.Handle == handle {
		return false, err
	}
	drift, err := c.drift(t)
	if err != nil || len(drift) != 0 {
		return false, err
	}
	var names []string
	for _, s := range t.Sets {
		names = append(names, s.Name)
	}
	left, _, err := c.index(t, names)
	if err != nil {
		return false, err
	}
	return left.removeAll(&with) && len(left) == 0, nil
}

// contents are elements by their keys.
type contents map[ElementKey]Element

func (c *Conn) index(t Table, names []string) (contents, uint32, error) {
	es, generation, err := c.elements(t, names)
	if err != nil {
		return nil, 0, err
	}
	all := make(contents, len(es))
	for _, e := range es {
		all[e.ElementKey()] = e
	}
	return all, generation, nil
}

// longestTick is by how much a time-out that is read back may be shorter: a tick of the
// kernel (CONFIG_HZ=100).
const longestTick = 10 * time.Millisecond

// removeAll removes elements that were added, and reports whether all were there; those
// whose time may be over need not be.
func (left contents) removeAll(ch *Change) bool {
	for e := range ch.added {
		have, ok := left[e.ElementKey()]
		delete(left, e.ElementKey())
		if !ok && e.Timeout == 0 ||
			ok && (have.Value != e.Value || have.Mark != e.Mark || have.Comment != e.Comment || (have.Timeout-e.Timeout).Abs() > longestTick) {
			return false
		}
	}
	return true
}

// probeName is the name of the table that Owns asks with. CheckName and nft(8) refuse it.
const probeName = "nftnat probe"

// Owns reports whether the kernel knows TableOwned. It asks with a transaction that the
// kernel refuses in any case: nothing changes.
func (c *Conn) Owns() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := newBatch(c.seq+1, 0)
	b.addTable(probeName, "", "", TableOwned)
	b.deleteTable(probeName+"!", 0)
	err := c.commit(b, func() (bool, error) { return false, nil })
	var refused *OpError
	switch {
	case !errors.As(err, &refused):
		return false, err
	case refused.Op == "add table" && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)):
		return false, nil
	case refused.Op == "delete table" && errors.Is(err, unix.ENOENT):
		return true, nil
	}
	return false, err
}

// Claim makes this Conn the owner of an orphan, a table with TablePersist and without an
// owner. A generation other than zero refuses with ErrStale as in Change.
//
// The error is fs.ErrPermission if the table has another owner, and errors.ErrUnsupported if
// it was made without TablePersist.
func (c *Conn) Claim(name string, generation uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// If there is no such table the message would make one.
	if _, err := c.table(name); err != nil {
		return err
	}
	b := newBatch(c.seq+1, generation)
	b.setFlags("claim table", name, TableOwned)
	return c.commit(b, func() (bool, error) {
		info, err := c.table(name)
		return info.Mine, err
	})
}
