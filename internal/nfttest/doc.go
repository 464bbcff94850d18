// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package nfttest is a kernel for tests of what is built on package nft: it keeps
// tables and elements in memory and refuses what the kernel refuses, with the same
// errors, so that such tests need neither privilege nor namespaces.
//
// A [Kernel] outlives the connections to it ([Kernel.Conn]), as the real one does: a
// test of a restart closes one [Fake] and opens the next. It can be made to fail
// ([Kernel.FailNext], [Kernel.Hook], [Kernel.After]), changed behind a connection's
// back ([Kernel.Edit], [Kernel.Flush]), and its clock can be moved
// ([Kernel.Advance]).
//
// Everything here may be used by several goroutines at once.
//
// # Be aware
//
//   - It does not filter packets, and knows nothing of privilege. Tables have owners.
//   - It answers as Linux 6.18, with which it is compared. Before 6.14 a full map
//     refuses an element that it holds with ENFILE, not with EEXIST; and 6.12 deletes a
//     prefix that begins as one and ends as another.
//   - Time-outs are exact to the millisecond. The kernel counts them in ticks of 1 to
//     10 ms, and counts an expired element against the size of its map until it has
//     collected it.
//   - The kernel lists maps, sets and chains that Repair adds behind the others.
//   - Elements come in another order each time, for the kernel promises none.
package nfttest
