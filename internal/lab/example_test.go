// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// A client, a host that forwards, and a backend behind it.
func Example() {
	top, err := lab.Build(lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = top.Close() }()

	web, err := lab.EchoTCP(top.Backend1, "web", ":80")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = web.Close() }()

	name, peer, err := lab.Ask(context.Background(), top.Client, "tcp", "172.30.0.2:80", netip.AddrPort{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(name, "was asked by", peer.Addr())
	// Output: web was asked by 192.0.2.2
}

// Whatever opens its sockets within Do has them inside the namespace.
func ExampleNS_Do() {
	ns, err := lab.New("island")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = ns.Close() }()

	err = ns.Do(func() error {
		links, err := os.ReadDir("/proc/thread-self/net/dev_snmp6")
		for _, l := range links {
			fmt.Println(l.Name())
		}
		return err
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output: lo
}
