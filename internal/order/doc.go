// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package order sorts slices of structs with a tenth of the code of package slices, which has
// some 12 KB of instructions, and 10 KB of tables about them, for each type that is sorted. It
// sorts positions instead, which have one type, and then moves each element once.
package order
