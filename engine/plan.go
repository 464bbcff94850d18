// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Plan is the ruleset that an engine keeps in a table of that name, as nft(8)
// lists it; an empty name is DefaultTable. It needs no privilege and no kernel. The
// error is ErrInvalid if nft(8) could not read the name back.
func Plan(table string) (string, error) {
	if table == "" {
		table = DefaultTable
	}
	if err := ValidateTableName(table); err != nil {
		return "", err
	}
	return schema.Ruleset(table).String(), nil
}

// ValidateTableName reports whether an engine's table can have that name: one that
// nft(8) can read back. The error is an [*InvalidError].
func ValidateTableName(name string) error {
	if err := nft.CheckName(name); err != nil {
		return &nat.InvalidError{What: "table", Input: name, Reason: err.Error()}
	}
	return nil
}

// ExplainedPlan is Plan with a comment line before each map and set that says what it is
// for. Chains have such comments in Plan. nft(8) reads both (nft(8), "LEXICAL
// CONVENTIONS").
func ExplainedPlan(table string) (string, error) {
	plan, err := Plan(table)
	if err != nil {
		return "", err
	}
	return schema.Explain(plan), nil
}
