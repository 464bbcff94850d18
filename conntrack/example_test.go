// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack_test

import (
	"fmt"
	"net/netip"

	"github.com/nftnat/nftnat/conntrack"
)

// UDP port 53 of this host was published to one backend and is now published
// to another: make the flows that still go elsewhere follow.
func Example() {
	conn, err := conntrack.Dial(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()

	backend := netip.MustParseAddrPort("172.17.0.3:53")
	frontend := conntrack.Filter{
		Proto:     17,
		Dst:       netip.IPv4Unspecified(), // any address of this host, IPv4
		FirstPort: 53,
	}
	n, err := conn.Delete(frontend, func(f conntrack.Flow) bool { return f.ReplySrc != backend })
	if err != nil {
		fmt.Println(err) // "delete flows udp 0.0.0.0:53: operation not permitted"
		return
	}
	fmt.Println(n, "flows moved")
	// Output: 0 flows moved
}
