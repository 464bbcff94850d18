#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: Linux 6.18, nft 1.0.6, github.com/google/nftables 0.3.0
# Expected: a set with `flags interval` holds no two ranges that overlap: the kernel refuses the second, as nft does, or merges them
# Happens: it refuses one that overlaps 1000-1999, and takes one that begins before 3000-65535 and ends in it, as a range that reaches to 65535 has no end: all behind the new range is then no longer in the set
#
# Seen: 500-1499 beside 1000-1999: "file exists"; 2000-3000 beside 3000-65535: taken, and listed as 2000-2999 and 3000; a packet to 4000 matches before, and no longer after.
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

		func port(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

		func main() {
			t := &nftables.Table{Family: nftables.TableFamilyINet, Name: "t"}
			for _, add := range []struct {
				set        string
				start, end uint16
			}{{"closed", 500, 1499}, {"open", 2000, 3000}} {
				c, err := nftables.New()
				if err != nil {
					panic(err)
				}
				s := &nftables.Set{Table: t, Name: add.set, KeyType: nftables.TypeInetService, Interval: true}
				err = c.SetAddElements(s, []nftables.SetElement{{Key: port(add.start)}, {Key: port(add.end + 1), IntervalEnd: true}})
				if err != nil {
					panic(err)
				}
				fmt.Println(add.set, "set:", c.Flush())
			}
		}
	END
	module github.com/google/nftables@v0.3.0
}

packet() {
	echo >/dev/udp/127.0.0.1/4000
	nft list chain inet t out | grep packets
}

show() {
	nft --version
	grep google/nftables "$DIR/go.mod"
	nft add table inet t
	nft add set inet t closed '{ type inet_service; flags interval; elements = { 1000-1999 }; }'
	nft add set inet t open '{ type inet_service; flags interval; elements = { 3000-65535 }; }'
	nft add chain inet t out '{ type filter hook output priority 0; }'
	nft add rule inet t out udp dport @open counter
	expect 'a packet to 4000, before' 'packets 1 ' "$(packet)"
	expect 'nft add element' 'overlaps' "$(nft add element inet t open '{ 2000-3000 }' 2>&1)"
	output=$("$DIR/main" 2>&1)
	expect 'over netlink' 'file exists' "$(grep closed <<<"$output")"
	expect 'over netlink' 'open set: <nil>' "$output"
	expect 'listing' '2000-2999, 3000' "$(nft list set inet t open)"
	expect 'a packet to 4000, after' 'packets 1 ' "$(packet)"
}

run
