// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"encoding/binary"
	"slices"
)

// code is machine code while it is written.
type code struct {
	order  binary.ByteOrder
	b      []byte
	marks  [labels]int
	jumps  []jump
	target func(b []byte, at, to int) // writes a distance into the instruction at an offset
}

// jump is an instruction whose target is not set yet.
type jump struct {
	at int
	to label
}

func (c *code) bytes(b ...byte) { c.b = append(c.b, b...) }

// word appends an instruction of 32 bits.
func (c *code) word(w uint32) { c.b = append(c.b, c.encode(w)...) }

func (c *code) encode(w uint32) []byte {
	b := make([]byte, 4)
	c.order.PutUint32(b, w)
	return b
}

// long appends a number of 32 bits.
func (c *code) long(v uint32) { c.word(v) }

func (c *code) mark(l label) { c.marks[l] = len(c.b) }

// to notes that the instruction which was just begun at an offset leads to a label.
func (c *code) to(at int, l label) { c.jumps = append(c.jumps, jump{at, l}) }

func (c *code) finish() []byte {
	for _, j := range c.jumps {
		c.target(c.b, j.at, c.marks[j.to])
	}
	return slices.Clone(c.b)
}

// or adds bits to the instruction at an offset.
func (c *code) or(b []byte, at int, bits uint32) {
	c.order.PutUint32(b[at:], c.order.Uint32(b[at:])|bits)
}

func architectureOf(goarch string) (*architecture, bool) {
	little, big := binary.ByteOrder(binary.LittleEndian), binary.ByteOrder(binary.BigEndian)
	generic := calls{read: 63, write: 64, close: 57, socket: 198, connect: 203, shutdown: 210, ppoll: 73, prctl: 167, exit: 94}
	const stream, streamMIPS = 0x801, 0x82
	switch goarch {
	case "amd64":
		return &architecture{order: little, wide: true, machine: 62,
			calls: calls{read: 0, write: 1, close: 3, socket: 41, connect: 42, shutdown: 48, ppoll: 271, prctl: 157, exit: 231}, stream: stream, make: newAMD64}, true
	case "arm64":
		return &architecture{order: little, wide: true, machine: 183, calls: generic, stream: stream, make: newARM64}, true
	case "riscv64":
		return &architecture{order: little, wide: true, machine: 243, calls: generic, stream: stream, make: newRISCV}, true
	case "arm":
		return &architecture{order: little, machine: 40, flags: 0x05000000, // EABI 5
			calls: calls{read: 3, write: 4, close: 6, socket: 281, connect: 283, shutdown: 293, ppoll: 336, prctl: 172, exit: 248}, stream: stream, make: newARM}, true
	case "mips":
		return &architecture{order: big, machine: 8, flags: 0x50001000, // MIPS32, o32
			calls: calls{read: 4003, write: 4004, close: 4006, socket: 4183, connect: 4170, shutdown: 4182, ppoll: 4302, prctl: 4192, exit: 4246}, stream: streamMIPS, make: newMIPS}, true
	case "s390x":
		return &architecture{order: big, wide: true, machine: 22,
			calls: calls{read: 3, write: 4, close: 6, socket: 359, connect: 362, shutdown: 373, ppoll: 302, prctl: 172, exit: 248}, stream: stream, make: newS390X}, true
	}
	return nil, false
}
