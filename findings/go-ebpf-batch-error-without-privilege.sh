#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/cilium/ebpf 0.20.0
# Expected: Map.BatchDelete of a key that is not there returns ErrKeyNotExist, as Map.Delete does, whoever has the map open
# Happens: at the first error of a batch the library makes a map, to see whether the kernel has batches; in a program that has dropped its capabilities that fails, and the error says that batches are not supported. One error before they are dropped is enough to have it right afterwards
#
# Seen: "map batch api not supported (requires >= v5.6)" without capabilities, "key does not exist" if the same call had failed before. Needs root.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"
			"os"
			"syscall"

			"github.com/cilium/ebpf"
		)

		func main() {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 8})
			if err != nil {
				panic(err)
			}
			if len(os.Args) > 1 {
				_, err := m.BatchDelete([]uint32{1}, nil)
				fmt.Println("with capabilities:", err)
			}
			if err := m.Put(uint32(2), uint32(2)); err != nil {
				panic(err)
			}
			if err := syscall.Setresuid(65534, 65534, 65534); err != nil {
				panic(err)
			}
			fmt.Println("Delete:", m.Delete(uint32(1)))
			count, err := m.BatchDelete([]uint32{2}, nil)
			fmt.Println("BatchDelete of a key that is there:", count, err)
			_, err = m.BatchDelete([]uint32{1}, nil)
			fmt.Println("BatchDelete:", err)
		}
	END
	module github.com/cilium/ebpf@v0.20.0
}

show() {
	grep cilium/ebpf "$DIR/go.mod"
	output=$("$DIR/main")
	expect 'without capabilities' 'Delete: delete: key does not exist' "$output"
	expect 'the same' 'BatchDelete of a key that is there: 1 <nil>' "$output"
	expect 'the same' 'BatchDelete: map batch api not supported' "$output"
	output=$("$DIR/main" before)
	expect 'after an error with capabilities' 'BatchDelete: batch delete: key does not exist' "$output"
}

run
