// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package keys has the layout of what a fleet keeps in etcd: the names of keys, and the texts that
// are their values. It asks nobody: what it makes and reads are strings.
//
// Keys are relative to the prefix of the fleet, [Prefix] by default, whose number is the version of
// this layout. docs/fleet.md has the same as a table.
package keys
