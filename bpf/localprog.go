// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// localHook is a hook of the kernel that a Local has a program for.
type localHook struct {
	name   string
	attach ebpf.AttachType
	does   localWork
	six    bool // it sees addresses of IPv6
}

type localWork uint8

const (
	leadConnect localWork = iota // a socket that connects
	leadSend                     // a datagram of a socket that is not connected
	nameSender                   // of a datagram that was received
	namePeer                     // of a socket
)

// localHooks are in the order in which they are attached: a peer that is led can be named already.
var localHooks = []localHook{
	{"getpeer4", ebpf.AttachCgroupInet4GetPeername, namePeer, false},
	{"getpeer6", ebpf.AttachCgroupInet6GetPeername, namePeer, true},
	{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, nameSender, false},
	{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, nameSender, true},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, leadSend, false},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, leadSend, true},
	{"connect4", ebpf.AttachCGroupInet4Connect, leadConnect, false},
	{"connect6", ebpf.AttachCGroupInet6Connect, leadConnect, true},
}

// More fields of struct bpf_sock_addr, and of struct bpf_sock (linux/bpf.h).
const (
	addrType      = 32
	addrSourceIP4 = 40 // of a message (IP_PKTINFO)
	addrSourceIP6 = 44

	sockDevice   = 0
	sockMark     = 16
	sockIP4      = 24
	sockIP6      = 28
	sockPeerPort = 48
	sockPeerIP4  = 52
)

// A key of mapPorts, which is also what follows the length in a key of mapRanges: all that a frontend on localhost has. The
// address is that of IPv4, or the last four bytes of one of IPv6: ::1 or ::. Zero is any address.
const (
	entryAddr   = 0
	entryProto  = 4
	entryFamily = 5
	entryPort   = 6
	entryLen    = 8
)

// A value of both. No family: the port is a hole in a range. No port: the port that was asked for. Addresses of IPv4 are mapped to
// IPv6 wherever there are 16 bytes for them.
const (
	valueAddr   = 0
	valuePort   = 16
	valueFamily = 18
	valueLen    = 20
)

// A record of what a socket was led to: the backend that it has as its peer, and the frontend that it asked for.
const (
	recordBackend      = 0
	recordBackendPort  = 16
	recordFrontendPort = 18
	recordUsed         = 20
	recordFrontend     = 24
	recordLen          = 40

	// Behind the records of a UDP socket: it has some in mapMore.
	recordsMore = localSlots * recordLen

	moreKeyLen = 32 // socket, backend, its port
	moreLen    = 20 // frontend, its port
)

// The frame of the programs.
const (
	frameLookup   int16 = -8  // a key of mapPorts
	frameLength   int16 = -12 // and before it the length, for mapRanges
	frameFrontend int16 = -48 // a value of mapMore
	frameFrontEnd int16 = frameFrontend + 16
	frameMore     int16 = -96 // a key of mapMore
	frameBackend  int16 = frameMore + 8
	framePort     int16 = frameMore + 24
	frameSocket   int16 = frameMore - sockRead // the beginning of struct sock
)

// netOrder is a number as an instruction has it so that the bytes in memory are in network order.
func netOrder(n uint32) int32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return int32(binary.NativeEndian.Uint32(b[:]))
}

// assembler makes a program of a Local.
type assembler struct {
	program
	hook     localHook
	features localFeatures
	maps     []*ebpf.Map
	labels   int
}

const localExit = "exit"

// assembleLocal makes the program of a hook. R6 is its context. It always lets the call go on.
func assembleLocal(hook localHook, netNS uint64, features localFeatures, maps []*ebpf.Map) asm.Instructions {
	a := &assembler{hook: hook, features: features, maps: maps}
	a.add(asm.Mov.Reg(asm.R6, asm.R1))
	switch hook.does {
	case leadConnect, leadSend:
		a.lead(netNS)
	case nameSender, namePeer:
		a.name()
	}
	a.add(
		asm.Mov.Imm(asm.R0, 1).WithSymbol(localExit),
		asm.Return(),
	)
	return a.Instructions
}

