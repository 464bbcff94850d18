// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"time"

	"github.com/nftnat/nftnat/engine"
)

// A program that publishes ports for what it runs. It takes CAP_NET_ADMIN, so this
// one is compiled and not run.
func Example_embed() {
	e, err := engine.Open(engine.Options{Table: "sandboxes", Log: slog.Default()})
	if err != nil {
		log.Fatal(err)
	}
	m, err := engine.NewMapping("tcp", "0", "172.30.0.2:80") // 0: the next free port
	if err != nil {
		log.Fatal(err)
	}
	m.Name = "web"
	done, err := e.Publish(m)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the web server is at port", done[0].Frontend.Port())
	for m := range e.Mappings() {
		fmt.Println(m)
	}
	// The mappings stay, for whoever opens the table next.
	if err := e.Close(); err != nil {
		log.Fatal(err)
	}
}

// What an error is about can be told from it.
func ExampleEngine_Publish() {
	e, err := engine.Open(engine.Options{LockWait: time.Second})
	var owned *engine.OwnedError
	if errors.As(err, &owned) {
		log.Fatalf("process %d has the table", owned.PID)
	} else if err != nil {
		log.Fatal(err)
	}
	web, err := engine.ParseMapping("8080->172.30.0.2:80")
	if err != nil {
		log.Fatal(err)
	}
	_, err = e.Publish(web)
	var conflict *engine.ConflictError
	switch {
	case errors.As(err, &conflict):
		fmt.Println("port 8080 is taken by", conflict.Have.Name)
	case errors.Is(err, engine.ErrInvalid):
		fmt.Println("no host could do that:", err)
	}
	if err := e.Close(); err != nil {
		log.Fatal(err)
	}
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
	fmt.Println(errors.Is(err, engine.ErrInvalid))
	// Output:
	// type nat hook prerouting priority dstnat; policy accept;
	// type nat hook output priority -100; policy accept;
	// type nat hook postrouting priority srcnat; policy accept;
	// type filter hook forward priority filter; policy accept;
	// type filter hook prerouting priority raw; policy accept;
	// true
}
