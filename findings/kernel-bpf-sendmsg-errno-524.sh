#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, github.com/cilium/ebpf 0.20.0
# Expected: a hook for sendmsg6 may lead a datagram for ::1 to ::ffff:127.0.0.1, as one for connect6 does; or sendto fails with an error that programs know
# Happens: connect works, and sendto fails with errno 524, which is the kernel's own ENOTSUPP: no libc has a name or a text for it
#
# Seen: connect: <nil>; sendto: "errno 524". Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"os"
			"syscall"

			"github.com/cilium/ebpf"
			"github.com/cilium/ebpf/asm"
			"github.com/cilium/ebpf/link"
		)

		func must[T any](v T, err error) T {
			if err != nil {
				panic(err)
			}
			return v
		}

		func main() {
			for _, at := range []ebpf.AttachType{ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP6Sendmsg} {
				p := must(ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: at, Instructions: asm.Instructions{
					// user_ip6 of struct bpf_sock_addr is at 8. Bytes are of a little-endian machine.
					asm.Mov.Imm(asm.R2, 0), asm.StoreMem(asm.R1, 8, asm.R2, asm.Word), asm.StoreMem(asm.R1, 12, asm.R2, asm.Word),
					asm.Mov.Imm32(asm.R2, -0x10000), asm.StoreMem(asm.R1, 16, asm.R2, asm.Word),
					asm.Mov.Imm(asm.R2, 0x0100007f), asm.StoreMem(asm.R1, 20, asm.R2, asm.Word),
					asm.Mov.Imm(asm.R0, 1), asm.Return(),
				}}))
				defer must(link.AttachCgroup(link.CgroupOptions{Path: os.Args[1], Attach: at, Program: p})).Close()
			}
			must(0, os.WriteFile(os.Args[1]+"/cgroup.procs", []byte("0"), 0))
			to := &syscall.SockaddrInet6{Port: 7000, Addr: [16]byte{15: 1}}
			s := must(syscall.Socket(syscall.AF_INET6, syscall.SOCK_DGRAM, 0))
			fmt.Println("sendto:", syscall.Sendto(s, []byte("x"), 0, to))
			fmt.Println("connect:", syscall.Connect(s, to))
			peer := must(syscall.Getpeername(s)).(*syscall.SockaddrInet6)
			fmt.Println("peer:", peer.Addr)
		}
	END
	module github.com/cilium/ebpf@v0.20.0
}

show() {
	grep cilium/ebpf "$DIR/go.mod"
	mount --mkdir -t cgroup2 cgroup2 "$DIR/cgroup"
	top=$(mktemp -d "$DIR/cgroup/finding-XXXXXX")
	output=$(timeout 60 "$DIR/main" "$top")
	rmdir "$top" && umount "$DIR/cgroup"
	expect 'sendto' 'sendto: errno 524' "$(grep sendto <<<"$output")"
	expect 'connect' $'connect: <nil>\npeer: [0 0 0 0 0 0 0 0 0 0 255 255 127 0 0 1]' "$(grep -v sendto <<<"$output")"
}

run