// label makes a name for a place.
func (a *assembler) label(what string) string {
	a.labels++
	return fmt.Sprintf("%s-%d", what, a.labels)
}

// here is where jumps to a label lead.
func (a *assembler) here(label string) { a.add(asm.Mov.Imm(asm.R0, 0).WithSymbol(label)) }

// pass makes a map the first argument of a call.
func (a *assembler) pass(which int) {
	a.add(asm.LoadMapPtr(asm.R1, a.maps[which].FD()))
}

// clear makes a part of the frame zero.
func (a *assembler) clear(from, to int16) {
	a.add(asm.Mov.Imm(asm.R0, 0))
	for ; from < to; from += 8 {
		a.add(asm.StoreMem(asm.RFP, from, asm.R0, asm.DWord))
	}
}

// peer copies the address and port of the context to the frame, as if it were a backend.
func (a *assembler) peer() {
	a.clear(frameMore, frameMore+moreKeyLen)
	if a.hook.six {
		for i := range int16(4) {
			a.add(
				asm.LoadMem(asm.R1, asm.R6, addrUserIP6+4*i, asm.Word),
				asm.StoreMem(asm.RFP, frameBackend+4*i, asm.R1, asm.Word),
			)
		}
	} else {
		a.add(
			asm.StoreImm(asm.RFP, frameBackend+8, int64(netOrder(0xffff)), asm.Word),
			asm.LoadMem(asm.R1, asm.R6, addrUserIP4, asm.Word),
			asm.StoreMem(asm.RFP, frameBackend+12, asm.R1, asm.Word),
		)
	}
	a.add(
		asm.LoadMem(asm.R1, asm.R6, addrUserPort, asm.Word),
		asm.StoreMem(asm.RFP, framePort, asm.R1, asm.Half),
	)
}

