// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
)

// Hold keeps other programs from binding ports, without a socket: bind(2) fails with EADDRINUSE where a socket with that address
// and port would have it fail. Only sockets of one network namespace are kept.
//
// It does not see ports that the kernel chooses: bind(2) to port 0, and connect(2), listen(2) or sendto(2) on a socket that
// is not bound. Nor does it change who has a port already.
type Hold struct {
	*Ports
	maps     []*sys.Map     // by the numbers below
	programs []*sys.Program // only while they are not attached
	links    []*sys.Link
	v6only   bool
}

// The maps of a Hold. In every version the exempt sockets are at mapExempt among the files of a [Handed], so that a process with another one
// can bind what is still held.
const (
	mapHeld   = iota // ports
	mapExempt        // sockets that may bind them; an entry goes with its socket
)

// holdVersion is that of the maps, and of which hooks there are.
const holdVersion = 1

func holdSpecs() []*sys.MapSpec {
	return []*sys.MapSpec{
		mapHeld: portsSpec("nftnat_held"),
		mapExempt: {
			Name: "nftnat_exempt", Type: unix.BPF_MAP_TYPE_SK_STORAGE, KeySize: 4, ValueSize: 4, Flags: unix.BPF_F_NO_PREALLOC,
		},
	}
}

var holdHooks = []struct {
	name   string
	attach uint32
	six    bool
}{{"bind4", unix.BPF_CGROUP_INET4_BIND, false}, {"bind6", unix.BPF_CGROUP_INET6_BIND, true}}

// HoldOptions are what a Hold is for.
type HoldOptions struct {
	// Group is the descriptor of a directory of cgroup2: processes in it and below are kept from binding. See [RootGroup].
	Group int
	// NetNS is the cookie of the network namespace (SO_NETNS_COOKIE).
	NetNS uint64
}

// OpenHold loads and attaches the programs. It needs CAP_BPF, CAP_NET_ADMIN and, to tell sockets of [::] that are for IPv6 alone,
// CAP_PERFMON; or CAP_SYS_ADMIN. From then on nothing does. The error is ErrPermission of package fs without them,
// [ErrNoHook] or [ErrGroupTaken].
func OpenHold(opts HoldOptions) (_ *Hold, err error) {
	h := &Hold{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("load programs that hold ports: %w", err), h.Close())
		}
	}()
	if h.maps, err = newMaps(holdSpecs()); err != nil {
		return nil, unsupported(err)
	}
	h.Ports = portsOf(h.maps[mapHeld])
	if err := h.load(opts); err != nil {
		return nil, err
	}
	for i, hook := range holdHooks {
		l, err := sys.Attach(opts.Group, h.programs[i], hook.attach)
		if errors.Is(err, unix.EPERM) {
			err = ErrGroupTaken // no privilege is missing
		}
		if err != nil {
			return nil, fmt.Errorf("attach the program for %s: %w", hook.name, err)
		}
		h.links = append(h.links, l)
	}
	return h, closeAttached(&h.programs)
}

// load loads the programs.
func (h *Hold) load(opts HoldOptions) error {
	v6only := findV6Only()
	for _, hook := range holdHooks {
		load := func() (*sys.Program, error) {
			return sys.NewProgram(&sys.ProgramSpec{
				Name: "nftnat_bind", Type: unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Attach: hook.attach,
				Instructions: assembleBind(hook.six, opts.NetNS, v6only, h.maps[mapHeld].FD(), h.maps[mapExempt].FD()),
			})
		}
		program, err := load()
		if err != nil && hook.six && v6only.mask != 0 {
			v6only.mask = 0 // it may not read the socket: without CAP_PERFMON, or in lockdown
			program, err = load()
		}
		if err != nil {
			return unsupported(err)
		}
		h.programs = append(h.programs, program)
	}
	h.v6only = v6only.mask != 0
	return nil
}

// Hand returns copies of the descriptors by which another process can take the ports and programs over; they are the caller's to
// close. They stay in force until both have closed them.
func (h *Hold) Hand() (Handed, error) {
	handed, err := hand(holdVersion, h.maps, h.links)
	if err != nil {
		return Handed{}, fmt.Errorf("hand programs that hold ports over: %w", err)
	}
	return handed, nil
}

