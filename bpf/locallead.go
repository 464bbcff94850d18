// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// lead is the program of a hook for what begins at a socket.
func (a *assembler) lead() {
	const other, found, remember = "other", "found", "remember"

	// Most go elsewhere than to localhost, and are told so by the address.
	a.clear(frameRecord, frameRecord+recordLen)
	a.clear(frameLookup, frameLookup+entryLen)
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
	)
	a.ours()
	a.add(
		asm.LoadMem(asm.R1, asm.R6, addrProtocol, asm.Word),
		asm.JEq.Imm(asm.R1, unix.IPPROTO_TCP, "protocol"),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_UDP, localExit),
		asm.StoreMem(asm.RFP, frameLookup+entryProto, asm.R1, asm.Byte).WithSymbol("protocol"),
		asm.LoadMem(asm.R1, asm.R6, addrUserPort, asm.Word),
		asm.StoreMem(asm.RFP, frameLookup+entryPort, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, frameAsked, asm.R1, asm.Half),
		asm.LoadMem(asm.R9, asm.R6, addrSock, asm.DWord),
	)
	a.bound()
	a.lookup(found)

	a.here0(found)
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
	a.ours()
	a.peer()
	a.add(asm.LoadMem(asm.R9, asm.R6, addrSock, asm.DWord))
	if a.hook.does == leadConnect {
		a.cookieOf(asm.R9, localExit)
		a.remove(mapLed)
		a.add(
			asm.LoadMem(asm.R1, asm.R6, addrType, asm.Word),
			asm.JNE.Imm(asm.R1, unix.SOCK_DGRAM, localExit),
		)
	} else if !a.hook.six {
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
	a.asked(false, func() {
		a.add(
			asm.StoreImm(asm.R8, recordUsed, 0, asm.Word),
			asm.Ja.Label(localExit),
		)
	}, func() {
		a.remove(mapMore)
		a.add(asm.Ja.Label(localExit))
	})

	a.here(remember)
	a.add(asm.StoreImm(asm.RFP, frameRecord+recordUsed, 1, asm.Word))
	if a.hook.does == leadConnect {
		a.cookie()
		a.put(mapLed)
		a.add(
			asm.LoadMem(asm.R1, asm.R6, addrType, asm.Word),
			asm.JEq.Imm(asm.R1, unix.SOCK_DGRAM, "datagram"),
		)
		if a.features.mptcp {
			a.add(
				asm.Mov.Reg(asm.R1, asm.R9),
				asm.FnSkcToMptcpSock.Call(),
				asm.JEq.Imm(asm.R0, 0, "rewrite"),
				asm.Mov.Reg(asm.R9, asm.R0),
			)
			a.storage(mapMPTCP, true)
			a.add(asm.JEq.Imm(asm.R0, 0, localExit))
			a.copyRecord(asm.R0)
			a.add(
				asm.LoadMem(asm.R1, asm.RFP, frameCookie, asm.DWord),
				asm.StoreMem(asm.R0, mptcpFlow, asm.R1, asm.DWord),
			)
		}
		a.add(asm.Ja.Label("rewrite"))
	}
	a.here("datagram")
	a.asked(true, func() {
		a.copyRecord(asm.R8)
		a.add(asm.Ja.Label("rewrite"))
	}, func() {
		a.add(asm.StoreImm(asm.R7, askedMore, 1, asm.Word))
		a.put(mapMore)
	})
	a.here("rewrite")
	a.source()
	a.set(asm.RFP, frameRecord+recordBackend, frameRecord+recordBackendPort)
}

// copyRecord copies the record of the frame.
func (a *assembler) copyRecord(to asm.Register) {
	for i := int16(0); i < recordLen; i += 8 {
		a.add(
			asm.LoadMem(asm.R1, asm.RFP, frameRecord+i, asm.DWord),
			asm.StoreMem(to, i, asm.R1, asm.DWord),
		)
	}
}

// put puts the record of the frame into a map that has the cookie of the frame first in its keys. If there is no room, the socket is left
// alone: its peer could not be named.
func (a *assembler) put(which int) {
	a.pass(which)
	a.add(
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(frameCookie)),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, int32(frameRecord)),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
		asm.JNE.Imm(asm.R0, 0, localExit),
	)
}

// remove removes from such a map.
func (a *assembler) remove(which int) {
	a.pass(which)
	a.add(
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(frameCookie)),
		asm.FnMapDeleteElem.Call(),
	)
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
		a.head(asm.R9, a.features.v6only.byte+1, localExit)
		a.add(
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