// lead is the program of a hook for what begins at a socket.
func (a *assembler) lead(netNS uint64) {
	const other, found, remember = "other", "found", "remember"

	// Most go elsewhere than to localhost, and are told so by the address.
	a.clear(frameFrontend, frameFrontend+16)
	a.clear(frameLookup, frameLookup+entryLen)
	a.add(asm.StoreImm(asm.RFP, frameFrontEnd, 0, asm.Word))
	if a.hook.six {
		a.add(
			asm.LoadMem(asm.R1, asm.R6, addrUserIP6, asm.Word),
			asm.LoadMem(asm.R2, asm.R6, addrUserIP6+4, asm.Word),
			asm.LoadMem(asm.R3, asm.R6, addrUserIP6+8, asm.Word),
			asm.LoadMem(asm.R8, asm.R6, addrUserIP6+12, asm.Word),
			asm.Or.Reg(asm.R1, asm.R2),
			asm.JNE.Imm(asm.R1, 0, other),
			asm.JEq.Imm(asm.R3, 0, "six"),
			asm.HostTo(asm.BE, asm.R3, asm.Word),
			asm.JNE.Imm(asm.R3, 0xffff, other),
			asm.StoreImm(asm.RFP, frameFrontend+8, int64(netOrder(0xffff)), asm.Word),
		)
	} else {
		a.add(
			asm.StoreImm(asm.RFP, frameFrontend+8, int64(netOrder(0xffff)), asm.Word),
			asm.LoadMem(asm.R8, asm.R6, addrUserIP4, asm.Word),
		)
	}
	a.add(
		asm.StoreImm(asm.RFP, frameLookup+entryFamily, 4, asm.Byte),
		asm.JNE.Imm(asm.R8, 0, "four"),
		asm.Mov.Imm(asm.R8, netOrder(0x7f000001)),
		asm.Mov.Reg(asm.R1, asm.R8).WithSymbol("four"),
	)
	a.unlessLoopback(asm.R1, other)
	if a.hook.six {
		a.add(
			asm.Ja.Label("ours"),
			asm.StoreImm(asm.RFP, frameLookup+entryFamily, 6, asm.Byte).WithSymbol("six"),
			asm.JNE.Imm(asm.R8, 0, "one"),
			asm.Mov.Imm(asm.R8, netOrder(1)),
			asm.Mov.Reg(asm.R1, asm.R8).WithSymbol("one"),
			asm.HostTo(asm.BE, asm.R1, asm.Word),
			asm.JNE.Imm(asm.R1, 1, other),
		)
	}
	a.here("ours")

	// Sockets of this network namespace, TCP and UDP alone.
	a.add(
		asm.StoreMem(asm.RFP, frameFrontend+12, asm.R8, asm.Word),
		asm.StoreMem(asm.RFP, frameLookup+entryAddr, asm.R8, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetNetnsCookie.Call(),
		asm.LoadImm(asm.R1, int64(netNS), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, localExit),
		asm.LoadMem(asm.R1, asm.R6, addrProtocol, asm.Word),
		asm.JEq.Imm(asm.R1, unix.IPPROTO_TCP, "protocol"),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_UDP, localExit),
		asm.StoreMem(asm.RFP, frameLookup+entryProto, asm.R1, asm.Byte).WithSymbol("protocol"),
		asm.LoadMem(asm.R1, asm.R6, addrUserPort, asm.Word),
		asm.StoreMem(asm.RFP, frameLookup+entryPort, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, frameFrontEnd, asm.R1, asm.Half),
		asm.LoadMem(asm.R9, asm.R6, addrSock, asm.DWord),
	)
	a.bound()
	a.lookup(found)

	a.here0(found)
	a.clear(frameMore, frameMore+moreKeyLen)
	a.add(
		asm.LoadMem(asm.R1, asm.R7, valueAddr, asm.DWord),
		asm.LoadMem(asm.R2, asm.R7, valueAddr+8, asm.DWord),
		asm.StoreMem(asm.RFP, frameBackend, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, frameBackend+8, asm.R2, asm.DWord),
		asm.LoadMem(asm.R8, asm.R7, valueFamily, asm.Byte),
		asm.LoadMem(asm.R1, asm.R7, valuePort, asm.Half),
		asm.JNE.Imm(asm.R1, 0, "port"),
		asm.LoadMem(asm.R1, asm.RFP, frameLookup+entryPort, asm.Half),
		asm.StoreMem(asm.RFP, framePort, asm.R1, asm.Half).WithSymbol("port"),
	)
	a.families()
	a.add(asm.Ja.Label(remember))

	// A socket that has been led and now goes to the backend itself sees the backend.
	a.here(other)
	a.peer()
	a.add(asm.LoadMem(asm.R9, asm.R6, addrSock, asm.DWord))
	if a.hook.does == leadSend && !a.hook.six {
		// What a socket of IPv6 sends that is connected to an address of IPv4 comes here, although nobody has named the destination.
		a.add(
			asm.LoadMem(asm.R1, asm.R9, sockPeerPort, asm.Half),
			asm.LoadMem(asm.R2, asm.RFP, framePort, asm.Half),
			asm.JNE.Reg(asm.R1, asm.R2, "forget"),
			asm.LoadMem(asm.R1, asm.R9, sockPeerIP4, asm.Word),
			asm.LoadMem(asm.R2, asm.RFP, frameBackend+12, asm.Word),
			asm.JEq.Reg(asm.R1, asm.R2, localExit),
		)
		a.here("forget")
	}
	a.records(false, func(record, more string) {
		a.here(record)
		a.add(
			asm.StoreImm(asm.R8, recordUsed, 0, asm.Word),
			asm.Ja.Label(localExit),
		)
		a.here(more)
		a.pass(mapMore)
		a.add(
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, int32(frameMore)),
			asm.FnMapDeleteElem.Call(),
			asm.Ja.Label(localExit),
		)
	})

	a.here(remember)
	a.records(true, func(record, more string) {
		const rewrite = "rewrite"
		a.here(record)
		for i := int16(0); i < 16; i += 8 {
			a.add(
				asm.LoadMem(asm.R1, asm.RFP, frameBackend+i, asm.DWord),
				asm.StoreMem(asm.R8, recordBackend+i, asm.R1, asm.DWord),
				asm.LoadMem(asm.R1, asm.RFP, frameFrontend+i, asm.DWord),
				asm.StoreMem(asm.R8, recordFrontend+i, asm.R1, asm.DWord),
			)
		}
		a.add(
			asm.LoadMem(asm.R1, asm.RFP, framePort, asm.Half),
			asm.StoreMem(asm.R8, recordBackendPort, asm.R1, asm.Half),
			asm.LoadMem(asm.R1, asm.RFP, frameFrontEnd, asm.Half),
			asm.StoreMem(asm.R8, recordFrontendPort, asm.R1, asm.Half),
			asm.StoreImm(asm.R8, recordUsed, 1, asm.Word),
			asm.Ja.Label(rewrite),
		)
		a.here(more)
		a.add(asm.StoreImm(asm.R7, recordsMore, 1, asm.Word))
		a.pass(mapMore)
		a.add(
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, int32(frameMore)),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, int32(frameFrontend)),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
			asm.JNE.Imm(asm.R0, 0, localExit), // left alone: its answers could not be named
		)
		a.here(rewrite)
	})
	a.source()
	a.set(asm.RFP, frameBackend, framePort)
}

