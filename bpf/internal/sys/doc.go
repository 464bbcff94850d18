// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package sys has maps, programs and links of bpf(2), as far as package bpf needs them. The rest of
// cilium/ebpf would be 0.7 MB of every program: relocations, the kernel's configuration and types, and
// programs that find out what a kernel can do.
package sys
