// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// benchPublish adds one mapping at a time.
func benchPublish(rep *report, s settings) error {
	r := rep.table("One mapping more", seconds)
	for _, full := range []bool{false, true} {
		into, fill := "into an empty table", 0
		if full {
			into, fill = fmt.Sprintf("into %d", s.mappings), s.mappings
		}
		variants := []func(*lab.NS) error{
			func(ns *lab.NS) error { return publishRaw(r, ns, into, fill, s.singles) },
			func(ns *lab.NS) error { return publishEngine(r, ns, into, fill, s.singles) },
			func(ns *lab.NS) error { return publishNft(r, ns, into, fill, min(s.singles, 20)) },
		}
		if err := rounds(s.rounds, variants); err != nil {
			return err
		}
	}
	return nil
}

func publishRaw(r *table, ns *lab.NS, into string, fill, singles int) error {
	return withRaw(ns, func(raw *rawSocket) error {
		b := tableMessages()
		b = append(b, elementMessages(firstPort-1, fill+1)...) // one at least, to be acknowledged
		if err := raw.commit(batch(b)); err != nil {
			return err
		}
		for port := 1; port <= singles; port++ {
			err := timed(r, "raw netlink commit "+into, func() error { return raw.commit(batch(elementMessages(port, 1))) })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func publishEngine(r *table, ns *lab.NS, into string, fill, singles int) error {
	return withEngine(ns, func(e *engine.Engine) error {
		if _, err := e.Apply(context.Background(), mappings(firstPort-1, fill+1)...); err != nil {
			return err
		}
		for _, m := range mappings(1, singles) {
			err := timed(r, "engine.Publish "+into, func() error {
				_, err := e.Publish(context.Background(), nat.PublishOptions{}, m)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func publishNft(r *table, ns *lab.NS, into string, fill, singles int) error {
	if !installed(r, "nft") {
		return nil
	}
	err := withEngine(ns, func(e *engine.Engine) error {
		_, err := e.Apply(context.Background(), mappings(firstPort-1, fill+1)...)
		return err
	})
	if err != nil {
		return err
	}
	for port := 1; port <= singles; port++ {
		element := fmt.Sprintf("{ %d : 172.30.0.2 . %d }", port, port)
		err := timed(r, "nft add element, whole process, "+into, func() error {
			return command(ns, "nft", "add", "element", "inet", "nftnat", "tcp4", element)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
