// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

// backend is the backend of all mappings. The namespaces of these measurements have no
// route to it; looking for one costs the same as finding one.
func backend() netip.Addr { return netip.AddrFrom4([4]byte{172, 30, 0, 2}) }

// firstPort is the first port of the full table; those below are for single changes.
const firstPort = 1000

func mappings(first, count int) []nat.Mapping {
	ms := make([]nat.Mapping, count)
	for i := range ms {
		port := uint16(first + i)
		ms[i] = nat.Mapping{
			Proto:    nat.TCP,
			Frontend: netip.AddrPortFrom(netip.Addr{}, port),
			Backend:  netip.AddrPortFrom(backend(), port),
		}
	}
	return ms
}

// mappingsToEach are mappings that have backends of their own, in 10.0.0.0/8.
func mappingsToEach(first, count int) []nat.Mapping {
	ms := mappings(first, count)
	for i := range ms {
		ms[i].Backend = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), ms[i].Backend.Port())
	}
	return ms
}

// routed gives a namespace an interface that those backends are on link by.
func routed(ns *lab.NS) error {
	h, err := ns.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "backends"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}
	return cmp.Or(h.LinkAdd(link), h.LinkSetUp(link), h.AddrAdd(link, addr))
}

// inNamespace runs f in a fresh network namespace.
func inNamespace(f func(ns *lab.NS) error) (err error) {
	ns, err := lab.New("bench")
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := ns.Close(); err == nil {
			err = closeErr
		}
	}()
	return f(ns)
}

// timed adds the duration of f to the table.
func timed(r *table, variant string, f func() error) error {
	start := time.Now()
	err := f()
	took := time.Since(start)
	if err != nil {
		return fmt.Errorf("%s: %w", variant, err)
	}
	r.add(variant, took.Seconds())
	return nil
}

// withRaw opens a raw socket in the namespace.
func withRaw(ns *lab.NS, f func(*rawSocket) error) error {
	var s *rawSocket
	err := ns.Do(func() (err error) {
		s, err = newRawSocket()
		return err
	})
	if err != nil {
		return err
	}
	defer s.close()
	return f(s)
}

// withEngine opens an engine in the namespace.
func withEngine(ns *lab.NS, f func(*engine.Engine) error) error {
	e, err := engine.Open(context.Background(), engine.Options{NetNS: ns.Path(), NoProxies: true})
	if err != nil {
		return err
	}
	err = f(e)
	if closeErr := e.Close(); err == nil {
		err = closeErr
	}
	return err
}

// command runs a program inside the namespace.
func command(ns *lab.NS, name string, args ...string) error {
	return ns.Do(func() error {
		cmd := exec.Command(name, args...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(errs.Bytes()))
		}
		return nil
	})
}

// installed reports whether a peer is installed, and adds a note if not.
func installed(r *table, name string) bool {
	_, err := exec.LookPath(name)
	if err != nil {
		r.note("%s is not installed and left out", name)
	}
	return err == nil
}

func rounds(n int, variants []func(*lab.NS) error) error {
	for range n {
		for _, v := range variants {
			if err := inNamespace(v); err != nil {
				return err
			}
		}
	}
	return nil
}
