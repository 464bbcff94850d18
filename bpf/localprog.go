// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
)

// localHook is a hook of the kernel that a Local has a program for.
type localHook struct {
	name   string
	attach uint32
	does   localWork
	six    bool // it sees addresses of IPv6
}

func (h localHook) kind() uint32 {
	if h.does == release {
		return unix.BPF_PROG_TYPE_CGROUP_SOCK
	}
	return unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR
}

type localWork uint8

const (
	leadConnect localWork = iota // a socket that connects
	leadSend                     // a datagram of a socket that is not connected
	nameSender                   // of a datagram that was received
	namePeer                     // of a socket
	release                      // a socket that is closed
)

// localHooks are in the order in which they are attached: a socket that is led can be named and released already.
var localHooks = []localHook{
	{"release", unix.BPF_CGROUP_INET_SOCK_RELEASE, release, false},
	{"getpeer4", unix.BPF_CGROUP_INET4_GETPEERNAME, namePeer, false},
	{"getpeer6", unix.BPF_CGROUP_INET6_GETPEERNAME, namePeer, true},
	{"recvmsg4", unix.BPF_CGROUP_UDP4_RECVMSG, nameSender, false},
	{"recvmsg6", unix.BPF_CGROUP_UDP6_RECVMSG, nameSender, true},
	{"sendmsg4", unix.BPF_CGROUP_UDP4_SENDMSG, leadSend, false},
	{"sendmsg6", unix.BPF_CGROUP_UDP6_SENDMSG, leadSend, true},
	{"connect4", unix.BPF_CGROUP_INET4_CONNECT, leadConnect, false},
	{"connect6", unix.BPF_CGROUP_INET6_CONNECT, leadConnect, true},
}

// More fields of struct bpf_sock_addr, and of struct bpf_sock (linux/bpf.h).
const (
	addrType      = 32
	addrSourceIP4 = 40 // of a message (IP_PKTINFO)
	addrSourceIP6 = 44

	sockDevice   = 0
	sockProtocol = 12
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

	// The records of a UDP socket: some, and whether there are more in mapMore.
	askedMore = localSlots * recordLen
	askedLen  = askedMore + 8
	// A key of mapMore: the cookie of the socket, the backend and its port.
	moreKeyLen = 8 + recordFrontendPort
	// The record of an MPTCP socket, and the cookie of its first flow.
	mptcpFlow = recordLen
	mptcpLen  = mptcpFlow + 8
)

// The frame of the programs.
const (
	frameLookup   int16 = -8  // a key of mapPorts
	frameLength   int16 = -12 // and before it the length, for mapRanges
	frameRecord   int16 = -56
	frameCookie   int16 = frameRecord - 8          // a key of mapLed, and of mapMore with the record behind
	frameSocket   int16 = frameCookie - socketHead // the beginning of struct sock
	socketHead          = 128
	frameBackend  int16 = frameRecord + recordBackend
	framePort     int16 = frameRecord + recordBackendPort
	frameFrontend int16 = frameRecord + recordFrontend
	frameAsked    int16 = frameRecord + recordFrontendPort
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
	netNS    uint64
	features localFeatures
	maps     []*sys.Map
	labels   int
}

const localExit = "exit"

// assembleLocal makes the program of a hook. R6 is its context. It always lets the call go on.
func assembleLocal(hook localHook, netNS uint64, features localFeatures, maps []*sys.Map) asm.Instructions {
	a := &assembler{hook: hook, netNS: netNS, features: features, maps: maps}
	a.add(asm.Mov.Reg(asm.R6, asm.R1))
	switch hook.does {
	case leadConnect, leadSend:
		a.lead()
	case nameSender, namePeer:
		a.name()
	case release:
		a.release()
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
	for ; from < to; from += 4 {
		a.add(asm.StoreImm(asm.RFP, from, 0, asm.Word))
	}
}

// peer copies the address and port of the context to the frame, as if it were a backend.
func (a *assembler) peer() {
	a.clear(frameRecord, frameRecord+recordLen)
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

// ours goes to the end unless the context is of a socket of the network namespace.
func (a *assembler) ours() {
	a.add(
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetNetnsCookie.Call(),
		asm.LoadImm(asm.R1, int64(a.netNS), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, localExit),
	)
}

// cookie stores that of the context's socket.
func (a *assembler) cookie() {
	a.add(
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetSocketCookie.Call(),
		asm.StoreMem(asm.RFP, frameCookie, asm.R0, asm.DWord),
	)
}

// cookieOf stores the cookie of the socket that a register has the address of, or goes to a label if it has none: then nothing is known of it.
func (a *assembler) cookieOf(socket asm.Register, none string) {
	if a.features.cookie == 0 {
		a.cookie()
		return
	}
	a.head(socket, a.features.cookie+8, none)
	a.add(
		asm.LoadMem(asm.R1, asm.RFP, frameSocket+a.features.cookie, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, none),
		asm.StoreMem(asm.RFP, frameCookie, asm.R1, asm.DWord),
	)
}

// head copies the beginning of a socket to the frame, or goes to a label.
func (a *assembler) head(socket asm.Register, size int16, failed string) {
	a.add(
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, int32(frameSocket)),
		asm.Mov.Imm(asm.R2, int32(size)),
		asm.Mov.Reg(asm.R3, socket),
		asm.FnProbeReadKernel.Call(),
		asm.JNE.Imm(asm.R0, 0, failed),
	)
}
