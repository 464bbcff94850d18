// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// largestDatagram is the largest payload of UDP over IPv4 (RFC 768, RFC 791).
const largestDatagram = 65507

// Fragmented datagrams pass a mapping in both directions, up to the largest.
func TestFragments(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	e := open(t, top.Host, engine.Options{})
	labtest.EchoUDP(t, top.Backend1, "backend1", ":80")
	for _, f := range families(top) {
		publish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80)+"/udp")
		for _, from := range []*lab.NS{top.Client, top.Host} {
			for _, size := range []int{1452, 1453, 1473, 2953, 9000, largestDatagram} {
				t.Run(fmt.Sprintf("%s/%s/%d", f.name, from, size), func(t *testing.T) {
					there, back := counter(t, top.Backend1, f, "ReasmOKs"), counter(t, top.Backend1, f, "FragOKs")
					echoDatagram(t, from, at(f.host, 8080), "backend1", size)
					if size > 1472 { // a fragmented one in either family
						require.Equal(t, there+1, counter(t, top.Backend1, f, "ReasmOKs"), "put together")
						require.Equal(t, back+1, counter(t, top.Backend1, f, "FragOKs"), "cut")
					}
				})
			}
		}
	}
}

// Fragments fit the client's wire and not the backend's: over IPv4 the host makes smaller
// ones, over IPv6 the client has to (RFC 8200 section 5).
func TestFragmentsOfNarrowPath(t *testing.T) {
	for _, mtu := range []int{576, minMTU6} {
		n := newNarrow(t, mtu)
		e := open(t, n.Host, engine.Options{})
		labtest.EchoUDP(t, n.deep, "deep", ":80")
		for _, f := range n.families {
			publish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.deep, 80)+"/udp")
			for _, from := range []*lab.NS{n.Client, n.Host} {
				t.Run(fmt.Sprintf("%d/%s/%s", mtu, f.name, from), func(t *testing.T) {
					echoDatagram(t, from, at(f.host, 8080), "deep", largestDatagram)
				})
			}
		}
	}
}

// echoDatagram sends a datagram until it is echoed. The first ones may be lost, and client
// and backend learn the path's MTU from that.
func echoDatagram(t *testing.T, from *lab.NS, addr, name string, size int) {
	t.Helper()
	c, err := from.Dial(t.Context(), "udp", addr)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	sent := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(sent)
	got := exchange(t, c, sent)
	line := name + " " + netip.MustParseAddrPort(c.LocalAddr().String()).String() + "\n"
	require.Equal(t, line, string(got[:len(line)]))
	got = got[len(line):]
	require.Len(t, got, min(size, largestDatagram-len(line)))
	require.True(t, bytes.Equal(sent[:len(got)], got))
}

// exchange sends a datagram again and again until an answer comes.
func exchange(t *testing.T, c net.Conn, datagram []byte) (answer []byte) {
	t.Helper()
	answer = make([]byte, largestDatagram+1)
	for range 5 {
		_, err := c.Write(datagram)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(silence)))
		n, err := c.Read(answer)
		if err == nil {
			return answer[:n]
		}
		require.True(t, errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.EMSGSIZE), "%v", err)
	}
	require.Fail(t, "no answer")
	return nil
}

// counter returns one of the kernel's IP counters of a machine (RFC 4293).
func counter(t *testing.T, ns *lab.NS, f family, name string) int {
	t.Helper()
	name = map[int]string{32: "Ip", 128: "Ip6"}[f.bits] + name
	for line := range strings.Lines(labtest.Exec(t, ns, "nstat", "--zeros", "--noupdate", "--ignore", name)) {
		var n int
		if _, err := fmt.Sscanf(line, name+" %d", &n); err == nil {
			return n
		}
	}
	require.Fail(t, "no counter "+name)
	return 0
}
