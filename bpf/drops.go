// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
)

// Drop is a packet that the kernel has dropped.
type Drop struct {
	// Reason is the kernel's name for why, as "IP_RPFILTER"; empty: the kernel does not tell (before Linux 5.17).
	Reason string
	// Address is where in the kernel it was dropped.
	Address uint64
	// Interface is the index of that which it belonged to; zero: none.
	Interface int
	// Headers are its first bytes from the header of IP on.
	Headers []byte
}

// Drops tells of packets that are dropped in one network namespace. Function is for one goroutine at a
// time, and so are the other methods; Run may run meanwhile.
type Drops struct {
	ports     *sys.Map
	events    *sys.Map
	program   *sys.Program
	link      *sys.Link
	reader    *sys.Ring
	reasons   map[uint32]string // nil: the kernel does not tell
	functions map[uint64]string
}

// Sizes of the ring buffer, and of what is copied of a packet: the longest header of IPv4 and
// one of TCP without options, or that of IPv6.
const (
	ringSize    = 256 << 10
	headersSize = 80
)

// The fields of an event, and its size.
const (
	eventAddress   = 0
	eventReason    = 8
	eventInterface = 12
	eventHeaders   = 16
	eventSize      = eventHeaders + headersSize
)

// OpenDrops loads the program for the network namespace of an inode. It tells of packets that are marked
// for nftrace, and of others once Watch is called.
func OpenDrops(netNS uint64) (_ *Drops, err error) {
	d := &Drops{functions: map[uint64]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("load a program for dropped packets: %w", err), d.Close())
		}
	}()
	types, err := readTypes()
	if err != nil {
		return nil, err
	}
	at, err := findOffsets(types)
	if err != nil {
		return nil, err
	}
	d.reasons = reasonsOf(types)
	if d.ports, err = sys.NewMap(&sys.MapSpec{Name: "nftnat_ports", Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 4, MaxEntries: 1 << 16}); err != nil {
		return nil, err
	}
	if d.events, err = sys.NewMap(&sys.MapSpec{Name: "nftnat_drops", Type: unix.BPF_MAP_TYPE_RINGBUF, MaxEntries: ringSize}); err != nil {
		return nil, err
	}
	d.program, err = sys.NewProgram(&sys.ProgramSpec{
		Name: "nftnat_drops", Type: unix.BPF_PROG_TYPE_RAW_TRACEPOINT,
		Instructions: assemble(at, netNS, d.reasons != nil, d.ports.FD(), d.events.FD()),
	})
	if err != nil {
		return nil, err
	}
	if d.link, err = sys.AttachTracepoint("kfree_skb", d.program); err != nil {
		return nil, err
	}
	if d.reader, err = sys.NewRing(d.events); err != nil {
		return nil, err
	}
	return d, nil
}

// HasReasons reports whether the kernel tells why.
func (d *Drops) HasReasons() bool { return d.reasons != nil }

// Close unloads the program.
func (d *Drops) Close() error {
	var errs []error
	if d.reader != nil {
		errs = append(errs, d.reader.Close())
	}
	if d.link != nil {
		errs = append(errs, d.link.Close())
	}
	if d.program != nil {
		errs = append(errs, d.program.Close())
	}
	for _, m := range []*sys.Map{d.events, d.ports} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// Protocols that can be watched, as bits.
const (
	TCP = 1 << iota
	UDP
)

// Watch tells from now on of packets from or to the port, of the protocols of the bits and of no other,
// whether they are marked or not.
func (d *Drops) Watch(port uint16, protocols uint32) error {
	if err := d.ports.Put(word(uint32(port)), word(protocols)); err != nil {
		return fmt.Errorf("watch port %d: %w", port, err)
	}
	return nil
}

// WatchAll is Watch for many ports.
func (d *Drops) WatchAll(ports map[uint16]uint32) error {
	keys, values := make([]uint32, 0, len(ports)), make([]uint32, 0, len(ports))
	for port, protocols := range ports {
		keys, values = append(keys, uint32(port)), append(values, protocols)
	}
	if _, err := d.ports.PutAll(sys.Flat(keys), sys.Flat(values)); err != nil {
		return fmt.Errorf("watch %d ports: %w", len(ports), err)
	}
	return nil
}

// Run calls told with each packet until the context is done, which is no error. Some are missing if more
// come than it can read.
func (d *Drops) Run(ctx context.Context, told func(Drop)) error {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		d.reader.Wake()
	})
	defer func() {
		if !stop() {
			<-woken // the caller may close the reader now
		}
	}()
	var record []byte
	for {
		var err error
		record, err = d.reader.Read(record[:0])
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, sys.ErrWoken):
			continue
		case err != nil:
			return fmt.Errorf("read dropped packets: %w", err)
		}
		if drop, ok := d.decode(record); ok {
			told(drop)
		}
	}
}

func (d *Drops) decode(b []byte) (Drop, bool) {
	if len(b) < eventSize {
		return Drop{}, false
	}
	drop := Drop{
		Interface: int(binary.NativeEndian.Uint32(b[eventInterface:])),
		Headers:   append([]byte(nil), b[eventHeaders:eventSize]...),
		Address:   binary.NativeEndian.Uint64(b[eventAddress:]),
	}
	if d.reasons != nil {
		number := binary.NativeEndian.Uint32(b[eventReason:])
		drop.Reason = d.reasons[number]
		if drop.Reason == "" {
			drop.Reason = fmt.Sprintf("reason %d", number) // of a subsystem
		}
	}
	return drop, true
}

// frame is where the program keeps what it reads: an offset from the frame pointer.
type frame int16

const (
	frameWord  frame = -8 // for one value at a time
	frameEvent frame = frameWord - 8 - eventSize
)

// program is a list of instructions in the making.
type program struct{ asm.Instructions }

