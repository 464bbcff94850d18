#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Go 1.26.8 (go directive 1.25), package syscall
# Expected: a function of one's own that hands uintptr(unsafe.Pointer(&v)) on to syscall.AllThreadsSyscall is as safe as a call of it; go vet says nothing
# Happens: if the goroutine's stack grows in between, v is moved, and the kernel writes the result where v was; AllThreadsSyscall has the directive uintptrescapes, which helps only who calls it by name: each wrapper needs it too
#
# Seen: of 400 calls from other depths of the stack 35 lost their result without the directive, none with it.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"runtime"
			"syscall"
			"unsafe"
		)

		//go:noinline
		func plain(trap, a1, a2 uintptr) syscall.Errno {
			_, _, e := syscall.AllThreadsSyscall(trap, a1, a2, 0)
			return e
		}

		//go:noinline
		//go:uintptrescapes
		func escaping(trap, a1, a2 uintptr) syscall.Errno {
			_, _, e := syscall.AllThreadsSyscall(trap, a1, a2, 0)
			return e
		}

		//go:noinline
		func deeper(n int, f func() bool) bool {
			var pad [16]byte
			pad[n%16] = 1
			if n == 0 {
				return f()
			}
			return deeper(n-1, f) && pad[n%16] == 1
		}

		func main() {
			lost := [2]int{}
			for n := range 400 {
				for i, f := range []func() bool{
					func() bool {
						var t syscall.Timespec
						e := plain(syscall.SYS_CLOCK_GETTIME, 0, uintptr(unsafe.Pointer(&t)))
						return e == 0 && t.Sec != 0
					},
					func() bool {
						var t syscall.Timespec
						e := escaping(syscall.SYS_CLOCK_GETTIME, 0, uintptr(unsafe.Pointer(&t)))
						return e == 0 && t.Sec != 0
					},
				} {
					done := make(chan bool)
					go func() { done <- deeper(n, f) }()
					if !<-done {
						lost[i]++
					}
				}
			}
			fmt.Printf("%s: results lost without the directive: %t, with it: %t\n", runtime.Version(), lost[0] > 0, lost[1] > 0)
		}
	END
	(cd "$DIR" && go mod init finding && go mod edit -go 1.25 && go vet . && CGO_ENABLED=0 go build -o main .) >"$DIR/fetch.log" 2>&1 ||
		{ cat "$DIR/fetch.log" >&2; exit 3; }
}

show() { expect 'what is lost' 'without the directive: true, with it: false' "$("$DIR/main")"; }

run
