// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// prober asks the LAN who has an address, by ARP requests and neighbour solicitations of its
// own, so that what this machine remembers does not count.
type prober struct {
	addr netip.Addr
	mu   sync.Mutex
	seen []answer
}

// answer is what one machine has answered: from when to when.
type answer struct {
	mac         string
	first, last time.Time
}

const probePause = 5 * time.Millisecond

// probe asks from inside ns until the test ends.
func probe(t *testing.T, ns *lab.NS, a netip.Addr) *prober {
	t.Helper()
	p := &prober{addr: a}
	proto := uint16(unix.ETH_P_ARP)
	if a.Is6() {
		proto = unix.ETH_P_IPV6
	}
	var link *net.Interface
	var file *os.File
	require.NoError(t, ns.Do(func() (err error) {
		if link, err = net.InterfaceByName(lab.MachineLink); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(swap(proto)))
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "packet")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap(proto), Ifindex: link.Index})
	}))
	to := unix.SockaddrLinklayer{Protocol: swap(proto), Ifindex: link.Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	var question []byte
	if a.Is4() {
		question = slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, link.HardwareAddr, ns.V4.AsSlice(), make([]byte, 6), a.AsSlice())
	} else {
		to.Addr = [8]byte{0x33, 0x33}
		group := solicited(a)
		copy(to.Addr[2:], group[12:])
		question = solicitation(ns.V6, a, link.HardwareAddr)
	}
	rc, err := file.SyscallConn()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = rc.Control(func(fd uintptr) { _ = unix.Sendto(int(fd), question, 0, &to) })
			time.Sleep(probePause)
		}
	})
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, err := file.Read(buf)
			if err != nil {
				return
			}
			if mac, ok := p.parse(buf[:n]); ok {
				p.note(mac, time.Now())
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = file.Close()
		wg.Wait()
	})
	return p
}

func swap(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func solicited(a netip.Addr) [16]byte {
	b := a.As16()
	return [16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]}
}

// solicitation is a whole IPv6 packet (RFC 4861 section 4.3).
func solicitation(from, a netip.Addr, mac net.HardwareAddr) []byte {
	source, group := from.As16(), solicited(a)
	body := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, a.AsSlice(), []byte{1, 1}, mac)
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	for part := range slices.Chunk(slices.Concat(source[:], group[:], body), 2) {
		sum += uint32(binary.BigEndian.Uint16(part))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(body[2:], ^uint16(sum))
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(body)), unix.IPPROTO_ICMPV6, 255}, source[:], group[:], body)
}

// parse returns who answers, or announces, that it has the address.
func (p *prober) parse(b []byte) (mac string, ok bool) {
	if p.addr.Is4() {
		// A reply, or a gratuitous request.
		if len(b) < 28 || !bytes.Equal(b[14:18], p.addr.AsSlice()) {
			return "", false
		}
		return net.HardwareAddr(b[8:14]).String(), true
	}
	if len(b) < 40+32 || b[6] != unix.IPPROTO_ICMPV6 || b[40] != 136 || !bytes.Equal(b[48:64], p.addr.AsSlice()) {
		return "", false
	}
	return net.HardwareAddr(b[66:72]).String(), true
}

func (p *prober) note(mac string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A machine that comes back has a new answer.
	if n := len(p.seen); n > 0 && p.seen[n-1].mac == mac {
		p.seen[n-1].last = at
		return
	}
	p.seen = append(p.seen, answer{mac, at, at})
}

// answers are those of all machines, in the order of time. Where two answer at once, there are
// many short ones.
func (p *prober) answers() []answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// once fails the test if an address was at two machines at once, or came back to one.
func (p *prober) once(t *testing.T) {
	t.Helper()
	all := p.answers()
	seen := make(map[string]bool)
	for _, a := range all {
		if seen[a.mac] {
			t.Fatalf("two machines answered for %s at once: %s", p.addr, p)
		}
		seen[a.mac] = true
	}
}

func (p *prober) String() string {
	var b strings.Builder
	for _, a := range p.answers() {
		fmt.Fprintf(&b, "%s from %s to %s; ", a.mac, a.first.Format("05.000"), a.last.Format("05.000"))
	}
	return b.String()
}

// of is the answer of one machine; the zero one if it did not answer.
func (p *prober) of(mac string) answer {
	for _, a := range p.answers() {
		if a.mac == mac {
			return a
		}
	}
	return answer{}
}
