// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// nregs is how many bytes the registers have: NFT_REG32_15 is field 19.
const nregs = 80

// regs are the registers of a rule. Bits that are not in known may have any value; where port is
// set, the byte is one of the client's port.
type regs struct {
	val, known [nregs]byte
	port       [nregs]portByte
}

type portByte uint8

const (
	notPort portByte = iota
	portHigh
	portLow
)

// span returns where n bytes of a register are. It is false if there are not so many.
func span(r rules.Register, n int) (at int, ok bool) {
	at = int(r) * 4
	return at, r > rules.Verdict && n >= 0 && n <= nregs && at <= nregs-n
}

// store loads known bytes, and pads the last field with zeros, as the kernel does.
func (r *regs) store(dreg rules.Register, b ...byte) {
	at, ok := span(dreg, len(b))
	if !ok {
		return
	}
	for i := range (len(b) + 3) &^ 3 {
		r.val[at+i], r.known[at+i], r.port[at+i] = 0, 0xff, notPort
		if i < len(b) {
			r.val[at+i] = b[i]
		}
	}
}

// forget makes n bytes unknown, and pads as store does.
func (r *regs) forget(dreg rules.Register, n int) {
	at, ok := span(dreg, n)
	if !ok {
		return
	}
	for i := range (n + 3) &^ 3 {
		r.val[at+i], r.known[at+i], r.port[at+i] = 0, 0, notPort
		if i >= n {
			r.known[at+i] = 0xff
		}
	}
}

func (r *regs) store32(dreg rules.Register, v uint32) {
	r.store(dreg, binary.NativeEndian.AppendUint32(nil, v)...)
}

// store32below loads a number of the host's byte order that is not known, and below a limit.
func (r *regs) store32below(dreg rules.Register, limit uint32) {
	at, ok := span(dreg, 4)
	if !ok {
		return
	}
	r.forget(dreg, 4)
	mask := uint32(1)
	for mask < limit && mask != 1<<31 {
		mask <<= 1
	}
	if mask >= limit {
		binary.NativeEndian.PutUint32(r.known[at:], ^(mask - 1))
	}
}

func (r *regs) storePort(dreg rules.Register) {
	r.forget(dreg, 2)
	if at, ok := span(dreg, 2); ok {
		r.port[at], r.port[at+1] = portHigh, portLow
	}
}

// all reports whether all bits of some bytes are known.
func (r *regs) all(at, n int) bool {
	for _, k := range r.known[at : at+n] {
		if k != 0xff {
			return false
		}
	}
	return true
}

// get returns the bytes of a register if all are known.
func (r *regs) get(sreg rules.Register, n int) ([]byte, bool) {
	at, ok := span(sreg, n)
	if !ok || !r.all(at, n) {
		return nil, false
	}
	return r.val[at : at+n], true
}

// isPort reports whether the two bytes are the client's port.
func (r *regs) isPort(at int) bool {
	return at+1 < nregs && r.port[at] == portHigh && r.port[at+1] == portLow
}

// bounds returns the lowest and the highest value that some bytes may have.
func (r *regs) bounds(at, n int, ports PortRange, low, high []byte) {
	for i := 0; i < n; i++ {
		if i+1 < n && r.isPort(at+i) {
			binary.BigEndian.PutUint16(low[i:], ports.First)
			binary.BigEndian.PutUint16(high[i:], ports.Last)
			i++
			continue
		}
		low[i] = r.val[at+i] & r.known[at+i]
		high[i] = low[i] | ^r.known[at+i]
	}
}

// equal says whether some bytes are those of data.
func (r *regs) equal(at int, data []byte, ports PortRange) Answer {
	answer := Yes
	for i := 0; i < len(data); i++ {
		if i+1 < len(data) && r.isPort(at+i) {
			port := binary.BigEndian.Uint16(data[i:])
			switch {
			case port < ports.First || port > ports.Last:
				return No
			case ports.First != ports.Last:
				answer = Maybe
			}
			i++
			continue
		}
		if (r.val[at+i]^data[i])&r.known[at+i] != 0 {
			return No
		}
		if r.known[at+i] != 0xff {
			answer = Maybe
		}
	}
	return answer
}

// compare says whether a register compares so with data (NFT_CMP_*), as memcmp does.
func (r *regs) compare(at int, op uint32, data []byte, ports PortRange) Answer {
	switch op {
	case unix.NFT_CMP_EQ:
		return r.equal(at, data, ports)
	case unix.NFT_CMP_NEQ:
		return not(r.equal(at, data, ports))
	}
	var low, high [nregs]byte
	n := len(data)
	r.bounds(at, n, ports, low[:], high[:])
	l, h := bytes.Compare(low[:n], data), bytes.Compare(high[:n], data)
	switch op {
	case unix.NFT_CMP_LT:
		return sure(h < 0, l >= 0)
	case unix.NFT_CMP_LTE:
		return sure(h <= 0, l > 0)
	case unix.NFT_CMP_GT:
		return sure(l > 0, h <= 0)
	case unix.NFT_CMP_GTE:
		return sure(l >= 0, h < 0)
	}
	return Maybe
}

// between says whether a register is between two values.
func (r *regs) between(at int, from, to []byte, ports PortRange) Answer {
	var low, high [nregs]byte
	n := len(from)
	r.bounds(at, n, ports, low[:], high[:])
	return sure(bytes.Compare(low[:n], from) >= 0 && bytes.Compare(high[:n], to) <= 0,
		bytes.Compare(high[:n], from) < 0 || bytes.Compare(low[:n], to) > 0)
}

func sure(yes, no bool) Answer {
	switch {
	case yes:
		return Yes
	case no:
		return No
	}
	return Maybe
}

func not(a Answer) Answer {
	switch a {
	case Yes:
		return No
	case No:
		return Yes
	case Maybe:
	}
	return Maybe
}
