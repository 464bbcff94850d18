// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Interface is an interface of the network namespace in which [Open] was called, found by its
// name each time, so that it may be replaced. One goroutine at a time may use it.
type Interface struct {
	name   string
	kernel *nlwire.Socket
	packet int
	seq    uint32
}

// Open opens what is needed on the interface of a name, which has to be there
// (fs.ErrNotExist otherwise).
func Open(name string) (*Interface, error) {
	kernel, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_ROUTE})
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	// Protocol 0: it receives nothing.
	packet, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", errors.Join(err, kernel.Close()))
	}
	i := &Interface{name: name, kernel: kernel, packet: packet}
	if _, err := i.link(); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	return i, nil
}

// Close closes the sockets. Addresses stay to the end of their time.
func (i *Interface) Close() error { return errors.Join(i.kernel.Close(), unix.Close(i.packet)) }

// Name returns the name of the interface.
func (i *Interface) Name() string { return i.name }

// ErrForeign is the error of an address that is on the host already, put there by somebody else.
var ErrForeign = errors.New("the host has the address already, and not from the fleet")

// ErrDown is the error of an interface that is down, or whose cable is not connected.
var ErrDown = errors.New("the interface is down, or has no carrier")

const (
	// attrProto is IFA_PROTO: who has put an address there. Linux before 5.18 does not keep it.
	attrProto = 11
	// proto is what we put there; up to 3 is the kernel's.
	proto = 'n'
	// longest is the longest time that [Interface.Set] takes. Where the kernel does not keep
	// who put an address there, one that has more, or that does not end, is not ours.
	longest = time.Minute
	// forever is the time of an address that does not end.
	forever = 1<<32 - 1
)

// Check reports whether the address is on any interface of the host, put there by this
// package. One that somebody else has put there is [ErrForeign].
func (i *Interface) Check(a netip.Addr) (ours bool, err error) {
	entries, err := i.addresses(a)
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", a, err)
	}
	for _, e := range entries {
		if !e.ours {
			return false, fmt.Errorf("address %s is on interface %d: %w", a, e.index, ErrForeign)
		}
	}
	return len(entries) != 0, nil
}

// Set puts the address on the interface for a number of seconds, or gives it that time from
// now on. Parts of a second are left out; less than a second removes it. The error is [ErrDown] if
// nothing reaches the address there.
//
// The address has a prefix of its own length, so that it brings no route, and an IPv6 address
// is usable at once and never chosen as the source of what the host sends by itself.
func (i *Interface) Set(a netip.Addr, life time.Duration) error {
	seconds := uint32(min(life, longest) / time.Second)
	if life < time.Second {
		return i.Delete(a)
	}
	link, err := i.link()
	if err != nil {
		return err
	}
	if !link.running {
		return fmt.Errorf("set address %s on %s: %w", a, i.name, ErrDown)
	}
	preferred := seconds
	flags := uint32(0)
	if a.Is6() {
		preferred = 0
		flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	}
	payload := header(a, link.index)
	payload = nlwire.AppendAttr(payload, unix.IFA_LOCAL, a.AsSlice()...)
	payload = nlwire.AppendAttr(payload, unix.IFA_ADDRESS, a.AsSlice()...)
	payload = nlwire.AppendAttr(payload, unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, flags)...)
	payload = nlwire.AppendAttr(payload, attrProto, proto)
	info := binary.NativeEndian.AppendUint32(nil, preferred)
	info = binary.NativeEndian.AppendUint32(info, seconds)
	payload = nlwire.AppendAttr(payload, unix.IFA_CACHEINFO, append(info, make([]byte, 8)...)...)
	if err := i.ask(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK, payload, nil); err != nil {
		return fmt.Errorf("set address %s on %s: %w", a, i.name, err)
	}
	return nil
}

// Delete removes the address from every interface that this package has put it on. It is no
// error if there is none.
func (i *Interface) Delete(a netip.Addr) error {
	entries, err := i.addresses(a)
	if err != nil {
		return fmt.Errorf("look for %s: %w", a, err)
	}
	for _, e := range entries {
		if !e.ours {
			continue
		}
		payload := header(a, e.index)
		payload = nlwire.AppendAttr(payload, unix.IFA_LOCAL, a.AsSlice()...)
		payload = nlwire.AppendAttr(payload, unix.IFA_ADDRESS, a.AsSlice()...) // or it is the first with any prefix
		err := i.ask(unix.RTM_DELADDR, unix.NLM_F_ACK, payload, nil)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove address %s from %s: %w", a, i.name, err)
		}
	}
	return nil
}

