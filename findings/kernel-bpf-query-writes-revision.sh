#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18
# Expected: a caller of BPF_PROG_QUERY that gives the size of the attribute without its newer fields, as programs of older headers do, gets no bytes behind that size: so it is with other commands of bpf(2)
# Happens: for tcx (and netkit) the kernel writes the field revision, 8 bytes at offset 56, whatever the size says; whoever asks gives 64 bytes, also if only the count is wanted
#
# Seen: size 32: "0 0 0 1" in the four words behind it; for control groups "0 0 0 0". Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"os"
			"syscall"
			"unsafe"
		)

		// attr is the attribute of BPF_PROG_QUERY as of Linux 4.15 to 6.5, and what stands behind it.
		type attr struct {
			target, attach, flags, attached uint32
			ids                             uint64
			count, _                        uint32
			behind                          [4]uint64
		}

		func query(what string, target, attach uint32) {
			a := attr{target: target, attach: attach}
			_, _, err := syscall.Syscall(321, 16, uintptr(unsafe.Pointer(&a)), 32) // bpf, BPF_PROG_QUERY
			fmt.Println(what, int(err), a.behind)
		}

		func main() {
			dir, err := os.Open(os.Args[1])
			if err != nil {
				panic(err)
			}
			query("cgroup:", uint32(dir.Fd()), 0) // BPF_CGROUP_INET_INGRESS
			query("tcx:", 1, 46)                  // lo, BPF_TCX_INGRESS
		}
	END
	(cd "$DIR" && go mod init finding && go build -o main .) 2>"$DIR/fetch.log" || exit 3
}

show() {
	mount --mkdir -t cgroup2 cgroup2 "$DIR/cgroup"
	output=$("$DIR/main" "$DIR/cgroup")
	umount "$DIR/cgroup"
	expect 'a control group' 'cgroup: 0 [0 0 0 0]' "$(grep cgroup <<<"$output")"
	expect 'an interface' 'tcx: 0 [0 0 0 1]' "$(grep tcx <<<"$output")"
}

run
