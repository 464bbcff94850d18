// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// The examples that open an engine need CAP_NET_ADMIN. Each has a table of its own, and leaves
// nothing.

// What an error is about can be told from it.
func ExampleEngine_Publish() {
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Options{Table: "example_publish", LockWait: time.Second})
	var owned *nat.OwnedError
	if errors.As(err, &owned) {
		log.Fatalf("process %d has the table", owned.PID)
	} else if err != nil {
		log.Fatal(err)
	}

	for _, text := range []string{"8080->172.30.0.2:80", "8080->172.30.0.3:80", "0->172.30.0.2:443"} {
		m, err := nat.ParseMappingText(text)
		if err != nil {
			log.Fatal(err)
		}
		m.Name = "web"
		done, err := e.Publish(ctx, nat.PublishOptions{}, m) // port 0 is the next free one
		var conflict *nat.ConflictError
		switch {
		case errors.As(err, &conflict):
			fmt.Println("port 8080 is taken by", conflict.Have.Name)
		case errors.Is(err, nat.ErrInvalid):
			fmt.Println("no host could do that:", err)
		case err != nil:
			log.Fatal(err)
		default:
			fmt.Println(done[0])
		}
	}
	// Close would leave the mappings at work, for the engine that opens the table next.
	if err := e.Purge(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 8080->172.30.0.2:80
	// port 8080 is taken by web
	// 49153->172.30.0.2:443
}

// Apply makes the mappings exactly those that are given.
func ExampleEngine_Apply() {
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Options{Table: "example_apply"})
	if err != nil {
		log.Fatal(err)
	}
	for _, wanted := range [][]string{
		{"8080->172.30.0.2:80", "53->172.30.0.2:53/udp"},
		{"8080->172.30.0.3:80"},
		{"8080->172.30.0.3:80"},
	} {
		var ms []nat.Mapping
		for _, text := range wanted {
			m, err := nat.ParseMappingText(text)
			if err != nil {
				log.Fatal(err)
			}
			ms = append(ms, m)
		}
		changes, err := e.Apply(ctx, ms...)
		if err != nil {
			log.Fatal(err) // nothing has changed
		}
		fmt.Println(len(changes), "changes")
		for _, c := range changes {
			fmt.Println(c)
		}
	}
	// Close would leave the mappings at work, for the engine that opens the table next.
	if err := e.Purge(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 2 changes
	// + 8080->172.30.0.2:80
	// + 53->172.30.0.2:53/udp
	// 2 changes
	// ~ 8080->172.30.0.2:80 => 8080->172.30.0.3:80
	// - 53->172.30.0.2:53/udp
	// 0 changes
}

// An endpoint is an address of a network with what is published of it.
func ExampleEngine_Attach() {
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Options{Table: "example_attach"})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := e.CreateNetwork(ctx, nat.Network{Name: "inside", Prefix: netip.MustParsePrefix("172.30.0.0/24")}); err != nil {
		log.Fatal(err)
	}
	http, err := nat.ParsePortSpec("8080:80")
	if err != nil {
		log.Fatal(err)
	}
	web, err := e.Attach(ctx, nat.EndpointSpec{Name: "web", Network: "inside", Ports: []nat.PortSpec{http}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(web.Address())
	ms, err := web.Mappings(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ms)
	if err := web.Release(ctx); err != nil { // the address and its mappings
		log.Fatal(err)
	}
	if ms, err = e.Mappings(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(ms)
	// Close would leave the mappings at work, for the engine that opens the table next.
	if err := e.Purge(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 172.30.0.2/24
	// [8080->172.30.0.2:80]
	// []
}

// Run repairs the table, follows the host's changes, and ends what expires, until the engine is
// closed or the context is done.
func ExampleEngine_Run() {
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Options{Table: "example_run"})
	if err != nil {
		log.Fatal(err)
	}
	runCtx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := e.Run(runCtx); err != nil {
			log.Print(err)
		}
	})
	m, err := nat.ParseMapping("tcp", "8080", "172.30.0.2:80")
	if err != nil {
		log.Fatal(err)
	}
	m.Expires = time.Now().Add(time.Hour) // in any time zone
	if _, err := e.Publish(ctx, nat.PublishOptions{}, m); err != nil {
		log.Fatal(err)
	}
	cancel()
	running.Wait() // the mapping stays at work
	ms, err := e.Mappings(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(ms))
	// Close would leave the mappings at work, for the engine that opens the table next.
	if err := e.Purge(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: 1
}

// Events tell what happens to mappings, by callers and by itself.
func ExampleEngine_Events() {
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Options{Table: "example_events"})
	if err != nil {
		log.Fatal(err)
	}
	events := e.Events(ctx) // from now on
	m, err := nat.ParseMapping("udp", "53", "172.30.0.2:53")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := e.Publish(ctx, nat.PublishOptions{}, m); err != nil {
		log.Fatal(err)
	}
	if _, err := e.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{m}}); err != nil {
		log.Fatal(err)
	}
	if err := e.Purge(ctx); err != nil {
		log.Fatal(err)
	}
	for ev := range events { // until the engine is closed
		fmt.Println(ev.Kind, ev.Mappings)
	}
	// Output:
	// published [53->172.30.0.2:53/udp]
	// unpublished [53->172.30.0.2:53/udp]
}

func ExamplePlan() {
	plan, err := engine.Plan("sandboxes")
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(plan) {
		if strings.Contains(line, "hook") {
			fmt.Println(strings.TrimSpace(line))
		}
	}
	_, err = engine.Plan("no table name")
	fmt.Println(errors.Is(err, nat.ErrInvalid))
	// Output:
	// type nat hook prerouting priority dstnat; policy accept;
	// type nat hook output priority -101; policy accept;
	// type nat hook output priority -100; policy accept;
	// type nat hook postrouting priority srcnat; policy accept;
	// type filter hook forward priority filter; policy accept;
	// type filter hook prerouting priority mangle; policy accept;
	// type filter hook prerouting priority raw; policy accept;
	// true
}

// One mapping is found without loading the others, beside an engine that has the table.
func ExampleFinder() {
	ctx := context.Background()
	e, err := engine.Open(ctx, engine.Options{Table: "example_finder"})
	if err != nil {
		log.Fatal(err)
	}
	m, err := nat.ParseMappingText("53->172.30.0.2:53/udp")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := e.Publish(ctx, nat.PublishOptions{}, m); err != nil {
		log.Fatal(err)
	}
	f, err := engine.OpenFinder(engine.FinderOptions{Table: "example_finder"})
	if err != nil {
		log.Fatal(err)
	}
	at := netip.MustParseAddrPort("192.0.2.1:53")
	found, err := f.Find(ctx, nat.UDP, at)
	fmt.Println(found, err)
	near, err := f.Near(ctx, nat.TCP, at)
	fmt.Println(near[0].Mapping, near[0].Why, err)
	if err := errors.Join(f.Close(), e.Purge(ctx)); err != nil {
		log.Fatal(err)
	}
	// Output:
	// [53->172.30.0.2:53/udp] <nil>
	// 53->172.30.0.2:53/udp over udp <nil>
}
