#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6, github.com/google/nftables 0.3.0
# Expected: a range in a set is there or is not, in what nft lists and in what GetSetElements returns
# Happens: over netlink a range is two elements, its start and its end, and only the start expires: the end is returned alone, until a transaction changes that set; nft leaves it out
#
# Seen: after 100-199 had expired nft listed no element, and GetSetElements returned 200 with IntervalEnd; after another range was added to the set, it was gone.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"encoding/binary"
			"fmt"

			"github.com/google/nftables"
		)

		func main() {
			c, err := nftables.New()
			if err != nil {
				panic(err)
			}
			t := &nftables.Table{Family: nftables.TableFamilyINet, Name: "t"}
			elements, err := c.GetSetElements(&nftables.Set{Table: t, Name: "s"})
			if err != nil {
				panic(err)
			}
			for _, e := range elements {
				fmt.Printf("[%d IntervalEnd %t] ", binary.BigEndian.Uint16(e.Key), e.IntervalEnd)
			}
			fmt.Println(len(elements), "elements")
		}
	END
	module github.com/google/nftables@v0.3.0
}

show() {
	grep google/nftables "$DIR/go.mod"
	nft add table inet t
	nft add set inet t s '{ type inet_service; flags interval, timeout; }'
	nft add element inet t s '{ 100-199 timeout 1s }'
	while [[ $(nft list set inet t s) == *100* ]]; do sleep 0.2; done
	expect_not 'nft list set' '200' "$(nft list set inet t s)"
	output=$("$DIR/main")
	expect 'GetSetElements' '[200 IntervalEnd true]' "$output"
	expect_not 'the same' '[100 ' "$output"
	nft add element inet t s '{ 300-399 }'
	output=$("$DIR/main")
	expect_not 'after a change of the set' '[200 ' "$output"
}

run