// TakeHold takes over what another process handed, with the ports. It loads this version of the programs and puts each in the place of the
// old one, with no moment without. It needs what OpenHold does. The error is [ErrVersion] if that cannot be done. The files remain the caller's.
func TakeHold(opts HoldOptions, handed Handed) (_ *Hold, err error) {
	h := &Hold{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("take programs that hold ports over: %w", err), h.Close())
		}
	}()
	if h.maps, h.links, err = handed.open(holdVersion, holdSpecs(), len(holdHooks)); err != nil {
		return nil, err
	}
	h.Ports = portsOf(h.maps[mapHeld])
	if err := h.read(); err != nil {
		return nil, err
	}
	if err := h.load(opts); err != nil {
		return nil, err
	}
	for i, l := range h.links {
		if err := l.Update(h.programs[i]); err != nil {
			return nil, err
		}
	}
	return h, closeAttached(&h.programs)
}

// Exemption lets sockets bind the ports that a Hold of another process keeps from others.
type Exemption struct{ sockets *sys.Map }

// TakeExemption takes what [Exemption] is from what that process handed, of whatever version its programs are. The error is [ErrVersion] if they
// have none. The files remain the caller's.
func TakeExemption(handed Handed) (*Exemption, error) {
	sockets, err := handed.openMap(mapExempt, holdSpecs()[mapExempt])
	if err != nil {
		return nil, fmt.Errorf("take the exemption from held ports: %w", err)
	}
	return &Exemption{sockets}, nil
}

// Exempt is that of [Hold].
func (x *Exemption) Exempt(socket int) error { return exempt(x.sockets, socket) }

// Close closes the map; sockets that are exempt remain so.
func (x *Exemption) Close() error { return x.sockets.Close() }

// TellsV6Only reports whether the kernel lets the programs see that a socket of [::] is for IPv6 alone. If not, such a socket is kept from ports of
// IPv4 too.
func (h *Hold) TellsV6Only() bool { return h.v6only }

// Exempt lets a socket that is not bound yet bind any port.
func (h *Hold) Exempt(socket int) error { return exempt(h.maps[mapExempt], socket) }

func exempt(sockets *sys.Map, socket int) error {
	if err := sockets.Put(word(uint32(socket)), word(1)); err != nil {
		return fmt.Errorf("exempt a socket: %w", err)
	}
	return nil
}

// Close detaches the programs, unless another process has taken them over.
func (h *Hold) Close() error { return closeAll(h.links, h.programs, h.maps) }

// The fields of struct bpf_sock_addr (linux/bpf.h).
const (
	addrUserIP4  = 4
	addrUserIP6  = 8
	addrUserPort = 24
	addrProtocol = 36
	addrSock     = 64
)

// bitAt is where the kernel has a bit; mask zero: unknown.
type bitAt struct {
	byte int16
	mask int32
}

// sockRead is how much of a socket is read.
const sockRead = 32

// The frame of the programs: a key of the trie, its parts aligned, a number, and the socket's beginning.
const (
	frameKey    int16 = -32
	frameNumber int16 = -40
	frameSock   int16 = -40 - sockRead
)

// keyOf begins a key of the frame for a protocol in a register: all but its kind and address.
func (p *program) keyOf(proto asm.Register) {
	p.add(
		asm.StoreImm(asm.RFP, frameKey+keyLength, keyBits, asm.Word),
		asm.StoreImm(asm.RFP, frameKey+keyKind, 0, asm.Word), // and the padding
		asm.StoreMem(asm.RFP, frameKey+keyProto, proto, asm.Byte),
		asm.StoreImm(asm.RFP, frameKey+keyPort, 0, asm.Half),
	)
	p.noAddr()
}

// noAddr makes the address of the key zero.
func (p *program) noAddr() {
	for i := range int16(4) {
		p.add(asm.StoreImm(asm.RFP, frameKey+keyAddr+4*i, 0, asm.Word))
	}
}

// find looks the key up as one of a kind, and goes on at a label if it is found.
func (p *program) find(ports int, kind uint8, found string) {
	p.add(
		asm.StoreImm(asm.RFP, frameKey+keyKind, int64(kind), asm.Byte),
		asm.LoadMapPtr(asm.R1, ports),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, int32(frameKey)),
		asm.FnMapLookupElem.Call(),
		asm.JNE.Imm(asm.R0, 0, found),
	)
}

