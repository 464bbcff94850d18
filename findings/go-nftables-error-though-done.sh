#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/google/nftables 0.3.0, Linux 6.18
# Expected: if Flush fails, nothing was changed: a batch is one transaction
# Happens: with some hundred messages the acknowledgements overflow the socket's buffer: Flush returns ENOBUFS, and the kernel has done all of it
#
# Seen: "no buffer space available", and 1000 of 1000 chains.
. "$(dirname "$0")/lib.sh"

prepare() {
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"

			"github.com/google/nftables"
		)

		func main() {
			c, err := nftables.New()
			if err != nil {
				panic(err)
			}
			t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "t"})
			for i := range 1000 {
				c.AddChain(&nftables.Chain{Name: fmt.Sprint("c", i), Table: t})
			}
			fmt.Println("Flush:", c.Flush())
			reader, err := nftables.New()
			if err != nil {
				panic(err)
			}
			chains, err := reader.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
			fmt.Println("chains:", len(chains), err)
		}
	END
	module github.com/google/nftables@v0.3.0
}

show() {
	grep google/nftables "$DIR/go.mod"
	output=$(timeout 60 "$DIR/main")
	expect 'Flush of 1000 chains' 'no buffer space available' "$output"
	expect 'what the kernel has' 'chains: 1000 <nil>' "$output"
}

run
