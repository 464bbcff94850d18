// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package bpf has programs for the kernel, which need no compiler and no files: they are
// assembled here, for the offsets that the running kernel tells of its structures
// (/sys/kernel/btf/vmlinux).
//
// [Local] leads sockets from frontends on localhost straight to their backends.
//
// [Drops] tells why the kernel drops packets. It needs CAP_BPF and CAP_PERFMON, and a kernel with
// BTF; where it cannot run, Open says why.
//
// [Hold] keeps other programs from binding ports, and [Lookup] leads many ports to one socket. Both have their ports as [Ports], which
// are changed without privileges. Nothing is pinned: what a process has loaded goes with the last descriptor of it, which the process may have
// passed on ([Handed]).
package bpf
