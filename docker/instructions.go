// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import "encoding/binary"

// amd64 is x86-64.
type amd64 struct{ code }

func newAMD64() assembler {
	m := &amd64{code{order: binary.LittleEndian}}
	m.target = func(b []byte, at, to int) { m.order.PutUint32(b[at:], uint32(to-at-4)) }
	return m
}

func (m *amd64) enter() {
	m.bytes(0x48, 0x81, 0xec) // sub rsp, frameSize
	m.word(frameSize)
}

func (m *amd64) call(number uint32, args ...arg) {
	load := [][]byte{{0xbf}, {0xbe}, {0xba}, {0x41, 0xba}, {0x41, 0xb8}} // mov of edi, esi, edx, r10d, r8d
	register := []byte{0x7c, 0x74}                                       // rdi and rsi in an instruction with [rsp+disp8]
	for i, a := range args {
		switch a.kind {
		case constant:
			m.bytes(load[i]...)
			m.long(a.value)
		case address:
			m.bytes(0x48, 0x8d, register[i], 0x24, byte(a.value)) // lea, [rsp+value]
		case content:
			m.bytes(0x8b, register[i], 0x24, byte(a.value)) // mov, dword [rsp+value]
		}
	}
	m.bytes(0xb8) // mov eax, number
	m.long(number)
	m.bytes(0x0f, 0x05) // syscall
}

func (m *amd64) keep(offset int) {
	m.bytes(0x89, 0x44, 0x24, byte(offset)) // mov dword [rsp+offset], eax
}

func (m *amd64) jump(to label) {
	m.bytes(0xe9)
	m.to(len(m.b), to)
	m.long(0)
}

func (m *amd64) store(offset int, value uint32) {
	m.bytes(0xc7, 0x44, 0x24, byte(offset)) // mov dword [rsp+offset], value
	m.long(value)
}

func (m *amd64) branch(offset int, ifSet bool, to label) {
	m.bytes(0x66, 0x83, 0x7c, 0x24, byte(offset), 0) // cmp word [rsp+offset], 0
	op := byte(0x84)                                 // je
	if ifSet {
		op = 0x85 // jne
	}
	m.bytes(0x0f, op)
	m.to(len(m.b), to)
	m.long(0)
}

// arm64 passes values in w9.
type arm64 struct{ code }

func newARM64() assembler {
	m := &arm64{code{order: binary.LittleEndian}}
	m.target = func(b []byte, at, to int) { m.or(b, at, uint32((to-at)>>2)&0x7ffff<<5) }
	return m
}

func (m *arm64) enter() {
	m.word(0xd10003ff | frameSize<<10) // sub sp, sp, #frameSize
}

func (m *arm64) load(register, value uint32) {
	m.word(0x52800000 | value&0xffff<<5 | register) // movz
	m.word(0x72a00000 | value>>16<<5 | register)    // movk, lsl #16
}

func (m *arm64) call(number uint32, args ...arg) {
	for i, a := range args {
		r := uint32(i)
		switch a.kind {
		case constant:
			m.load(r, a.value)
		case address:
			m.word(0x910003e0 | a.value<<10 | r) // add xr, sp, #value
		case content:
			m.word(0xb94003e0 | a.value/4<<10 | r) // ldr wr, [sp, #value]
		}
	}
	m.load(8, number)
	m.word(0xd4000001) // svc #0
}

func (m *arm64) keep(offset int) {
	m.word(0xb90003e0 | uint32(offset)/4<<10) // str w0, [sp, #offset]
}

func (m *arm64) jump(to label) {
	m.to(len(m.b), to)
	m.word(0x3400001f) // cbz wzr
}

func (m *arm64) store(offset int, value uint32) {
	m.load(9, value)
	m.word(0xb90003e9 | uint32(offset)/4<<10) // str w9, [sp, #offset]
}

func (m *arm64) branch(offset int, ifSet bool, to label) {
	m.word(0x794003e9 | uint32(offset)/2<<10) // ldrh w9, [sp, #offset]
	op := uint32(0x34000009)                  // cbz w9
	if ifSet {
		op = 0x35000009 // cbnz w9
	}
	m.to(len(m.b), to)
	m.word(op)
}

// arm passes values in r6. Its instructions are those of ARMv5.
type arm struct{ code }

func newARM() assembler {
	m := &arm{code{order: binary.LittleEndian}}
	m.target = func(b []byte, at, to int) { m.or(b, at, uint32((to-at-8)>>2)&0xffffff) }
	return m
}

