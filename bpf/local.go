// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
)

// Local leads sockets of one network namespace from frontends on localhost straight to their backends, at connect(2) and
// sendto(2). What a program sees of its peer (getpeername(2), recvfrom(2)) is the frontend that it asked for.
//
// It serves 127.0.0.0/8, ::1, the same mapped to IPv6, and 0.0.0.0 and ::, which lead there as well. It leaves alone, as if
// there were no mapping:
//   - sockets that are bound to an address or a device, or have a mark;
//   - sockets of IPv4 whose backend is of IPv6, and those of [::1] whose backend is of IPv4 if they are for IPv6 alone, or UDP and not connected.
//
// So are sockets beyond the first 65,536 that are connected at a time. All methods but Close are safe for concurrent use, and need no privilege.
type Local struct {
	maps     []*sys.Map     // by the numbers below
	programs []*sys.Program // only while they are not attached
	links    []*sys.Link
	features localFeatures
}

// LocalOptions are what a Local is for.
type LocalOptions struct {
	// Group is the descriptor of a directory of cgroup2: sockets of processes in it and below are led. See [RootGroup]. It has to be open
	// for the call alone.
	Group int
	// NetNS is the cookie of the network namespace (SO_NETNS_COOKIE).
	NetNS uint64
}

// localVersion is that of the maps, and of which hooks there are.
const localVersion = 1

// The maps of a Local.
const (
	mapPorts  = iota // backends by single ports
	mapRanges        // backends by prefixes of ports
	mapLed           // what connected sockets were led to, by their cookies, until they are closed
	mapMPTCP         // what an MPTCP socket was led to: goes with the socket
	mapAsked         // what a UDP socket has asked for, at most localSlots: goes with it too
	mapMore          // what UDP sockets have asked for beyond that, the oldest forgotten
	localMaps
)

// Bounds. The memory of mapPorts is 2 MiB and some 100 bytes an entry, that of mapLed 1 MiB and as much, that of mapRanges what its entries take, that of
// mapMore 1 MiB.
const (
	mostPorts  = 1 << 17
	mostBlocks = 1 << 16
	mostLed    = 1 << 16
	mostMore   = 1 << 13
	localSlots = 4
)

// localFeatures are what not every kernel can do, or not for this process.
type localFeatures struct {
	// MPTCP: the record of a connection is the MPTCP socket's, and not that of its first flow.
	mptcp bool
	// socketFields are read. Without, ::1 does not lead to backends of IPv4, and each socket that is asked for gets a cookie.
	socketFields
}

// OpenLocal loads and attaches the programs. It needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or CAP_SYS_ADMIN. Without CAP_PERFMON it does what
// [Local.Limits] tells of, and is refused by Linux 6.1, which allows no writes to a part of what was stored from a register. From then on nothing does. The error is ErrPermission of package fs without them, [ErrNoHook] or [ErrGroupTaken].
func OpenLocal(opts LocalOptions) (_ *Local, err error) {
	l := &Local{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("lead sockets on localhost: %w", err), l.Close())
		}
	}()
	if l.maps, err = newMaps(localSpecs()); err != nil {
		return nil, unsupported(err)
	}
	if err := l.load(opts); err != nil {
		return nil, err
	}
	for i, hook := range localHooks {
		attached, err := sys.Attach(opts.Group, l.programs[i], hook.attach)
		if errors.Is(err, unix.EPERM) {
			err = ErrGroupTaken // no privilege is missing
		}
		if err != nil {
			return nil, fmt.Errorf("attach the program for %s: %w", hook.name, err)
		}
		l.links = append(l.links, attached)
	}
	return l, closeAttached(&l.programs)
}

// load loads the programs, with as many features as can be had.
func (l *Local) load(opts LocalOptions) (err error) {
	fields := findSocketFields()
	for _, l.features = range []localFeatures{{true, fields}, {false, fields}, {true, socketFields{}}, {}} {
		if err = l.loadAll(opts); err == nil {
			return nil
		}
	}
	return err
}

func (l *Local) loadAll(opts LocalOptions) error {
	for _, hook := range localHooks {
		p, err := sys.NewProgram(&sys.ProgramSpec{
			Name: "nftnat_" + hook.name, Type: hook.kind(), Attach: hook.attach,
			Instructions: assembleLocal(hook, opts.NetNS, l.features, l.maps),
		})
		if err != nil {
			err = fmt.Errorf("load the program for %s: %w", hook.name, unsupported(err))
			err = errors.Join(err, closeAll(nil, l.programs, nil))
			l.programs = nil
			return err
		}
		l.programs = append(l.programs, p)
	}
	return nil
}

// unsupported says of an error of the kernel that something is missing in it.
func unsupported(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", ErrNoHook, err)
	}
	return err
}

