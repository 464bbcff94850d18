// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// storage calls for what the socket in R9 has in a map, which comes in R0: zero if there is nothing. With create it is made.
func (a *assembler) storage(which int, create bool) {
	flags := int32(0)
	if create {
		flags = 1 // BPF_SK_STORAGE_GET_F_CREATE
	}
	a.pass(which)
	a.add(
		asm.Mov.Reg(asm.R2, asm.R9),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, flags),
		asm.FnSkStorageGet.Call(),
	)
}

// asked finds the record for the backend of the frame, of the UDP socket in R9. record emits what is done with it in the socket, at R8; more what is
// done with one in mapMore, with all of the socket at R7. Before that comes what the other one ends with. With create, the record may be any other that is free.
// Where there is none, the program ends.
func (a *assembler) asked(create bool, record, more func()) {
	inSocket, inMore := a.label("record"), a.label("more")
	a.storage(mapAsked, create)
	a.add(
		asm.JEq.Imm(asm.R0, 0, localExit),
		asm.Mov.Reg(asm.R7, asm.R0),
	)
	for i := range int32(localSlots) {
		next := a.label("next")
		a.add(
			asm.Mov.Reg(asm.R8, asm.R7),
			asm.Add.Imm(asm.R8, i*recordLen),
		)
		a.matches(next)
		a.add(asm.Ja.Label(inSocket))
		a.here(next)
	}
	if create {
		for i := range int32(localSlots) {
			a.add(
				asm.Mov.Reg(asm.R8, asm.R7),
				asm.Add.Imm(asm.R8, i*recordLen),
				asm.LoadMem(asm.R1, asm.R8, recordUsed, asm.Word),
				asm.JEq.Imm(asm.R1, 0, inSocket),
			)
		}
	} else {
		a.add(
			asm.LoadMem(asm.R1, asm.R7, askedMore, asm.Word),
			asm.JEq.Imm(asm.R1, 0, localExit),
		)
	}
	a.cookie()
	a.add(asm.Ja.Label(inMore))
	a.here(inSocket)
	record()
	a.here(inMore)
	more()
}

// matches goes to a label unless the record at R8 is in use and for the backend of the frame.
func (a *assembler) matches(label string) {
	a.add(
		asm.LoadMem(asm.R1, asm.R8, recordUsed, asm.Word),
		asm.JEq.Imm(asm.R1, 0, label),
	)
	for i := int16(0); i < 16; i += 8 {
		a.add(
			asm.LoadMem(asm.R1, asm.R8, recordBackend+i, asm.DWord),
			asm.LoadMem(asm.R2, asm.RFP, frameBackend+i, asm.DWord),
			asm.JNE.Reg(asm.R1, asm.R2, label),
		)
	}
	a.add(
		asm.LoadMem(asm.R1, asm.R8, recordBackendPort, asm.Half),
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
	if a.hook.does == namePeer {
		a.ours()
		a.add(
			asm.LoadMem(asm.R1, asm.R6, addrType, asm.Word),
			asm.JEq.Imm(asm.R1, unix.SOCK_DGRAM, "datagram"),
		)
		if a.features.mptcp {
			a.add(
				asm.LoadMem(asm.R1, asm.R6, addrProtocol, asm.Word),
				asm.JNE.Imm(asm.R1, unix.IPPROTO_MPTCP, "tcp"),
			)
			a.storage(mapMPTCP, false)
			a.add(asm.Ja.Label("led"))
			a.here("tcp")
		}
		a.cookieOf(asm.R9, localExit)
		a.get(mapLed, frameCookie)
		a.add(asm.JEq.Imm(asm.R0, 0, localExit).WithSymbol("led"))
		a.add(asm.Mov.Reg(asm.R8, asm.R0))
		a.matches(localExit)
		a.set(asm.R8, recordFrontend, recordFrontendPort)
		a.add(asm.Ja.Label(localExit))
	}
	a.here("datagram")
	a.asked(false, func() {
		a.set(asm.R8, recordFrontend, recordFrontendPort)
		a.add(asm.Ja.Label(localExit))
	}, func() {
		a.get(mapMore, frameCookie)
		a.add(
			asm.JEq.Imm(asm.R0, 0, localExit),
			asm.Mov.Reg(asm.R8, asm.R0),
		)
		a.set(asm.R8, recordFrontend, recordFrontendPort)
	})
}

// release is the program of the hook for sockets that are closed. Its context is a struct bpf_sock.
func (a *assembler) release() {
	a.ours()
	if a.features.mptcp {
		a.add(
			asm.LoadMem(asm.R1, asm.R6, sockProtocol, asm.Word),
			asm.JNE.Imm(asm.R1, unix.IPPROTO_MPTCP, "tcp"),
			asm.Mov.Reg(asm.R9, asm.R6),
		)
		a.storage(mapMPTCP, false)
		a.add(
			asm.JEq.Imm(asm.R0, 0, localExit),
			asm.LoadMem(asm.R1, asm.R0, mptcpFlow, asm.DWord),
			asm.StoreMem(asm.RFP, frameCookie, asm.R1, asm.DWord),
			asm.Ja.Label("cookie"),
		)
		a.here("tcp")
	}
	a.cookieOf(asm.R6, localExit)
	a.here("cookie")
	a.remove(mapLed)
}
