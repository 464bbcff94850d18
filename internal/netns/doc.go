// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package netns runs functions in another network namespace.
//
// A network namespace belongs to a thread, and a goroutine moves between threads. So a
// function gets a thread of its own, which ends with it: no other goroutine can find
// itself in the wrong namespace. The first thread of the process is never used: the
// runtime cannot end it, and /proc/self shows its namespace (proc(5)).
//
// A socket stays in the namespace that it was opened in, whichever goroutine uses it.
// Goroutines that the function starts are not in the namespace.
//
// A process that moves as a whole has no thread to throw away; that is Enter of package
// confine.
package netns
