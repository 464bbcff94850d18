// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// ChooseOwner decides whether the table is to be owned. With AsFound, Load does.
func (t *Table) ChooseOwner() error {
	if t.ReadOnly || t.NoOwner || t.AsFound {
		return nil
	}
	can, err := t.kernelOwns()
	if err != nil {
		return fmt.Errorf("open table %s: %w", t.Rules.Name, err)
	}
	if can {
		t.Rules.Flags = nft.TableOwned
	}
	return nil
}

// kernelOwns reports whether the kernel has tables that are owned and outlive their owners.
// A table with the flag proves it. Asking the kernel takes a transaction that it refuses,
// and ten milliseconds and more, because it waits for readers then (synchronize_rcu in
// __nf_tables_abort, net/netfilter/nf_tables_api.c).
func (t *Table) kernelOwns() (bool, error) {
	info, err := t.kernel.Table(t.Rules.Name)
	switch {
	case err == nil && info.Flags&nft.TablePersist != 0:
		return true, nil
	case err != nil && !isNotExist(err):
		return false, err
	}
	return t.kernel.Owns()
}

// claim makes this process the owner of the table that info describes, if it should have an
// owner and has none. It returns the new description of the table. The error is a
// *nat.OwnedError if another process owns it, except with ReadOnly.
func (t *Table) claim(info nft.TableInfo) (nft.TableInfo, error) {
	if t.ReadOnly {
		t.ownedByOther = info.Flags&nft.TableOwner != 0
		return info, nil
	}
	if info.Mine {
		return info, nil
	}
	if info.Flags&nft.TableOwner != 0 {
		return info, &nat.OwnedError{Table: t.Rules.Name}
	}
	if t.AsFound && !t.present {
		t.Rules.Flags = 0
		if info.Flags&nft.TablePersist != 0 {
			t.Rules.Flags = nft.TableOwned
		}
	}
	if t.Rules.Flags == 0 || info.Flags&nft.TablePersist == 0 {
		return info, nil
	}
	generation, err := t.kernel.Generation()
	if err != nil {
		return info, err
	}
	switch err := t.kernel.Claim(t.Rules.Name, generation); {
	case errors.Is(err, fs.ErrPermission):
		return info, &nat.OwnedError{Table: t.Rules.Name}
	case errors.Is(err, errors.ErrUnsupported): // it was replaced by another table
		return info, fmt.Errorf("%w: %w", nft.ErrStale, err)
	case err != nil:
		return info, staleIfGone(err)
	}
	t.Log.Debug("table was claimed", "table", t.Rules.Name)
	info.Flags, info.Mine = nft.TableOwned, true
	return info, nil
}
