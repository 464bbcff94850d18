#!/usr/bin/env bash
# SPDX-FileCopyrightText: The nftnat authors
# SPDX-License-Identifier: Apache-2.0
#
# Software: github.com/google/nftables 0.3.0, Linux 6.18
# Expected: GetRules returns all expressions of a rule, or something in place of one that it cannot read, or an error
# Happens: it leaves out those that it does not know (rt, socket, osf, xfrm, dup, fwd, tproxy, last, ...), and what a shift does; what is left is another rule
#
# Seen: of `socket transparent 1 drop` only the comparison and the verdict, and of `rt mtu 1280 drop` too; of `meta mark set meta mark << 4` a bitwise with an empty mask.
. "$(dirname "$0")/lib.sh"

prepare() {
	deb nftables=1.0.6-2+deb12u2 libnftables1=1.0.6-2+deb12u2
	cat >"$DIR/main.go" <<-'END'
		package main

		import (
			"fmt"

			"github.com/google/nftables"
			"github.com/google/nftables/expr"
		)

		func main() {
			c, err := nftables.New()
			if err != nil {
				panic(err)
			}
			t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "t"}
			rules, err := c.GetRules(t, &nftables.Chain{Table: t, Name: "c"})
			fmt.Println("error:", err)
			for _, r := range rules {
				for _, e := range r.Exprs {
					fmt.Printf("%T ", e)
					if b, ok := e.(*expr.Bitwise); ok {
						fmt.Printf("%+v ", *b)
					}
				}
				fmt.Println()
			}
		}
	END
	module github.com/google/nftables@v0.3.0
}

show() {
	grep google/nftables "$DIR/go.mod"
	nft --version
	nft -f - <<-'END'
		table ip t {
			chain c {
				type filter hook output priority 0
				socket transparent 1 drop
				rt mtu 1280 drop
				meta mark set meta mark << 4
			}
		}
	END
	expect 'nft --debug=netlink' '[ socket load transparent => reg 1 ]' "$(nft --debug=netlink list chain ip t c)"
	output=$("$DIR/main")
	expect 'GetRules' "error: <nil>
*expr.Cmp *expr.Verdict 
*expr.Cmp *expr.Verdict 
*expr.Meta *expr.Bitwise {SourceRegister:1 DestRegister:1 Len:4 Mask:[] Xor:[]} *expr.Meta " "$output "
}

run
