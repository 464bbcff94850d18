// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package startmemory keeps what a process has resident near what it uses: programs that serve for
// months, and wait most of the time, do not keep what their start took.
package startmemory
