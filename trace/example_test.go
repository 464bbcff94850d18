// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/trace"
)

// What becomes of packets to port 8080 in the next ten seconds.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	t, err := trace.Open(ctx, trace.Options{
		Frontends: []nat.Mapping{{Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 8080)}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = t.Run(ctx, func(e trace.Event) error {
		_, err := fmt.Println(trace.Line(e))
		return err
	})
	fmt.Println(err, t.Close())
}

func ExampleLine() {
	fmt.Println(trace.Line(trace.Step{
		Number: 1, Hook: "forward", Family: "inet", Table: "corpwall", Chain: "passing", Text: "policy drop", Verdict: "drop",
	}))
	// Output: #1   forward     inet corpwall passing: policy drop
}
