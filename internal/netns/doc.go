// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package netns runs functions in another network namespace.
//
// A network namespace belongs to a thread, and goroutines move between threads. So a
// function gets a thread of its own, which ends with it. It is never the first thread of the
// process: the runtime cannot end that, and /proc/self shows its namespace (proc(5)).
//
// A socket stays in the namespace that it was opened in, whichever goroutine uses it.
// Goroutines that the function starts are not in the namespace.
//
// To move the whole process is another matter: see Enter of package confine.
package netns