// Close detaches the programs, unless another process has taken them over: then sockets go where they ask to. Connections stay, and have the
// backend as their peer by name as well.
func (l *Local) Close() error { return closeAll(l.links, l.programs, l.maps) }

func localSpecs() []*sys.MapSpec {
	inSocket := func(name string, size uint32) *sys.MapSpec {
		return &sys.MapSpec{
			Name: name, Type: unix.BPF_MAP_TYPE_SK_STORAGE, KeySize: 4, ValueSize: size, Flags: unix.BPF_F_NO_PREALLOC,
		}
	}
	specs := make([]*sys.MapSpec, localMaps)
	specs[mapPorts] = &sys.MapSpec{
		Name: "nftnat_local", Type: unix.BPF_MAP_TYPE_HASH, KeySize: entryLen, ValueSize: valueLen, MaxEntries: mostPorts, Flags: unix.BPF_F_NO_PREALLOC,
	}
	specs[mapRanges] = &sys.MapSpec{
		Name: "nftnat_localr", Type: unix.BPF_MAP_TYPE_LPM_TRIE, KeySize: 4 + entryLen, ValueSize: valueLen, MaxEntries: mostBlocks, Flags: unix.BPF_F_NO_PREALLOC,
	}
	specs[mapLed] = &sys.MapSpec{
		Name: "nftnat_led", Type: unix.BPF_MAP_TYPE_HASH, KeySize: 8, ValueSize: recordLen, MaxEntries: mostLed, Flags: unix.BPF_F_NO_PREALLOC,
	}
	specs[mapMPTCP] = inSocket("nftnat_mptcp", mptcpLen)
	specs[mapAsked] = inSocket("nftnat_udp", askedLen)
	specs[mapMore] = &sys.MapSpec{Name: "nftnat_more", Type: unix.BPF_MAP_TYPE_LRU_HASH, KeySize: moreKeyLen, ValueSize: recordLen, MaxEntries: mostMore}
	return specs
}

// Hand returns copies of the descriptors by which another process can take the programs and maps over; they are the caller's to close.
// They stay in force until both have closed them.
func (l *Local) Hand() (Handed, error) {
	handed, err := hand(localVersion, l.maps, l.links)
	if err != nil {
		return Handed{}, fmt.Errorf("hand the programs of localhost over: %w", err)
	}
	return handed, nil
}

// TakeLocal takes over what another process handed. It loads this version of the programs and puts each in the place of the old one, with
// no moment without. It needs what OpenLocal does. The error is [ErrVersion] if that cannot be done. The files remain the caller's.
func TakeLocal(opts LocalOptions, handed Handed) (_ *Local, err error) {
	l := &Local{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("take the programs of localhost over: %w", err), l.Close())
		}
	}()
	if l.maps, l.links, err = handed.open(localVersion, localSpecs(), len(localHooks)); err != nil {
		return nil, err
	}
	if err := l.load(opts); err != nil {
		return nil, err
	}
	for i, hook := range localHooks {
		if err := l.links[i].Update(l.programs[i]); err != nil {
			return nil, fmt.Errorf("replace the program for %s: %w", hook.name, err)
		}
	}
	return l, closeAttached(&l.programs)
}

// Limits says in what it does less here than it could: nothing on most kernels.
func (l *Local) Limits() []string {
	var limits []string
	if l.features.v6only.mask == 0 {
		limits = append(limits, "[::1] does not lead to backends of IPv4: the kernel does not tell whether a socket is for IPv6 alone")
	}
	if !l.features.mptcp {
		limits = append(limits, "MPTCP sockets see the backend as their peer: the kernel does not tell to which socket a flow belongs")
	}
	return slices.Clip(limits)
}

// AnyLed reports whether a connected socket was led and is not closed. If the kernel does not tell, there may be some:
// whoever asks looks at each socket then.
func (l *Local) AnyLed() bool {
	empty, err := l.maps[mapLed].Empty()
	return err != nil || !empty
}

// Connected returns the frontend that a connected socket asked for and the backend that it was led to, by its cookie (SO_COOKIE, and sock_diag(7), which
// has the first flow of an MPTCP socket). False: it was not led.
func (l *Local) Connected(cookie uint64) (frontend, backend netip.AddrPort, ok bool) {
	var r [recordLen]byte
	if err := l.maps[mapLed].Lookup(binary.NativeEndian.AppendUint64(nil, cookie), r[:]); err != nil {
		return frontend, backend, false
	}
	at := func(addr, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(r[addr:])).Unmap(), binary.BigEndian.Uint16(r[port:]))
	}
	return at(recordFrontend, recordFrontendPort), at(recordBackend, recordBackendPort), true
}
