// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/nftnat/nftnat/internal/lab"
)

// silence is how long [NoAnswer] waits. What is dropped never answers, what
// is refused answers at once; in between is a machine too busy to answer.
const silence = 400 * time.Millisecond

// EchoTCP is [lab.EchoTCP] for a test, closed when the test ends.
func EchoTCP(tb testing.TB, ns *lab.NS, name, addr string) *lab.Server {
	tb.Helper()
	return keep(tb)(lab.EchoTCP(ns, name, addr))
}

// EchoUDP is [lab.EchoUDP] for a test, closed when the test ends.
func EchoUDP(tb testing.TB, ns *lab.NS, name, addr string) *lab.Server {
	tb.Helper()
	return keep(tb)(lab.EchoUDP(ns, name, addr))
}

// EchoHTTP is [lab.EchoHTTP] for a test, closed when the test ends.
func EchoHTTP(tb testing.TB, ns *lab.NS, name, addr string) *lab.Server {
	tb.Helper()
	return keep(tb)(lab.EchoHTTP(ns, name, addr))
}

// Echo starts [lab.EchoTCP] or [lab.EchoUDP] according to network ("tcp" or
// "udp"), for tests that are the same for both.
func Echo(tb testing.TB, ns *lab.NS, network, name, addr string) *lab.Server {
	tb.Helper()
	if network == "udp" {
		return EchoUDP(tb, ns, name, addr)
	}
	return EchoTCP(tb, ns, name, addr)
}

func keep(tb testing.TB) func(*lab.Server, error) *lab.Server {
	tb.Helper()
	return func(s *lab.Server, err error) *lab.Server {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := s.Close(); err != nil {
				tb.Error(err)
			}
		})
		return s
	}
}

// Ask is [lab.Ask] for a test: no answer fails it.
func Ask(tb testing.TB, ns *lab.NS, network, addr string) (name string, peer netip.AddrPort) {
	tb.Helper()
	name, peer, err := lab.Ask(context.Background(), ns, network, addr, netip.AddrPort{})
	if err != nil {
		tb.Fatalf("%s: %v", ns, err)
	}
	return name, peer
}

// Reaches fails the test unless the server called name answers, and returns
// the client's address as that server sees it.
func Reaches(tb testing.TB, ns *lab.NS, network, addr, name string) (peer netip.AddrPort) {
	tb.Helper()
	got, peer := Ask(tb, ns, network, addr)
	if got != name {
		tb.Fatalf("%s asked %s %s: %s answered, not %s", ns, network, addr, got, name)
	}
	return peer
}

// NoAnswer fails the test if anybody answers within 0.4 s (see [Slowdown]), and returns why
// nobody did: syscall.ECONNREFUSED, EHOSTUNREACH and the like, or
// os.ErrDeadlineExceeded.
func NoAnswer(tb testing.TB, ns *lab.NS, network, addr string) error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Stretch(silence))
	defer cancel()
	name, peer, err := lab.Ask(ctx, ns, network, addr, netip.AddrPort{})
	if err == nil {
		tb.Fatalf("%s asked %s %s: %s answered (to %s)", ns, network, addr, name, peer)
	}
	return err
}
