// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"fmt"
	"os"
	"testing"
)

// envLong set to 1 makes tests run whole that are shortened by default.
const envLong = "NFTNAT_TEST_LONG"

// leftOut begins what a shortened test logs; internal/testrun looks for it.
const leftOut = "left out: "

// Long reports whether NFTNAT_TEST_LONG is 1. Then no test is shortened. Tests call the
// functions below, which log what is left out.
func Long() bool { return os.Getenv(envLong) == "1" }

// LongOnly skips the test unless [Long] is set, and logs what is left out.
func LongOnly(tb testing.TB, what string) {
	tb.Helper()
	if !Long() {
		tb.Skip(leftOut + what)
	}
}

// LeaveOut reports whether a part of the test is to be left out, that is unless [Long] is
// set, and logs it.
func LeaveOut(tb testing.TB, what string) bool {
	tb.Helper()
	if !Long() {
		tb.Log(leftOut + what)
	}
	return !Long()
}

// Rounds returns long with [Long] and short otherwise, and then logs how many rounds are
// left out. The argument what is a plural noun, such as "kills".
func Rounds(tb testing.TB, what string, short, long int) int {
	tb.Helper()
	if Long() || short >= long {
		return long
	}
	tb.Log(leftOut + fmt.Sprintf("%d of %d %s", long-short, long, what))
	return short
}

// RoundsOf returns the number in an environment variable, and [Rounds] if it is not set.
func RoundsOf(tb testing.TB, name, what string, short, long int) int {
	tb.Helper()
	if os.Getenv(name) != "" {
		return Number(tb, name, 0)
	}
	return Rounds(tb, what, short, long)
}

// Some returns all elements with [Long], and otherwise every n-th from the first one on. It
// logs how many are left out.
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
