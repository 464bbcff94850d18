#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, github.com/cilium/ebpf 0.20.0
# Expected: a UDP socket runs the hooks of control groups of one family: an IPv6 socket that talks to ::ffff:127.0.0.1 those of IPv6; and the hook for sendmsg only where the call names a destination, not for write(2) on a connected socket
# Happens: it sends by the hook of IPv4, and connects and receives by those of IPv6; once it is connected, each write(2) runs the hook for sendmsg, as if it named a destination
#
# Seen: sendto: sendmsg4; read: recvmsg6; connect: connect6; getpeername: getpeername6; write: sendmsg4, where sockets of IPv4 and IPv6 run none. Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"github.com/cilium/ebpf"
			"github.com/cilium/ebpf/asm"
			"github.com/cilium/ebpf/link"
			"os"
			"syscall"
		)

		func must[T any](v T, err error) T {
			if err != nil {
				panic(err)
			}
			return v
		}

		func main() {
			runs := must(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 48, MaxEntries: 1}))
			for i, at := range []ebpf.AttachType{ // each counts its runs
				ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP4Recvmsg,
				ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupUDP6Recvmsg,
			} {
				p := must(ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: at, Instructions: asm.Instructions{
					asm.LoadMapValue(asm.R2, runs.FD(), uint32(8*i)), asm.Mov.Imm(asm.R1, 1), asm.StoreXAdd(asm.R2, asm.R1, asm.DWord), asm.Mov.Imm(asm.R0, 1), asm.Return(),
				}}))
				defer must(link.AttachCgroup(link.CgroupOptions{Path: os.Args[1], Attach: at, Program: p})).Close()
			}
			step := func(what string, err error) {
				var n [6]uint64
				must(0, err)
				must(0, runs.Lookup(uint32(0), &n))
				must(0, runs.Put(uint32(0), [6]uint64{}))
				fmt.Println(what, "IPv4", n[:3], "IPv6", n[3:])
			}
			must(0, os.WriteFile(os.Args[1]+"/cgroup.procs", []byte("0"), 0))
			for name, address := range map[string][16]byte{"::1": {15: 1}, "mapped": {10: 255, 255, 127, 0, 0, 1}} {
				b, s := make([]byte, 8), must(syscall.Socket(syscall.AF_INET6, syscall.SOCK_DGRAM, 0))
				itself := &syscall.SockaddrInet6{Port: 7000, Addr: address}
				must(0, syscall.Bind(s, itself))
				step(name+" sendto:", syscall.Sendto(s, b, 0, itself))
				_, _, err := syscall.Recvfrom(s, b, 0)
				step(name+" recvfrom:", err)
				step(name+" connect:", syscall.Connect(s, itself))
				_, err = syscall.Write(s, b)
				step(name+" write:", err)
			}
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
	expect 'runs for ::1 of connect, sendmsg, recvmsg' '::1 write: IPv4 [0 0 0] IPv6 [0 0 0]' "$(grep ^::1 <<<"$output")"
	expect 'for ::ffff:127.0.0.1' $'mapped sendto: IPv4 [0 1 0] IPv6 [0 0 0]\nmapped recvfrom: IPv4 [0 0 0] IPv6 [0 0 1]\nmapped connect: IPv4 [0 0 0] IPv6 [1 0 0]\nmapped write: IPv4 [0 1 0] IPv6 [0 0 0]' "$(grep ^mapped <<<"$output")"
}

run
