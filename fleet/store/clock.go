// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is the time since the machine was started, that of suspension included (CLOCK_BOOTTIME): the
// clock of [Session.Until]. Steps of the wall clock do not change it.
func Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) //nolint:forbidigo // it cannot be: every kernel that nftnat runs on has this clock
	}
	return time.Duration(t.Nano())
}
