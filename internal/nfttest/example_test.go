// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nft"
)

// A test of what happens to a lease when its time is over while the program is down.
func Example() {
	table := nft.Table{Name: "doorman", Sets: []nft.Set{{
		Name: "tcp4", Key: nft.Type{nft.InetService}, Value: nft.Type{nft.IPv4Addr, nft.InetService}, Timeout: true,
	}}}
	lease := nft.Element{
		Set: "tcp4", Key: nft.PortKey(8080), Value: netip.MustParseAddrPort("172.17.0.2:80"), Timeout: time.Hour,
	}
	kernel := nfttest.New()
	before := kernel.Conn()
	fmt.Println(before.Replace(table, []nft.Element{lease}, 0))
	fmt.Println(before.Update(table, nft.Change{Add: []nft.Element{lease}}))
	fmt.Println(before.Close())

	kernel.Advance(2 * time.Hour)
	after := kernel.Conn()
	err := after.Update(table, nft.Change{Delete: []nft.Element{lease}})
	fmt.Println(errors.Is(err, fs.ErrNotExist), err)
	// Output:
	// <nil>
	// add element tcp4 { 8080 timeout 1h : 172.17.0.2 . 80 }: file exists
	// <nil>
	// true delete element tcp4 { 8080 }: no such file or directory
}
