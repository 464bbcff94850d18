// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"os"
	"strconv"
	"time"
)

// envPatience is by how much longer everything may take than on an idle machine.
const envPatience = "NFTNAT_TEST_PATIENCE"

// Patience returns the number in NFTNAT_TEST_PATIENCE, a whole one from 1 on: how many
// times longer tests wait than on an idle machine, for what is to happen and to see
// that nothing does. 1 if there is none. On an emulated processor it may be 10.
func Patience() int {
	n, err := strconv.Atoi(os.Getenv(envPatience))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// Patient is a time on an idle machine, stretched by [Patience].
func Patient(d time.Duration) time.Duration { return d * time.Duration(Patience()) }