func (m *arm) enter() {
	m.word(0xe24ddb02) // sub sp, sp, #frameSize: 2 by 22 bits to the right
}

func (m *arm) load(register, value uint32) {
	m.word(0xe3a00000 | register<<12 | value&0xff) // mov
	for i, rotation := range []uint32{12, 8, 4} {  // by twice as many bits to the right
		m.word(0xe3800000 | register<<16 | register<<12 | rotation<<8 | value>>(8*(i+1))&0xff) // orr
	}
}

func (m *arm) call(number uint32, args ...arg) {
	for i, a := range args {
		r := uint32(i)
		switch a.kind {
		case constant:
			m.load(r, a.value)
		case address:
			m.word(0xe28d0000 | r<<12 | a.value) // add r, sp, #value
		case content:
			m.word(0xe59d0000 | r<<12 | a.value) // ldr r, [sp, #value]
		}
	}
	m.load(7, number)
	m.word(0xef000000) // svc 0
}

func (m *arm) keep(offset int) {
	m.word(0xe58d0000 | uint32(offset)) // str r0, [sp, #offset]
}

func (m *arm) jump(to label) {
	m.to(len(m.b), to)
	m.word(0xea000000) // b
}

func (m *arm) store(offset int, value uint32) {
	m.load(6, value)
	m.word(0xe58d6000 | uint32(offset)) // str r6, [sp, #offset]
}

func (m *arm) branch(offset int, ifSet bool, to label) {
	o := uint32(offset)
	m.word(0xe1dd60b0 | o>>4<<8 | o&15) // ldrh r6, [sp, #offset]
	m.word(0xe3560000)                  // cmp r6, #0
	op := uint32(0x0a000000)            // beq
	if ifSet {
		op = 0x1a000000 // bne
	}
	m.to(len(m.b), to)
	m.word(op)
}

// riscv passes values in t0.
type riscv struct{ code }

func newRISCV() assembler {
	m := &riscv{code{order: binary.LittleEndian}}
	m.target = func(b []byte, at, to int) {
		d := uint32(to - at)
		m.or(b, at, d>>12&1<<31|d>>5&0x3f<<25|d>>1&0xf<<8|d>>11&1<<7)
	}
	return m
}

// Registers.
const (
	riscvSP, riscvT0, riscvA0, riscvA7 = 2, 5, 10, 17
)

// addi adds a number of 12 bits.
func (m *riscv) addi(to, from uint32, value int) {
	m.word(uint32(value)<<20 | from<<15 | to<<7 | 0x13)
}

func (m *riscv) enter() {
	m.addi(riscvSP, riscvSP, -frameSize)
}

func (m *riscv) load(register, value uint32) {
	m.word((value+0x800)&0xfffff000 | register<<7 | 0x37)       // lui
	m.word(value&0xfff<<20 | register<<15 | register<<7 | 0x1b) // addiw
}

func (m *riscv) call(number uint32, args ...arg) {
	for i, a := range args {
		r := riscvA0 + uint32(i)
		switch a.kind {
		case constant:
			m.load(r, a.value)
		case address:
			m.addi(r, riscvSP, int(a.value))
		case content:
			m.word(a.value<<20 | riscvSP<<15 | 2<<12 | r<<7 | 0x03) // lw r, value(sp)
		}
	}
	m.load(riscvA7, number)
	m.word(0x00000073) // ecall
}

func (m *riscv) keep(offset int) {
	o := uint32(offset)
	m.word(o>>5<<25 | riscvA0<<20 | riscvSP<<15 | 2<<12 | o&31<<7 | 0x23) // sw a0, offset(sp)
}

func (m *riscv) jump(to label) {
	m.to(len(m.b), to)
	m.word(0x63) // beq zero, zero
}

func (m *riscv) store(offset int, value uint32) {
	m.load(riscvT0, value)
	o := uint32(offset)
	m.word(o>>5<<25 | riscvT0<<20 | riscvSP<<15 | 2<<12 | o&31<<7 | 0x23) // sw t0, offset(sp)
}

func (m *riscv) branch(offset int, ifSet bool, to label) {
	m.word(uint32(offset)<<20 | riscvSP<<15 | 5<<12 | riscvT0<<7 | 0x03) // lhu t0, offset(sp)
	kind := uint32(0)                                                    // beq t0, zero
	if ifSet {
		kind = 1 // bne
	}
	m.to(len(m.b), to)
	m.word(riscvT0<<15 | kind<<12 | 0x63)
}

