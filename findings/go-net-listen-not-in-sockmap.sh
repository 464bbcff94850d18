#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Go 1.26.8, package net, Linux 6.18, github.com/cilium/ebpf 0.20.0
# Expected: a listener that net.Listen("tcp", ...) made is a TCP socket, and can be put into a BPF_MAP_TYPE_SOCKMAP, for sk_lookup
# Happens: since Go 1.24 it is one of Multipath TCP, which such a map refuses; ListenConfig.SetMultipathTCP(false) makes one of TCP
#
# Seen: "operation not supported" for net.Listen, no error with SetMultipathTCP(false). Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"context"
			"fmt"
			"net"

			"github.com/cilium/ebpf"
		)

		func put(what string, lc net.ListenConfig) {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 1})
			if err != nil {
				panic(err)
			}
			l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
			if err != nil {
				panic(err)
			}
			raw, err := l.(*net.TCPListener).SyscallConn()
			if err != nil {
				panic(err)
			}
			raw.Control(func(fd uintptr) { err = m.Put(uint32(0), uint64(fd)) })
			fmt.Println(what, err)
		}

		func main() {
			put("net.Listen:", net.ListenConfig{})
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			put("SetMultipathTCP(false):", lc)
		}
	END
	module github.com/cilium/ebpf@v0.20.0
}

show() {
	go version -m "$DIR/main" | grep -e ': go' -e cilium/ebpf
	output=$("$DIR/main")
	expect 'into a SOCKMAP' 'net.Listen: update: operation not supported' "$output"
	expect 'the same' 'SetMultipathTCP(false): <nil>' "$output"
}

run
