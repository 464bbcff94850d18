// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"fmt"
	"os"
	"testing"
)

// envLong set to 1 has tests run whole that are shortened by default.
const envLong = "NFTNAT_TEST_LONG"

// leftOut begins what a shortened test logs; internal/testrun looks for it.
const leftOut = "left out: "

// Long reports whether NFTNAT_TEST_LONG is 1: tests then do all that they can, however
// long it takes. Tests call the functions below, which log what they leave out.
func Long() bool { return os.Getenv(envLong) == "1" }

// LongOnly skips the test unless [Long] is set, and logs what is left out.
func LongOnly(tb testing.TB, what string) {
	tb.Helper()
	if !Long() {
		tb.Skip(leftOut + what)
	}
}

// LeaveOut reports whether a part of the test is left out, which it logs: always, unless
// [Long] is set.
func LeaveOut(tb testing.TB, what string) bool {
	tb.Helper()
	if !Long() {
		tb.Log(leftOut + what)
	}
	return !Long()
}

// Rounds is how often a test does something: long times with [Long], else short times,
// with a log of what is left out. What is a plural noun, such as "kills".
func Rounds(tb testing.TB, what string, short, long int) int {
	tb.Helper()
	if Long() || short >= long {
		return long
	}
	tb.Log(leftOut + fmt.Sprintf("%d of %d %s", long-short, long, what))
	return short
}

// RoundsOf is the number that the environment gives a name, and otherwise [Rounds].
func RoundsOf(tb testing.TB, name, what string, short, long int) int {
	tb.Helper()
	if os.Getenv(name) != "" {
		return Number(tb, name, 0)
	}
	return Rounds(tb, what, short, long)
}

// Some returns the elements of all that a test is run for: all of them with [Long], else
// the first and every n-th from there on, with a log of what is left out.
func Some[T any](tb testing.TB, what string, n int, all []T) []T {
	tb.Helper()
	var some []T
	for i := 0; i < len(all); i += n {
		some = append(some, all[i])
	}
	if Rounds(tb, what, len(some), len(all)) == len(all) {
		return all
	}
	return some
}
