// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// TableFlags are flags of a table (enum nft_table_flags in
// include/uapi/linux/netfilter/nf_tables.h).
type TableFlags uint32

const (
	// TableDormant says that none of the table's base chains is called.
	TableDormant TableFlags = 1 << iota
	// TableOwner says that the kernel lets nobody change the table but the Conn that made or
	// claimed it, for as long as that is open (Linux 5.12). Others can read it. Alone
	// it would mean that the table is deleted with the Conn.
	TableOwner
	// TablePersist says that the table outlives its owner (Linux 6.9). It is an orphan then,
	// open to everybody, until somebody claims it.
	TablePersist
)

// TableOwned are the flags of a table that is owned and outlives its owner.
const TableOwned = TableOwner | TablePersist

// String returns the flags as nft(8) spells them: "owner,persist".
func (f TableFlags) String() string {
	var words []string
	for i, word := range []string{"dormant", "owner", "persist"} {
		if f&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	return strings.Join(words, ",")
}

// probeName is that of the table by which Owns asks. No table can have it by accident:
// CheckName refuses it, and nft(8) too.
const probeName = "nftnat probe"

// Owns reports whether the kernel knows TableOwned. It asks by a transaction that is
// refused in any case: nothing changes, and nobody else sees any of it.
func (c *Conn) Owns() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := newBatch(c.seq+1, 0)
	b.addTable(probeName, "", TableOwned)
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

// Claim makes this Conn the owner of an orphan: a table that has TablePersist, and no
// owner by now. A generation other than zero refuses with ErrStale as in Change.
//
// The error is fs.ErrPermission if another owns it, and errors.ErrUnsupported if it is
// no orphan: a table that was made without TablePersist can only be replaced.
func (c *Conn) Claim(name string, generation uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Where there is no such table the message would make one.
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
