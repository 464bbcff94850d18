#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, github.com/cilium/ebpf 0.20.0
# Expected: an IPv6 listener with IPV6_V6ONLY 0 can be given connections of both families by an sk_lookup program, whatever it is bound to; one bound to an IPv4-mapped address takes only IPv4
# Happens: bind to ::1, as to any IPv6 address but ::, sets IPV6_V6ONLY again, and it gets none of IPv4; bound to ::ffff:127.0.0.1 it gets both
#
# Seen: after bind to ::1 IPV6_V6ONLY is 1, and 127.0.0.1:10000 is refused; bound to ::ffff:127.0.0.1 it is 0, and 127.0.0.1:10000 and [::1]:10000 are accepted. Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"net"
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
			// Steers every new TCP connection of this namespace to the socket in the map.
			m := must(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 1}))
			p := must(ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, Instructions: asm.Instructions{
				asm.Mov.Reg(asm.R6, asm.R1),
				asm.StoreImm(asm.RFP, -4, 0, asm.Word),
				asm.LoadMapPtr(asm.R1, m.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4), asm.FnMapLookupElem.Call(),
				asm.JEq.Imm(asm.R0, 0, "pass"),
				asm.Mov.Reg(asm.R7, asm.R0), asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.R0), asm.Mov.Imm(asm.R3, 0), asm.FnSkAssign.Call(),
				asm.Mov.Reg(asm.R1, asm.R7), asm.FnSkRelease.Call(),
				asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), asm.Return(),
			}}))
			ns := must(os.Open("/proc/self/ns/net"))
			defer must(link.AttachNetNs(int(ns.Fd()), p)).Close()
			for _, address := range []net.IP{net.IPv6loopback, net.IPv4(127, 0, 0, 1)} {
				s := must(syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0))
				must(0, syscall.SetsockoptInt(s, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0))
				must(0, syscall.Bind(s, &syscall.SockaddrInet6{Addr: [16]byte(address.To16())}))
				must(0, syscall.Listen(s, 8))
				must(0, m.Put(uint32(0), uint64(s)))
				only := must(syscall.GetsockoptInt(s, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY))
				for _, to := range []string{"127.0.0.1:10000", "[::1]:10000"} {
					_, err := net.Dial("tcp", to)
					fmt.Println("bound to", address, "IPV6_V6ONLY", only, to, err)
				}
			}
		}
	END
	module github.com/cilium/ebpf@v0.20.0
}

show() {
	grep cilium/ebpf "$DIR/go.mod"
	output=$(timeout 60 "$DIR/main")
	expect 'bound to ::1' 'bound to ::1 IPV6_V6ONLY 1 127.0.0.1:10000 dial tcp 127.0.0.1:10000: connect: connection refused' "$output"
	expect 'bound to ::ffff:127.0.0.1' 'bound to 127.0.0.1 IPV6_V6ONLY 0 127.0.0.1:10000 <nil>
bound to 127.0.0.1 IPV6_V6ONLY 0 [::1]:10000 <nil>' "$output"
}

run
