// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nft"
)

// Kernel is the part of nft.Conn that a table needs. Tests use a fake.
type Kernel interface {
	Table(name string) (nft.TableInfo, error)
	Drift(nft.Table) ([]nft.Difference, error)
	Elements(t nft.Table, sets ...string) ([]nft.Element, uint32, error)
	CountsElements(nft.Table) (bool, error)
	Generation() (uint32, error)
	Replace(t nft.Table, es []nft.Element, generation uint32) error
	Create(t nft.Table, ch nft.Change) error
	Restore(t nft.Table, es []nft.Element, handle uint64) error
	Repair(t nft.Table, ch nft.Change, handle uint64) error
	Owns() (bool, error)
	Claim(name string, generation uint32) error
	Watch(ctx context.Context, table string, changed func()) error
	Update(nft.Table, nft.Change) error
	DeleteTable(name string) error
	Close() error
}

// Config says which table a [Table] keeps, and how.
type Config struct {
	// Rules is the table as it should be, without elements. Its flags are chosen by
	// ChooseOwner, and its tag by Load and Create.
	Rules nft.Table
	// Dial opens a netlink socket.
	Dial func() (Kernel, error)
	// CheckComment returns an error if a table with that comment must not be touched.
	CheckComment func(comment string) error
	// Exempts reports whether rules find exemptions in a set. When the table is recreated, such sets
	// are filled before the others. Nil: none has any.
	Exempts func(set string) bool
	// ReadOnly, NoOwner and AsFound are those of the engine's options.
	ReadOnly, NoOwner, AsFound bool
	Log                        *slog.Logger
}

// Table is one table of the kernel.
type Table struct {
	Config
	kernel  Kernel
	present bool
	// handle is that of the table which was created or loaded; zero if it is not known.
	handle uint64
	// loaded identifies the table that was met; empty: there was none.
	loaded string
	// created is what Created returns.
	created atomic.Int64
	// socketLost is whether the netlink socket has failed, and the ownership with it.
	socketLost bool
	// stale is whether the table may differ from what the caller knows, because an answer
	// was lost or an undo failed.
	stale bool
	// current is whether the call that is under way has loaded the table.
	current bool
	// generation is that of the ruleset when the table was loaded last; zero: the ruleset
	// changed during it.
	generation uint32
	// ownedByOther is whether another process owns a table that is only read.
	ownedByOther bool
	// watched is whether a Watcher watches the socket; unwatch makes it watch another one.
	watched bool
	unwatch context.CancelFunc
	counts  Counts
	updates uint64
	// staleStandIns is how often a call has replaced the table behind a stand-in, and others had
	// changed the ruleset meanwhile.
	staleStandIns int
	// changed is when the table was created or elements were changed last, for Grace.
	changed time.Time
}

// Counts is how often something happened to a table.
type Counts struct {
	// Repaired counts repairs; FailedChecks, checks by a Watcher that failed; Changes,
	// changes that the kernel refused or did not acknowledge; Sockets, netlink sockets that
	// failed and were replaced.
	Repaired, FailedChecks, Changes, Sockets int
}

// New returns a table without a socket.
func New(c Config) *Table { return &Table{Config: c} }

// Open opens the netlink socket.
func (t *Table) Open() error {
	k, err := t.Dial()
	if err != nil {
		return err
	}
	t.kernel = k
	return nil
}

// Kernel returns the netlink socket that is open now; nil if none is.
func (t *Table) Kernel() Kernel { return t.kernel }

// Close closes the netlink socket, if it is open.
func (t *Table) Close() error {
	if t.kernel == nil {
		return nil
	}
	err := t.kernel.Close()
	t.kernel = nil
	return err
}

// Present reports whether the table existed when it was last created or loaded.
func (t *Table) Present() bool { return t.present }

// Known reports whether the caller knows what the table must hold. It does not before it
// has adopted the table.
func (t *Table) Known() bool { return t.present && !t.ReadOnly }

// Owned reports whether the table has an owner.
func (t *Table) Owned() bool { return t.Rules.Flags != 0 || t.ownedByOther }

// Current reports whether no other program can have changed the table unnoticed since it
// was loaded.
func (t *Table) Current() (bool, error) {
	if t.Rules.Flags != 0 || t.watched || t.current {
		return true, nil
	}
	now, err := t.kernel.Generation()
	if t.socketFailed(err) {
		return false, nil
	}
	return now == t.generation && now != 0, err
}

