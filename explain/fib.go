// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// fib answers a fib expression as the kernel does (nft_fib_ipv4.c, nft_fib_ipv6.c).
func fib(f facts, p *eval.Packet, hook, flags, result uint32) ([]byte, error) {
	to, from := p.Dst, p.Src
	if flags&unix.NFTA_FIB_F_SADDR != 0 {
		to, from = p.Src, p.Dst
	}
	switch {
	case !to.IsValid():
		return nil, errors.New("the address is not known")
	case flags&unix.NFTA_FIB_F_MARK != 0 && p.MarkUnknown:
		return nil, errors.New("the packet's mark is not known")
	}
	dev := 0
	switch {
	case flags&unix.NFTA_FIB_F_IIF != 0:
		dev = p.In.Index
	case flags&unix.NFTA_FIB_F_OIF != 0:
		dev = p.Out.Index
	}
	if result == unix.NFT_FIB_RESULT_ADDRTYPE {
		t, err := f.AddressType(to, dev)
		return binary.NativeEndian.AppendUint32(nil, uint32(t)), err
	}
	store := func(index int) ([]byte, error) {
		if flags&unix.NFTA_FIB_F_PRESENT != 0 {
			if index != 0 {
				return []byte{1}, nil
			}
			return []byte{0}, nil
		}
		if result == unix.NFT_FIB_RESULT_OIF {
			return binary.NativeEndian.AppendUint32(nil, uint32(index)), nil
		}
		name := make([]byte, 16)
		if index != 0 {
			l, err := f.Link(index)
			if err != nil {
				return nil, err
			}
			copy(name, l.Name)
		}
		return name, nil
	}
	if hook == unix.NF_INET_PRE_ROUTING && p.In.Type == unix.ARPHRD_LOOPBACK {
		return store(p.In.Index)
	}
	// The interface chooses among what is found, and restricts the search for link-local addresses alone.
	q := host.RouteQuery{Dst: to, Src: unicast(from)}
	if to.Is6() && to.IsLinkLocalUnicast() {
		if q.Oif = dev; dev == 0 {
			q.Oif = p.In.Index
		}
	}
	if flags&unix.NFTA_FIB_F_MARK != 0 {
		q.Mark = p.Mark
	}
	r, fault, err := f.FIB(q)
	if err != nil {
		return nil, err
	}
	if fault != nil || r == nil || r.Type != unix.RTN_UNICAST {
		return store(0)
	}
	if dev != 0 {
		for _, h := range r.Hops {
			if h.Oif == dev {
				return store(dev)
			}
		}
		if r.Oif != dev {
			return store(0)
		}
	}
	return store(r.Oif)
}

// unicast is an address unless it is none that a packet comes from.
func unicast(a netip.Addr) netip.Addr {
	if a.IsMulticast() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}
	}
	return a
}