// here0 is here, with R0 moved to R7.
func (a *assembler) here0(label string) { a.add(asm.Mov.Reg(asm.R7, asm.R0).WithSymbol(label)) }

// unlessLoopback goes to a label unless an address of IPv4 is in 127.0.0.0/8. It changes the register.
func (a *assembler) unlessLoopback(r asm.Register, label string) {
	a.add(
		asm.HostTo(asm.BE, r, asm.Word),
		asm.RSh.Imm(r, 24),
		asm.JNE.Imm(r, 127, label),
	)
}

// bound leaves sockets alone that are bound to a device, have a mark, or are bound to an address. One that has its address from a
// connection to which it was led is not bound. R9 is the socket.
func (a *assembler) bound() {
	const free = "free"
	a.add(
		asm.LoadMem(asm.R1, asm.R9, sockDevice, asm.Word),
		asm.JNE.Imm(asm.R1, 0, localExit),
		asm.LoadMem(asm.R1, asm.R9, sockMark, asm.Word),
		asm.JNE.Imm(asm.R1, 0, localExit),
	)
	a.address(asm.R9, sockIP4, sockIP6)
	if a.hook.does == leadSend {
		// The message has one of its own, which is the socket's if that has one.
		a.add(asm.JNE.Imm(asm.R1, 0, "bound"))
		a.address(asm.R6, addrSourceIP4, addrSourceIP6)
		a.add(asm.JEq.Imm(asm.R1, 0, free), asm.JEq.Imm(asm.R2, 1, free), asm.Ja.Label(localExit))
		a.add(asm.Mov.Imm(asm.R0, 0).WithSymbol("bound"))
	} else {
		a.add(asm.JEq.Imm(asm.R1, 0, free))
	}
	a.add(
		asm.JNE.Imm(asm.R2, 0, localExit), // loopback
		asm.LoadMem(asm.R1, asm.R6, addrType, asm.Word),
		asm.JNE.Imm(asm.R1, unix.SOCK_DGRAM, localExit),
	)
	a.storage(mapAsked, false)
	a.add(asm.JEq.Imm(asm.R0, 0, localExit))
	a.here(free)
}

