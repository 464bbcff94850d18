// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// memoryEngine stands in for an *engine.Engine, which needs a kernel: it has one mapping and
// no room.
type memoryEngine struct {
	api.Engine
	has nat.Mapping
}

func (s memoryEngine) Mappings(context.Context) ([]nat.Mapping, error) {
	return []nat.Mapping{s.has}, nil
}

func (s memoryEngine) Publish(_ context.Context, _ nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error) {
	return nil, fmt.Errorf("publish tcp %s: %w", ms[0].FrontendText(), &nat.ConflictError{Want: ms[0], Have: s.has})
}

func Example() {
	dir, err := os.MkdirTemp("", "nftnat")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	web, err := nat.ParseMapping("tcp", "8080", "172.17.0.2:80")
	if err != nil {
		log.Fatal(err)
	}

	// The daemon:
	l, err := api.Listen(filepath.Join(dir, "nftnat.sock"), -1)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- api.NewServer(api.Options{Engine: memoryEngine{has: web}}).Serve(ctx, l) }()

	// The command line:
	c := api.NewClient(filepath.Join(dir, "nftnat.sock"))
	ms, err := c.Mappings(context.Background())
	fmt.Println(ms, err)
	_, err = c.Publish(context.Background(), nat.PublishOptions{}, web)
	fmt.Println(err)
	fmt.Println(errors.Is(err, nat.ErrConflict))

	stop()
	fmt.Println(<-served)
	// Output:
	// [8080->172.17.0.2:80] <nil>
	// publish tcp 8080: tcp 8080 is published as 8080->172.17.0.2:80
	// true
	// <nil>
}
