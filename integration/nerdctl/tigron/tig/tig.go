// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package tig stands in for a package of nerdctl's tests, which no version of the module is published with and
// nerdctl itself is compiled with.
package tig

import "testing"

// T is what a test of nerdctl is given.
type T interface{ testing.TB }