// address loads into R1 whether there is an address at an offset from a register, and into R2 whether it is one of loopback.
func (a *assembler) address(of asm.Register, four, six int16) {
	done, loopback := a.label("address"), a.label("loopback")
	if !a.hook.six {
		a.add(
			asm.LoadMem(asm.R1, of, four, asm.Word),
			asm.Mov.Imm(asm.R2, 0),
			asm.JEq.Imm(asm.R1, 0, done),
			asm.Mov.Reg(asm.R3, asm.R1),
		)
		a.unlessLoopback(asm.R3, done)
		a.add(asm.Mov.Imm(asm.R2, 1))
		a.here(done)
		return
	}
	mapped := a.label("mapped")
	a.add(
		asm.LoadMem(asm.R1, of, six, asm.Word),
		asm.LoadMem(asm.R2, of, six+4, asm.Word),
		asm.LoadMem(asm.R3, of, six+8, asm.Word),
		asm.LoadMem(asm.R4, of, six+12, asm.Word),
		asm.Or.Reg(asm.R1, asm.R2),
		asm.Mov.Imm(asm.R2, 0),
		asm.JNE.Imm(asm.R1, 0, done),
		asm.HostTo(asm.BE, asm.R3, asm.Word),
		asm.HostTo(asm.BE, asm.R4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R3),
		asm.Or.Reg(asm.R1, asm.R4),
		asm.JEq.Imm(asm.R3, 0xffff, mapped),
		asm.JNE.Imm(asm.R3, 0, done),
		asm.JEq.Imm(asm.R4, 1, loopback),
		asm.Ja.Label(done),
		asm.RSh.Imm(asm.R4, 24).WithSymbol(mapped),
		asm.JNE.Imm(asm.R4, 127, done),
		asm.Mov.Imm(asm.R2, 1).WithSymbol(loopback),
	)
	a.here(done)
}

// lookup looks up the key: as a single port and in ranges, for its address and then for any. A hole is as nothing, and ranges are not
// asked behind it.
func (a *assembler) lookup(found string) {
	a.add(asm.StoreImm(asm.RFP, frameLength, 8*entryLen, asm.Word))
	for _, any := range []bool{false, true} {
		next := localExit
		if !any {
			next = "any"
		} else {
			a.here("any")
			a.add(asm.StoreImm(asm.RFP, frameLookup+entryAddr, 0, asm.Word))
		}
		ranges := a.label("ranges")
		a.get(mapPorts, frameLookup)
		a.add(
			asm.JEq.Imm(asm.R0, 0, ranges),
			asm.LoadMem(asm.R1, asm.R0, valueFamily, asm.Byte),
			asm.JEq.Imm(asm.R1, 0, next),
			asm.Ja.Label(found),
		)
		a.here(ranges)
		a.get(mapRanges, frameLength)
		a.add(asm.JNE.Imm(asm.R0, 0, found))
	}
	a.add(asm.Ja.Label(localExit))
}

// get looks up a key of the frame.
func (a *assembler) get(which int, key int16) {
	a.pass(which)
	a.add(
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(key)),
		asm.FnMapLookupElem.Call(),
	)
}

// families leaves sockets alone that cannot reach a backend of the family in R8. R9 is the socket.
func (a *assembler) families() {
	if !a.hook.six {
		a.add(asm.JNE.Imm(asm.R8, 4, localExit))
		return
	}
	const done, four, isFour = "families", "backend-four", "is-four"
	if a.hook.does == leadSend {
		a.add(asm.JNE.Imm(asm.R8, 6, localExit)) // an address that is mapped is refused here
		return
	}
	a.add(asm.JEq.Imm(asm.R8, 4, four))
	// A socket that has an address of IPv4 stays with it, and the other way round. Others have none.
	a.mapped()
	a.add(
		asm.JNE.Imm(asm.R3, 0xffff, done),
		asm.Ja.Label(localExit),
	)
	a.here(four)
	a.mapped()
	a.add(
		asm.JEq.Imm(asm.R3, 0xffff, isFour),
		asm.JNE.Imm(asm.R1, 0, localExit),
	)
	a.here(isFour)
	a.add(
		asm.LoadMem(asm.R1, asm.RFP, frameLookup+entryFamily, asm.Byte),
		asm.JEq.Imm(asm.R1, 4, done), // it asked for an address that is mapped
	)
	if a.features.v6only.mask == 0 {
		a.add(asm.Ja.Label(localExit))
	} else {
		a.add(
			asm.Mov.Reg(asm.R1, asm.RFP),
			asm.Add.Imm(asm.R1, int32(frameSocket)),
			asm.Mov.Imm(asm.R2, sockRead),
			asm.Mov.Reg(asm.R3, asm.R9),
			asm.FnProbeReadKernel.Call(),
			asm.JNE.Imm(asm.R0, 0, localExit),
			asm.LoadMem(asm.R1, asm.RFP, frameSocket+a.features.v6only.byte, asm.Byte),
			asm.And.Imm(asm.R1, a.features.v6only.mask),
			asm.JNE.Imm(asm.R1, 0, localExit),
		)
	}
	a.here(done)
}

