#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, github.com/google/nftables 0.3.0
# Expected: asking nf_tables for the rules of a chain that does not exist fails, as asking for that chain or for the elements of such a set
# Happens: it is an empty list, without an error, for a table that does not exist too; who lists chains, and then the rules of each, takes a chain that has gone in between for one without rules
#
# Seen: rules of no chain: 0, <nil>; rules of no table: 0, <nil>; the chain and the elements: "no such file or directory".
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
			if err := c.Flush(); err != nil {
				panic(err)
			}
			rules, err := c.GetRules(t, &nftables.Chain{Table: t, Name: "gone"})
			fmt.Println("rules of no chain:", len(rules), err)
			gone := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "gone"}
			rules, err = c.GetRules(gone, &nftables.Chain{Table: gone, Name: "gone"})
			fmt.Println("rules of no table:", len(rules), err)
			_, err = c.ListChain(t, "gone")
			fmt.Println("chain:", err)
			_, err = c.GetSetElements(&nftables.Set{Table: t, Name: "gone"})
			fmt.Println("elements:", err)
		}
	END
	module github.com/google/nftables@v0.3.0
}

show() {
	grep google/nftables "$DIR/go.mod"
	output=$("$DIR/main")
	expect 'rules' 'rules of no chain: 0 <nil>
rules of no table: 0 <nil>' "$output"
	expect 'the chain' 'no such file or directory' "$(grep ^chain: <<<"$output")"
	expect 'elements' 'no such file or directory' "$(grep ^elements: <<<"$output")"
}

run