func (p *program) add(is ...asm.Instruction) { p.Instructions = append(p.Instructions, is...) }

// read copies bytes of kernel memory at a register and an offset to the frame. What cannot be read
// is zero.
func (p *program) read(to frame, size int32, from asm.Register, offset uint32) {
	p.add(
		asm.Mov.Reg(asm.R3, from),
		asm.Add.Imm(asm.R3, int32(offset)),
		asm.Mov.Imm(asm.R2, size),
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, int32(to)),
		asm.FnProbeReadKernel.Call(),
	)
}

// load reads a value of kernel memory to a register.
func (p *program) load(dst asm.Register, size asm.Size, from asm.Register, offset uint32) {
	p.read(frameWord, int32(size.Sizeof()), from, offset)
	p.add(asm.LoadMem(dst, asm.RFP, int16(frameWord), size))
}

// assemble makes the program of the tracepoint kfree_skb, whose arguments are the packet, the place and the
// reason.
func assemble(at offsets, netNS uint64, reason bool, ports, events int) asm.Instructions {
	const exit = "exit"
	var p program
	p.add(
		asm.LoadMem(asm.R6, asm.R1, 0, asm.DWord),
		asm.LoadMem(asm.R2, asm.R1, 8, asm.DWord),
		asm.StoreMem(asm.RFP, int16(frameEvent)+eventAddress, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R2, 0),
	)
	if reason {
		p.add(asm.LoadMem(asm.R2, asm.R1, 16, asm.DWord))
	}
	p.add(
		asm.StoreMem(asm.RFP, int16(frameEvent)+eventReason, asm.R2, asm.Word),
		asm.StoreImm(asm.RFP, int16(frameEvent)+eventInterface, 0, asm.Word),
	)

	// The namespace: that of the interface, or else of the socket.
	p.add(asm.Mov.Imm(asm.R7, 0))
	p.load(asm.R8, at.pointer, asm.R6, at.skbDev)
	p.add(asm.JEq.Imm(asm.R8, 0, "no-dev"))
	p.load(asm.R7, at.pointer, asm.R8, at.devNet)
	p.read(frameEvent+eventInterface, 4, asm.R8, at.devIndex)
	p.add(asm.JNE.Imm(asm.R7, 0, "net"))
	p.add(asm.Mov.Imm(asm.R0, 0).WithSymbol("no-dev"))
	p.load(asm.R8, at.pointer, asm.R6, at.skbSock)
	p.add(asm.JEq.Imm(asm.R8, 0, exit))
	p.load(asm.R7, at.pointer, asm.R8, at.sockNet)
	p.add(asm.JEq.Imm(asm.R7, 0, exit))
	p.add(asm.Mov.Imm(asm.R0, 0).WithSymbol("net"))
	p.load(asm.R8, asm.Word, asm.R7, at.netInode)
	p.add(asm.LoadImm(asm.R1, int64(netNS), asm.DWord), asm.JNE.Reg(asm.R8, asm.R1, exit))

	// The headers.
	p.load(asm.R7, at.pointer, asm.R6, at.skbHead)
	p.load(asm.R8, asm.Half, asm.R6, at.skbNetwork)
	p.add(asm.Add.Reg(asm.R7, asm.R8))
	p.read(frameEvent+eventHeaders, headersSize, asm.R7, 0)
	p.add(asm.JNE.Imm(asm.R0, 0, exit))
	if at.traceMask != 0 {
		p.load(asm.R1, asm.Byte, asm.R6, at.skbTrace)
		p.add(asm.And.Imm(asm.R1, at.traceMask), asm.JNE.Imm(asm.R1, 0, "tell"))
	}
	headerByte := func(dst asm.Register, i int16) asm.Instruction {
		return asm.LoadMem(dst, asm.RFP, int16(frameEvent)+eventHeaders+i, asm.Byte)
	}
	const protoTCP, protoUDP = 6, 17
	p.add(
		headerByte(asm.R1, 0),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.RSh.Imm(asm.R2, 4),
		asm.JEq.Imm(asm.R2, 6, "ipv6"),
		asm.JNE.Imm(asm.R2, 4, exit),
		asm.And.Imm(asm.R1, 15),
		asm.LSh.Imm(asm.R1, 2),
		headerByte(asm.R2, 9),
		asm.Ja.Label("proto"),
		asm.Mov.Imm(asm.R1, 40).WithSymbol("ipv6"),
		headerByte(asm.R2, 6),
		asm.Mov.Imm(asm.R9, TCP).WithSymbol("proto"),
		asm.JEq.Imm(asm.R2, protoTCP, "ports"),
		asm.Mov.Imm(asm.R9, UDP),
		asm.JNE.Imm(asm.R2, protoUDP, exit),
		asm.Add.Reg(asm.R7, asm.R1).WithSymbol("ports"),
	)
	for i, found := range []string{"tell", ""} {
		p.load(asm.R1, asm.Half, asm.R7, uint32(2*i))
		p.add(
			asm.HostTo(asm.BE, asm.R1, asm.Half),
			asm.StoreMem(asm.RFP, int16(frameWord), asm.R1, asm.Word),
			asm.LoadMapPtr(asm.R1, ports),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, int32(frameWord)),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, exit), // which does not happen
			asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
			asm.And.Reg(asm.R1, asm.R9),
		)
		if found != "" {
			p.add(asm.JNE.Imm(asm.R1, 0, found))
		} else {
			p.add(asm.JEq.Imm(asm.R1, 0, exit))
		}
	}
	p.add(
		asm.LoadMapPtr(asm.R1, events).WithSymbol("tell"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(frameEvent)),
		asm.Mov.Imm(asm.R3, eventSize),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(exit),
		asm.Return(),
	)
	return p.Instructions
}
