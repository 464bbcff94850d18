//go:build mips

// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package sys

import "unsafe"

// pointer is a pointer of bpf(2), which has 64 bits on all machines.
type pointer struct {
	_  uint32
	to unsafe.Pointer
}