// Stale reports whether the table must be loaded before anything is decided.
func (t *Table) Stale() bool { return t.stale }

// MarkStale has Stale report true until SetCurrent is called.
func (t *Table) MarkStale() { t.stale = true }

// SetCurrent says whether the call that is under way has loaded the table.
func (t *Table) SetCurrent(is bool) {
	t.current = is
	if is {
		t.stale = false
	}
}

// Counts returns the counters.
func (t *Table) Counts() Counts { return t.counts }

// NoteFailedCheck counts a check that failed.
func (t *Table) NoteFailedCheck() { t.counts.FailedChecks++ }

// Handle returns the kernel's handle of the table that was created or loaded last; zero
// if it is not known.
func (t *Table) Handle() uint64 { return t.handle }

// A table keeps its identity when it is recreated. One that is created gets an identity as its
// tag, which nft(8) does not list. One without a tag, which nft(8) or an earlier version has
// made, has its handle as identity, and that is its tag once it is recreated.

const (
	// createdTag begins the tag of a table that was created. A handle begins with a digit.
	createdTag = "n"
	// secondTag begins the second of that, at the end of the tag. Earlier versions wrote none.
	secondTag = "."
)

// newTag is the tag of a table that is created now.
func newTag() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // it fails for clocks that are not there
	return createdTag + rand.Text() + secondTag + strconv.FormatInt(now.Nano()/int64(time.Second), 10)
}

// secondOf is the second that a tag has; zero: none.
func secondOf(tag string) int64 {
	_, text, _ := strings.Cut(tag, secondTag)
	second, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0 // others may have written any bytes
	}
	return max(0, second)
}

// setPresent records whether the table exists.
func (t *Table) setPresent(is bool) {
	t.present = is
	second := int64(0)
	if is {
		second = secondOf(t.Rules.Tag)
	}
	t.created.Store(second)
}

// Created returns when the table was created, in seconds since the machine booted, also those in which it
// slept. Zero: there is no table, or it does not say. Created may be called while another method runs.
func (t *Table) Created() int64 { return t.created.Load() }

func identity(info nft.TableInfo) string {
	switch {
	case info.Tag != "":
		return info.Tag
	case info.Handle != 0:
		return strconv.FormatUint(info.Handle, 10)
	}
	return ""
}

// Loaded returns the identity of the table that was met when it was loaded first; empty:
// there was none.
func (t *Table) Loaded() string { return t.loaded }

// Copied reports whether the table that was met may have been loaded from a ruleset that
// nft(8) saved some time before: it was not created by this package.
func (t *Table) Copied() bool { return t.loaded != "" && !strings.HasPrefix(t.loaded, createdTag) }

// Reopen opens the socket again after the table was lent to another process.
func (t *Table) Reopen() error {
	t.loaded = t.Rules.Tag
	return t.Open()
}

// Identity asks the kernel for the identity of the table; empty: there is none.
func (t *Table) Identity() (string, error) {
	info, err := t.kernel.Table(t.Rules.Name)
	if isNotExist(err) {
		return "", nil
	}
	return identity(info), err
}

// Check asks the kernel for the table. The error matches fs.ErrNotExist if the table should
// exist and does not.
func (t *Table) Check() error {
	_, err := t.kernel.Table(t.Rules.Name)
	if isNotExist(err) && !t.present {
		return nil
	}
	return err
}

// CountsElements reports whether the kernel says how many elements a set has. Without a
// table it assumes so.
func (t *Table) CountsElements() (bool, error) {
	if !t.present {
		return true, nil
	}
	counts, err := t.kernel.CountsElements(t.Rules)
	if isNotExist(err) {
		return true, nil
	}
	return counts || err != nil, err
}

// readHandle reads the handle of a table that was just created. If that fails, a replaced
// table is not noticed by its handle, only by its contents.
func (t *Table) readHandle() {
	info, err := t.kernel.Table(t.Rules.Name)
	t.handle = info.Handle
	if err != nil {
		t.handle = 0
	}
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// staleIfGone returns an error that matches nft.ErrStale if err says that the table, which
// existed a moment ago, does not exist.
func staleIfGone(err error) error {
	if isNotExist(err) {
		return fmt.Errorf("%w: %w", nft.ErrStale, err)
	}
	return err
}