// header is struct ifaddrmsg (include/uapi/linux/if_addr.h).
func header(a netip.Addr, index uint32) []byte {
	b := []byte{family(a), byte(a.BitLen()), 0, unix.RT_SCOPE_UNIVERSE}
	return binary.NativeEndian.AppendUint32(b, index)
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// entry is where an address is.
type entry struct {
	index uint32
	ours  bool
}

// addresses returns where an address is, on all interfaces.
func (i *Interface) addresses(a netip.Addr) ([]entry, error) {
	const tries = 5
	for range tries {
		var found []entry
		interrupted := false
		err := i.ask(unix.RTM_GETADDR, unix.NLM_F_DUMP, header(a, 0), func(m nlwire.Message) {
			interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			if e, ok := parseAddress(m, a); ok {
				found = append(found, e)
			}
		})
		if err != nil || !interrupted {
			return found, err
		}
	}
	return nil, errors.New("the addresses of the host change all the time")
}

func parseAddress(m nlwire.Message, a netip.Addr) (entry, bool) {
	if m.Type != unix.RTM_NEWADDR || len(m.Payload) < unix.SizeofIfAddrmsg {
		return entry{}, false
	}
	rest := m.Payload[unix.SizeofIfAddrmsg:]
	local := nlwire.Find(rest, unix.IFA_LOCAL) // of IPv4, and of IPv6 with a peer
	if local == nil {
		local = nlwire.Find(rest, unix.IFA_ADDRESS)
	}
	if got, ok := netip.AddrFromSlice(local); !ok || got != a {
		return entry{}, false
	}
	e := entry{index: binary.NativeEndian.Uint32(m.Payload[4:])}
	if by := nlwire.Find(rest, attrProto); len(by) == 1 {
		e.ours = by[0] == proto
	} else if info := nlwire.Find(rest, unix.IFA_CACHEINFO); len(info) >= 8 {
		valid := binary.NativeEndian.Uint32(info[4:])
		e.ours = valid != forever && time.Duration(valid)*time.Second <= longest
	}
	return e, true
}

// link is what an interface is now.
type link struct {
	index   uint32
	addr    []byte // 6 bytes, if it is Ethernet
	running bool   // up, with a carrier
}

func (i *Interface) link() (link, error) {
	payload := make([]byte, unix.SizeofIfInfomsg)
	payload = nlwire.AppendString(payload, unix.IFLA_IFNAME, i.name)
	var l link
	err := i.ask(unix.RTM_GETLINK, unix.NLM_F_ACK, payload, func(m nlwire.Message) {
		if m.Type != unix.RTM_NEWLINK || len(m.Payload) < unix.SizeofIfInfomsg {
			return
		}
		l.index = binary.NativeEndian.Uint32(m.Payload[4:])
		l.running = binary.NativeEndian.Uint32(m.Payload[8:])&(unix.IFF_UP|unix.IFF_RUNNING) == unix.IFF_UP|unix.IFF_RUNNING
		if binary.NativeEndian.Uint16(m.Payload[2:]) == unix.ARPHRD_ETHER {
			l.addr = append([]byte(nil), nlwire.Find(m.Payload[unix.SizeofIfInfomsg:], unix.IFLA_ADDRESS)...)
		}
	})
	switch {
	case errors.Is(err, unix.ENODEV), err == nil && l.index == 0:
		return link{}, fmt.Errorf("find interface %s: %w", i.name, fs.ErrNotExist)
	case err != nil:
		return link{}, fmt.Errorf("find interface %s: %w", i.name, err)
	}
	return l, nil
}

// answerTime bounds the wait for an answer of the kernel, which has made it by the time that
// it is waited for.
const answerTime = 2 * time.Second

// ask sends a request and gives each message of the answer to f.
func (i *Interface) ask(typ, flags uint16, payload []byte, f func(nlwire.Message)) error {
	i.seq++
	b, at := nlwire.OpenMessage(nil, typ, flags|unix.NLM_F_REQUEST, i.seq)
	b = nlwire.CloseMessage(append(b, payload...), at)
	if err := i.kernel.Send(b); err != nil {
		return err
	}
	if err := i.kernel.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	buf := make([]byte, nlwire.LargestDatagram)
	for {
		n, err := i.kernel.Receive(buf, true)
		if err != nil {
			return err
		}
		ms := nlwire.Messages{Data: buf[:n]}
		for ms.Next() {
			if ms.Seq != i.seq {
				continue // of a request that was given up
			}
			switch ms.Type {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				a, err := ms.Answer()
				return errors.Join(err, a.Err())
			}
			if f != nil {
				f(ms.Message)
			}
		}
		if ms.Err != nil {
			return ms.Err
		}
	}
}

// forwarding reports whether the interface is a router's, which neighbour advertisements say.
func (i *Interface) forwarding() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + i.name + "/forwarding")
	return err == nil && len(b) > 0 && b[0] != '0'
}
