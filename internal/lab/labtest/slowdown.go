// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"os"
	"strconv"
	"time"
)

// envSlowdown holds how many times slower this machine is than an idle one.
const envSlowdown = "NFTNAT_TEST_SLOWDOWN"

// Slowdown returns the whole number in NFTNAT_TEST_SLOWDOWN: how many times longer tests
// wait than on an idle machine. It is 1 if there is none. On an emulated processor it may
// be 10.
func Slowdown() int {
	n, err := strconv.Atoi(os.Getenv(envSlowdown))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// Stretch multiplies a time-out for an idle machine by [Slowdown].
func Stretch(d time.Duration) time.Duration { return d * time.Duration(Slowdown()) }
