// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package finder finds a mapping by its frontend in the kernel's table, and others that are
// near.
//
// It looks up one key at a time, so that what it costs does not grow with the mappings. It takes
// no lock, changes nothing, and needs no engine: the table may be that of a running daemon, or
// there may be none.
package finder
