// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate_test

import (
	"context"
	"fmt"

	"github.com/nftnat/nftnat/migrate"
	"github.com/nftnat/nftnat/state"
)

// Rules that iptables-save has printed, as mappings.
func Example() {
	const saved = `*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A PREROUTING -s 192.0.2.0/24 -p udp -m udp --dport 53 -j DNAT --to-destination 172.17.0.3
-A PREROUTING -i eth1 -p tcp -m tcp --dport 22 -j DNAT --to-destination 172.17.0.2
COMMIT
`
	im, err := migrate.Read(context.Background(), migrate.Options{Source: migrate.IPTables, File: "saved", Data: []byte(saved)})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, m := range im.Mappings() {
		fmt.Println(state.EncodeMapping(m))
	}
	for _, l := range im.LeftOut {
		fmt.Println("left out:", l.Reason)
	}
	// Output:
	// 0.0.0.0:8080->172.17.0.2:80
	// {mapping: "0.0.0.0:53->172.17.0.3:53/udp", from: ["192.0.2.0/24"]}
	// left out: it is for packets only that come in by eth1
}
