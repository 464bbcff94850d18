// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft_test

import (
	"fmt"
	"net/netip"

	"github.com/nftnat/nftnat/nft"
)

// A ruleset is a value, which prints itself without any privilege. Conn.Replace puts
// it into the kernel, and `nft -s list table inet doorman` then answers the same.
func Example() {
	table := nft.Table{
		Name: "doorman",
		Sets: []nft.Set{{
			Name: "tcp4", Key: nft.Type{nft.InetService}, Value: nft.Type{nft.IPv4Addr, nft.InetService},
		}},
		Chains: []nft.Chain{{
			Name: "nat-prerouting",
			Hook: nft.Hook{Type: "nat", Point: "prerouting", Priority: nft.PriorityDstNAT},
			Rules: []nft.Rule{
				{nft.Within(nft.IPSaddr, netip.MustParsePrefix("192.0.2.0/24")), nft.Return()},
				{nft.DaddrLocal(), nft.DNATv4("tcp4", nft.TCPDport)},
			},
		}},
	}
	if err := table.Validate(); err != nil {
		fmt.Println(err)
	}
	fmt.Print(table)
	fmt.Println(nft.Element{
		Set: "tcp4", Key: nft.PortKey(8080), Value: netip.MustParseAddrPort("172.17.0.2:80"), Comment: "web",
	})
	// Output:
	// table inet doorman {
	// 	map tcp4 {
	// 		type inet_service : ipv4_addr . inet_service
	// 	}
	//
	// 	chain nat-prerouting {
	// 		type nat hook prerouting priority dstnat; policy accept;
	// 		ip saddr 192.0.2.0/24 return
	// 		fib daddr type local dnat ip to tcp dport map @tcp4
	// 	}
	// }
	// tcp4 { 8080 comment "web" : 172.17.0.2 . 80 }
}

// A change prints itself, and knows the change that undoes it.
func ExampleChange() {
	before := nft.Element{Set: "tcp4", Key: nft.PortKey(8080), Value: netip.MustParseAddrPort("172.17.0.2:80")}
	after := before
	after.Value = netip.MustParseAddrPort("172.17.0.3:80")
	change := nft.Change{Delete: []nft.Element{before}, Add: []nft.Element{after}}
	fmt.Print(change)
	fmt.Print(change.Inverse())
	// Output:
	// delete element tcp4 { 8080 }
	// add element tcp4 { 8080 : 172.17.0.3 . 80 }
	// delete element tcp4 { 8080 }
	// add element tcp4 { 8080 : 172.17.0.2 . 80 }
}
