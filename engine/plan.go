// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import "github.com/nftnat/nftnat/nft"

// Plan is the ruleset that an engine keeps in a table of that name, as nft(8)
// lists it; an empty name is DefaultTable. It needs no privilege and no kernel. The
// error is ErrInvalid if nft(8) could not read the name back.
func Plan(table string) (string, error) {
	if table == "" {
		table = DefaultTable
	}
	if err := nft.CheckName(table); err != nil {
		return "", &InvalidError{What: "table", Input: table, Reason: err.Error()}
	}
	return ruleset(table).String(), nil
}
