// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

//go:build !(amd64 || arm64 || arm || riscv64 || mips || s390x)

package confine

// native knows no list: an architecture of zero.
func native(uint32, Options) (arch uint32, calls []call) { return 0, nil }
