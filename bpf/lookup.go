// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
)

// Lookup leads what arrives at any of its ports in a network namespace to one socket of each protocol (sk_lookup): a listener, whose
// connections have the address and port that were asked for, and a UDP socket. It comes before all other listeners, and
// before UDP sockets that are bound and not connected: such ports of others must be left out, or they get nothing any more. Sockets that are
// connected come before it.
type Lookup struct {
	*Ports
	maps     []*sys.Map     // by the numbers below
	programs []*sys.Program // only while they are not attached
	links    []*sys.Link    // one
}

// The maps of a Lookup.
const (
	mapServed  = iota // ports
	mapSockets        // the sockets, by the slots below
)

// The slots of the sockets.
const (
	slotTCP = iota
	slotUDP
	slots
)

// lookupVersion is that of the maps.
const lookupVersion = 1

func lookupSpecs() []*sys.MapSpec {
	return []*sys.MapSpec{
		mapServed:  portsSpec("nftnat_served"),
		mapSockets: {Name: "nftnat_sockets", Type: unix.BPF_MAP_TYPE_SOCKMAP, KeySize: 4, ValueSize: 8, MaxEntries: slots},
	}
}

// OpenLookup loads the program and attaches it to a network namespace, a descriptor. It needs CAP_BPF and CAP_NET_ADMIN; from then on
// nothing does. The error is ErrPermission of package fs without them, or [ErrNoHook].
func OpenLookup(netNS int) (_ *Lookup, err error) {
	l := &Lookup{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("load a program that finds sockets: %w", err), l.Close())
		}
	}()
	if l.maps, err = newMaps(lookupSpecs()); err != nil {
		return nil, unsupported(err)
	}
	l.Ports = portsOf(l.maps[mapServed])
	if err := l.load(); err != nil {
		return nil, unsupported(err)
	}
	attached, err := sys.Attach(netNS, l.programs[0], unix.BPF_SK_LOOKUP)
	if err != nil {
		return nil, err
	}
	l.links = []*sys.Link{attached}
	return l, closeAttached(&l.programs)
}

func (l *Lookup) load() error {
	program, err := sys.NewProgram(&sys.ProgramSpec{
		Name: "nftnat_lookup", Type: unix.BPF_PROG_TYPE_SK_LOOKUP, Attach: unix.BPF_SK_LOOKUP,
		Instructions: assembleLookup(l.maps[mapServed].FD(), l.maps[mapSockets].FD()),
	})
	if err != nil {
		return err
	}
	l.programs = append(l.programs, program)
	return nil
}

// Hand returns copies of the descriptors by which another process can take the ports, the sockets and the program over; they are
// the caller's to close. They stay in force until both have closed them.
func (l *Lookup) Hand() (Handed, error) {
	handed, err := hand(lookupVersion, l.maps, l.links)
	if err != nil {
		return Handed{}, fmt.Errorf("hand a program that finds sockets over: %w", err)
	}
	return handed, nil
}

// TakeLookup takes over what another process handed, with the ports and sockets. It loads this version of the program and puts it in the place
// of the old one, with no moment without. It needs what OpenLookup does. The error is [ErrVersion] if that cannot be done. The files remain the
// caller's.
func TakeLookup(handed Handed) (_ *Lookup, err error) {
	l := &Lookup{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("take a program that finds sockets over: %w", err), l.Close())
		}
	}()
	if l.maps, l.links, err = handed.open(lookupVersion, lookupSpecs(), 1); err != nil {
		return nil, err
	}
	l.Ports = portsOf(l.maps[mapServed])
	if err := l.read(); err != nil {
		return nil, err
	}
	if err := l.load(); err != nil {
		return nil, err
	}
	if err := l.links[0].Update(l.programs[0]); err != nil {
		return nil, err
	}
	return l, closeAttached(&l.programs)
}