// protocol leaves TCP or UDP in a register, or goes on at a label for others.
func (p *program) protocol(reg asm.Register, other string) {
	p.add(
		asm.JEq.Imm(reg, unix.IPPROTO_UDP, "protocol"),
		asm.JEq.Imm(reg, unix.IPPROTO_TCP, "protocol"),
		asm.JNE.Imm(reg, unix.IPPROTO_MPTCP, other),
		asm.Mov.Imm(reg, unix.IPPROTO_TCP),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("protocol"),
	)
}

// assembleBind makes the program of bind4 or bind6.
func assembleBind(six bool, netNS uint64, v6only bitAt, ports, exempt int) asm.Instructions {
	const allow, held, four, all4 = "allow", "held", "four", "all4"
	var p program
	p.add(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetNetnsCookie.Call(),
		asm.LoadImm(asm.R1, int64(netNS), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, allow),
		asm.LoadMem(asm.R7, asm.R6, addrUserPort, asm.Word),
		asm.JEq.Imm(asm.R7, 0, allow),
		asm.LoadMem(asm.R8, asm.R6, addrProtocol, asm.Word),
	)
	p.protocol(asm.R8, allow)
	p.keyOf(asm.R8)
	p.add(asm.StoreMem(asm.RFP, frameKey+keyPort, asm.R7, asm.Half)) // in network order

	if six {
		for i, r := range []asm.Register{asm.R1, asm.R2, asm.R3, asm.R4} {
			p.add(
				asm.LoadMem(r, asm.R6, addrUserIP6+4*int16(i), asm.Word),
				asm.StoreMem(asm.RFP, frameKey+keyAddr+4*int16(i), r, asm.Word),
			)
		}
		p.add(
			asm.Or.Reg(asm.R1, asm.R2),
			asm.JNE.Imm(asm.R1, 0, "one6"),
			asm.Mov.Reg(asm.R9, asm.R3),
			asm.HostTo(asm.BE, asm.R9, asm.Word),
			asm.JEq.Imm(asm.R9, 0xffff, "mapped"),
			asm.Or.Reg(asm.R3, asm.R4),
			asm.JEq.Imm(asm.R3, 0, "all6"),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("one6"),
		)
		p.find(ports, kind6, held)
		p.noAddr()
		p.find(ports, kind6, held)
		p.add(asm.Ja.Label(allow))

		p.add(asm.Mov.Imm(asm.R0, 0).WithSymbol("all6"))
		p.find(ports, kind6, held)
		p.find(ports, kind6|anywhere, held)
		if v6only.mask != 0 {
			p.add(
				asm.Mov.Reg(asm.R1, asm.RFP),
				asm.Add.Imm(asm.R1, int32(frameSock)),
				asm.Mov.Imm(asm.R2, sockRead),
				asm.LoadMem(asm.R3, asm.R6, addrSock, asm.DWord),
				asm.FnProbeReadKernel.Call(),
				asm.JNE.Imm(asm.R0, 0, all4),
				asm.LoadMem(asm.R1, asm.RFP, frameSock+v6only.byte, asm.Byte),
				asm.And.Imm(asm.R1, v6only.mask),
				asm.JNE.Imm(asm.R1, 0, allow),
			)
		}
		p.add(asm.Ja.Label(all4))

		p.add(asm.Mov.Reg(asm.R7, asm.R4).WithSymbol("mapped"))
		p.noAddr()
	} else {
		p.add(asm.LoadMem(asm.R7, asm.R6, addrUserIP4, asm.Word))
	}
	p.add(
		asm.JEq.Imm(asm.R7, 0, all4),
		asm.StoreMem(asm.RFP, frameKey+keyAddr, asm.R7, asm.Word),
	)
	p.find(ports, kind4, held)
	p.noAddr()
	p.find(ports, kind4, held)
	p.add(asm.Ja.Label(allow))

	p.add(asm.Mov.Imm(asm.R0, 0).WithSymbol(all4))
	p.find(ports, kind4, held)
	p.find(ports, kind4|anywhere, held)

	p.add(
		asm.Mov.Imm(asm.R0, 1).WithSymbol(allow),
		asm.Return(),

		asm.LoadMapPtr(asm.R1, exempt).WithSymbol(held),
		asm.LoadMem(asm.R2, asm.R6, addrSock, asm.DWord),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkStorageGet.Call(),
		asm.JNE.Imm(asm.R0, 0, allow),
		asm.Mov.Imm(asm.R1, -int32(unix.EADDRINUSE)),
		asm.FnSetRetval.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	)
	return p.Instructions
}
