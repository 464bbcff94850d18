// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import "github.com/nftnat/nftnat/nft"

// CountsElements is that of nft.Conn.
func (f *Fake) CountsElements(t nft.Table) (bool, error) {
	err := f.run("CountsElements", func(k *Kernel) error {
		if k.tables[t.Name] == nil {
			return noTable(t.Name)
		}
		return nil
	})
	return err == nil, err
}