// mapped loads into R3 0xffff if the socket in R9 has an address that is mapped, and into R1 whether it has one.
func (a *assembler) mapped() {
	a.add(
		asm.LoadMem(asm.R1, asm.R9, sockIP6, asm.Word),
		asm.LoadMem(asm.R2, asm.R9, sockIP6+4, asm.Word),
		asm.LoadMem(asm.R3, asm.R9, sockIP6+8, asm.Word),
		asm.LoadMem(asm.R4, asm.R9, sockIP6+12, asm.Word),
		asm.HostTo(asm.BE, asm.R3, asm.Word),
		asm.Or.Reg(asm.R1, asm.R2),
		asm.Or.Reg(asm.R1, asm.R3),
		asm.Or.Reg(asm.R1, asm.R4),
	)
}

// storage calls for the records of the socket in R9, which come in R0: zero if there are none. With create they are made.
func (a *assembler) storage(which int, create bool) {
	flags := int32(0)
	if create {
		flags = 1 // BPF_SK_STORAGE_GET_F_CREATE
	}
	a.add(asm.Mov.Reg(asm.R2, asm.R9))
	if which == mapConnected && create && a.features.mptcp {
		plain := a.label("plain")
		a.add(
			asm.Mov.Reg(asm.R1, asm.R9),
			asm.FnSkcToMptcpSock.Call(),
			asm.Mov.Reg(asm.R2, asm.R9),
			asm.JEq.Imm(asm.R0, 0, plain),
			asm.Mov.Reg(asm.R2, asm.R0),
		)
		a.here(plain)
	}
	a.pass(which)
	a.add(
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, flags),
		asm.FnSkStorageGet.Call(),
	)
}

// records finds the record for the backend of the frame, of the socket in R9. use emits what is done with it, at two labels: with
// R8 at a record in the socket, and with R7 at the records of a UDP socket, where the one that is searched is in mapMore. With create,
// the record may be any other that is free. Where there is none, the program ends.
func (a *assembler) records(create bool, use func(record, more string)) {
	record, more, datagram := a.label("record"), a.label("more"), a.label("datagram")
	if a.hook.does == leadConnect || a.hook.does == namePeer {
		a.add(
			asm.LoadMem(asm.R1, asm.R6, addrType, asm.Word),
			asm.JEq.Imm(asm.R1, unix.SOCK_DGRAM, datagram),
		)
		a.storage(mapConnected, create)
		a.add(
			asm.JEq.Imm(asm.R0, 0, localExit),
			asm.Mov.Reg(asm.R8, asm.R0),
		)
		if !create {
			a.matches(0, localExit)
		}
		a.add(asm.Ja.Label(record))
	}
	a.here(datagram)
	a.storage(mapAsked, create)
	a.add(
		asm.JEq.Imm(asm.R0, 0, localExit),
		asm.Mov.Reg(asm.R7, asm.R0),
	)
	for i := range int16(localSlots) {
		next := a.label("next")
		a.add(
			asm.Mov.Reg(asm.R8, asm.R7),
			asm.Add.Imm(asm.R8, int32(i*recordLen)),
		)
		a.matches(0, next)
		a.add(asm.Ja.Label(record))
		a.here(next)
	}
	if create {
		for i := range int16(localSlots) {
			a.add(
				asm.Mov.Reg(asm.R8, asm.R7),
				asm.Add.Imm(asm.R8, int32(i*recordLen)),
				asm.LoadMem(asm.R1, asm.R8, recordUsed, asm.Word),
				asm.JEq.Imm(asm.R1, 0, record),
			)
		}
	} else {
		a.add(
			asm.LoadMem(asm.R1, asm.R7, recordsMore, asm.Word),
			asm.JEq.Imm(asm.R1, 0, localExit),
		)
	}
	a.add(
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetSocketCookie.Call(),
		asm.StoreMem(asm.RFP, frameMore, asm.R0, asm.DWord),
		asm.Ja.Label(more),
	)
	use(record, more)
}