// mips passes values in t0. Behind a branch is an instruction that does nothing.
type mips struct{ code }

func newMIPS() assembler {
	m := &mips{code{order: binary.BigEndian}}
	m.target = func(b []byte, at, to int) { m.or(b, at, uint32((to-at-4)>>2)&0xffff) }
	return m
}

func (m *mips) enter() {
	m.word(0x27bd0000 | (0x10000 - frameSize)) // addiu sp, sp, -frameSize
}

func (m *mips) load(register, value uint32) {
	m.word(0x3c000000 | register<<16 | value>>16)                   // lui
	m.word(0x34000000 | register<<21 | register<<16 | value&0xffff) // ori
}

func (m *mips) call(number uint32, args ...arg) {
	for i, a := range args {
		r := 4 + uint32(i)
		switch {
		case i == 4:
			m.store(16, a.value) // the fifth is on the stack
		case a.kind == constant:
			m.load(r, a.value)
		case a.kind == address:
			m.word(0x27a00000 | r<<16 | a.value) // addiu r, sp, value
		case a.kind == content:
			m.word(0x8fa00000 | r<<16 | a.value) // lw r, value(sp)
		}
	}
	m.load(2, number)
	m.word(0x0000000c) // syscall
}

func (m *mips) keep(offset int) {
	m.word(0xafa20000 | uint32(offset)) // sw v0, offset(sp)
}

func (m *mips) jump(to label) {
	m.to(len(m.b), to)
	m.word(0x10000000) // beq zero, zero
	m.word(0)
}

func (m *mips) store(offset int, value uint32) {
	m.load(8, value)
	m.word(0xafa80000 | uint32(offset)) // sw t0, offset(sp)
}

func (m *mips) branch(offset int, ifSet bool, to label) {
	m.word(0x97a80000 | uint32(offset)) // lhu t0, offset(sp)
	m.word(0)
	op := uint32(0x11000000) // beq t0, zero
	if ifSet {
		op = 0x15000000 // bne t0, zero
	}
	m.to(len(m.b), to)
	m.word(op)
	m.word(0)
}

// s390x passes values in r7.
type s390x struct{ code }

func newS390X() assembler {
	m := &s390x{code{order: binary.BigEndian}}
	m.target = func(b []byte, at, to int) { m.order.PutUint16(b[at+2:], uint16((to-at)/2)) }
	return m
}

func (m *s390x) enter() {
	m.bytes(0xa7, 0xfb) // aghi r15, -frameSize
	m.bytes((0x10000-frameSize)>>8, (0x10000-frameSize)&0xff)
}

func (m *s390x) load(register byte, value uint32) {
	m.bytes(0xc0, register<<4|1) // lgfi
	m.long(value)
}

func (m *s390x) call(number uint32, args ...arg) {
	for i, a := range args {
		r := 2 + byte(i)
		switch a.kind {
		case constant:
			m.load(r, a.value)
		case address:
			m.bytes(0x41, r<<4, 0xf0, byte(a.value)) // la r, value(r15)
		case content:
			m.bytes(0xe3, r<<4, 0xf0, byte(a.value), 0x00, 0x14) // lgf r, value(r15)
		}
	}
	m.load(1, number)
	m.bytes(0x0a, 0x00) // svc 0
}

func (m *s390x) keep(offset int) {
	m.bytes(0x50, 0x20, 0xf0, byte(offset)) // st r2, offset(r15)
}

func (m *s390x) jump(to label) {
	m.to(len(m.b), to)
	m.bytes(0xa7, 0xf4, 0, 0) // brc, always
}

func (m *s390x) store(offset int, value uint32) {
	m.load(7, value)
	m.bytes(0x50, 0x70, 0xf0, byte(offset)) // st r7, offset(r15)
}

func (m *s390x) branch(offset int, ifSet bool, to label) {
	m.bytes(0xe3, 0x70, 0xf0, byte(offset), 0x00, 0x91) // llgh r7, offset(r15)
	m.bytes(0xa7, 0x7f, 0x00, 0x00)                     // cghi r7, 0
	mask := byte(0x84)                                  // brc, equal
	if ifSet {
		mask = 0x74 // not equal
	}
	m.to(len(m.b), to)
	m.bytes(0xa7, mask, 0, 0)
}