// Lead makes a socket the one that the ports of its protocol lead to, in place of the one before. One of IPv6 gets IPv4 as well unless it is
// for IPv6 alone, which to bind an address of IPv6 other than [::] makes it; bound to ::ffff:127.0.0.1, it gets all the same, and its own port is
// not reached from elsewhere. It is no socket of MPTCP, and listens or, one of UDP, is bound: else the error is EOPNOTSUPP.
func (l *Lookup) Lead(socket int) error {
	protocol, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return fmt.Errorf("lead ports to a socket: %w", err)
	}
	slot := uint32(slotTCP)
	if protocol == unix.IPPROTO_UDP {
		slot = slotUDP
		// Before Linux 6.12 it would be taken, and get nothing.
		if name, err := unix.Getsockname(socket); err == nil && portOf(name) == 0 {
			return fmt.Errorf("lead ports to a socket that is not bound: %w", unix.EOPNOTSUPP)
		}
	}
	if err := l.maps[mapSockets].Put(word(slot), binary.NativeEndian.AppendUint64(nil, uint64(socket))); err != nil {
		return fmt.Errorf("lead ports to a socket: %w", err)
	}
	return nil
}

func portOf(name unix.Sockaddr) int {
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return name.Port
	case *unix.SockaddrInet6:
		return name.Port
	}
	return 0
}

// Close detaches the program, unless another process has taken it over.
func (l *Lookup) Close() error {
	return closeAll(l.links, l.programs, l.maps)
}

// The fields of struct bpf_sk_lookup (linux/bpf.h).
const (
	lookupFamily    = 8
	lookupProtocol  = 12
	lookupLocalIP4  = 40
	lookupLocalIP6  = 44
	lookupLocalPort = 60 // in host order
)

// assembleLookup makes the program of sk_lookup. It always lets the packet pass.
func assembleLookup(ports, sockets int) asm.Instructions {
	const pass, found, six = "pass", "found", "six"
	var p program
	p.add(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R8, asm.R6, lookupProtocol, asm.Word),
	)
	p.protocol(asm.R8, pass)
	p.keyOf(asm.R8)
	p.add(
		asm.LoadMem(asm.R1, asm.R6, lookupLocalPort, asm.Word),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, frameKey+keyPort, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.R6, lookupFamily, asm.Word),
		asm.JEq.Imm(asm.R1, unix.AF_INET6, six),
		asm.JNE.Imm(asm.R1, unix.AF_INET, pass),
		asm.LoadMem(asm.R1, asm.R6, lookupLocalIP4, asm.Word),
		asm.StoreMem(asm.RFP, frameKey+keyAddr, asm.R1, asm.Word),
	)
	p.find(ports, kind4, found)
	p.noAddr()
	p.find(ports, kind4, found)
	p.add(asm.Ja.Label(pass), asm.Mov.Imm(asm.R0, 0).WithSymbol(six))
	for i := range int16(4) {
		p.add(
			asm.LoadMem(asm.R1, asm.R6, lookupLocalIP6+4*i, asm.Word),
			asm.StoreMem(asm.RFP, frameKey+keyAddr+4*i, asm.R1, asm.Word),
		)
	}
	p.find(ports, kind6, found)
	p.noAddr()
	p.find(ports, kind6, found)
	p.add(
		asm.Mov.Imm(asm.R0, 1).WithSymbol(pass),
		asm.Return(),

		asm.Mov.Imm(asm.R1, slotTCP).WithSymbol(found),
		asm.JEq.Imm(asm.R8, unix.IPPROTO_TCP, "slot"),
		asm.Mov.Imm(asm.R1, slotUDP),
		asm.StoreMem(asm.RFP, frameNumber, asm.R1, asm.Word).WithSymbol("slot"),
		asm.LoadMapPtr(asm.R1, sockets),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(frameNumber)),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, pass), // no socket yet
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, unix.BPF_SK_LOOKUP_F_NO_REUSEPORT),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),
		asm.Ja.Label(pass),
	)
	return p.Instructions
}