// matches goes to a label unless the record at R8 is in use and for the backend of the frame.
func (a *assembler) matches(at int16, label string) {
	a.add(
		asm.LoadMem(asm.R1, asm.R8, at+recordUsed, asm.Word),
		asm.JEq.Imm(asm.R1, 0, label),
	)
	for i := int16(0); i < 16; i += 8 {
		a.add(
			asm.LoadMem(asm.R1, asm.R8, at+recordBackend+i, asm.DWord),
			asm.LoadMem(asm.R2, asm.RFP, frameBackend+i, asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, label),
		)
	}
	a.add(
		asm.LoadMem(asm.R1, asm.R8, at+recordBackendPort, asm.Half),
		asm.LoadMem(asm.R2, asm.RFP, framePort, asm.Half),
		asm.JNE.Reg(asm.R1, asm.R2, label),
	)
}

// source takes an address of loopback away that a message is to have as its source: with it, it could not leave.
func (a *assembler) source() {
	if a.hook.does != leadSend {
		return
	}
	a.address(asm.R6, addrSourceIP4, addrSourceIP6)
	a.add(
		asm.JEq.Imm(asm.R2, 0, "source"),
		asm.Mov.Imm(asm.R1, 0),
	)
	if a.hook.six {
		for i := range int16(4) {
			a.add(asm.StoreMem(asm.R6, addrSourceIP6+4*i, asm.R1, asm.Word))
		}
	} else {
		a.add(asm.StoreMem(asm.R6, addrSourceIP4, asm.R1, asm.Word))
	}
	a.here("source")
}

// set gives the context an address and a port from memory.
func (a *assembler) set(from asm.Register, addr, port int16) {
	if a.hook.six {
		for i := range int16(4) {
			a.add(
				asm.LoadMem(asm.R1, from, addr+4*i, asm.Word),
				asm.StoreMem(asm.R6, addrUserIP6+4*i, asm.R1, asm.Word),
			)
		}
	} else {
		a.add(
			asm.LoadMem(asm.R1, from, addr+12, asm.Word),
			asm.StoreMem(asm.R6, addrUserIP4, asm.R1, asm.Word),
		)
	}
	a.add(
		asm.LoadMem(asm.R1, from, port, asm.Half),
		asm.StoreMem(asm.R6, addrUserPort, asm.R1, asm.Word),
	)
}

// name is the program of a hook that names a peer.
func (a *assembler) name() {
	a.add(asm.LoadMem(asm.R9, asm.R6, addrSock, asm.DWord))
	a.peer()
	a.records(false, func(record, more string) {
		a.here(record)
		a.set(asm.R8, recordFrontend, recordFrontendPort)
		a.add(asm.Ja.Label(localExit))
		a.here(more)
		a.get(mapMore, frameMore)
		a.add(
			asm.JEq.Imm(asm.R0, 0, localExit),
			asm.Mov.Reg(asm.R8, asm.R0),
		)
		a.set(asm.R8, 0, 16)
	})
}
