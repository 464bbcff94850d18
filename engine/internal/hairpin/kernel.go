// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/nlwire"
)

// kernel asks the kernel for its bridges.
type kernel struct {
	sysctls hostnet.Sysctls
	socket  *nlwire.Socket
	seq     uint32
	buf     []byte
}

// bufferSize is more than the kernel puts into one datagram (netlink_recvmsg in
// net/netlink/af_netlink.c: 32 KiB).
const bufferSize = 64 << 10

func openKernel(s hostnet.Sysctls) (*kernel, error) {
	socket, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_ROUTE, NetNS: s.Namespace.FD()})
	if err != nil {
		return nil, fmt.Errorf("open bridges: %w", err)
	}
	return &kernel{sysctls: s, socket: socket, buf: make([]byte, bufferSize)}, nil
}

func (k *kernel) Close() error { return k.socket.Close() }

func (k *kernel) Hooks() (Hooks, error) { return readHooks(k.sysctls) }

// dumpAttempts bounds how often a list is read again because it changed meanwhile. If the
// last one is incomplete too, a follower receives the events of that change.
const dumpAttempts = 3

// ask sends a request and calls f with each answer, and with those of further attempts.
func (k *kernel) ask(typ, flags uint16, payload []byte, f func([]byte)) (err error) {
	interrupted := true
	for attempt := 0; interrupted && err == nil && attempt < dumpAttempts; attempt++ {
		interrupted, err = k.exchange(typ, flags, payload, f)
	}
	return err
}

func (k *kernel) exchange(typ, flags uint16, payload []byte, f func([]byte)) (interrupted bool, err error) {
	k.seq++
	b, at := nlwire.OpenMessage(nil, typ, flags, k.seq)
	if err := k.socket.Send(nlwire.CloseMessage(append(b, payload...), at)); err != nil {
		return false, err
	}
	for {
		n, err := k.socket.Receive(k.buf, false) // there is something, or it is lost
		if err != nil {
			return false, err
		}
		m := nlwire.Messages{Data: k.buf[:n]}
		for m.Next() {
			if m.Seq != k.seq {
				continue
			}
			interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.Type == unix.NLMSG_ERROR || m.Type == unix.NLMSG_DONE {
				a, err := m.Answer()
				return interrupted, errors.Join(err, a.Err())
			}
			f(m.Payload)
			if m.Flags&unix.NLM_F_MULTI == 0 {
				return false, nil
			}
		}
		if m.Err != nil {
			return false, m.Err
		}
	}
}

func (k *kernel) Link(index int) (l Link, err error) {
	err = k.ask(unix.RTM_GETLINK, 0, linkHeader(unix.AF_UNSPEC, index), func(b []byte) { l, _ = parseLink(b) })
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w: %w", unix.ENOENT, err)
	}
	if err != nil {
		err = fmt.Errorf("look up interface %d: %w", index, err)
	}
	return l, err
}

func (k *kernel) Ports() (ports []Link, err error) {
	err = k.ask(unix.RTM_GETLINK, unix.NLM_F_DUMP, linkHeader(unix.AF_BRIDGE, 0), func(b []byte) {
		if l, ok := parseLink(b); ok && l.Bridge != 0 {
			ports = append(ports, l)
		}
	})
	if err != nil {
		err = fmt.Errorf("list bridge ports: %w", err)
	}
	return ports, err
}

func (k *kernel) Neighbour(link int, a netip.Addr) (HardwareAddr, error) {
	n, err := k.neighbour(link, a)
	return n.MAC, err
}

func (k *kernel) neighbour(link int, a netip.Addr) (n neighbour, err error) {
	err = k.ask(unix.RTM_GETNEIGH, 0, neighbourRequest(a, link, 0, 0), func(b []byte) { n, _ = parseNeighbour(b) })
	if err == nil && !n.hasMAC {
		err = unix.ENOENT
	}
	if err != nil {
		err = fmt.Errorf("look up neighbour %s: %w", a, err)
	}
	return n, err
}

func (k *kernel) Neighbours() (all []Neighbour, err error) {
	err = k.ask(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, neighbourHeader(unix.AF_UNSPEC, 0, 0, 0), func(b []byte) {
		if n, ok := parseNeighbour(b); ok && n.hasMAC && n.Addr.IsValid() {
			all = append(all, n.Neighbour)
		}
	})
	if err != nil {
		err = fmt.Errorf("list neighbours: %w", err)
	}
	return all, err
}

// Solicit has the kernel do what it does for a packet to the address (NTF_USE). For a
// neighbour that it knows and has not used for some time, that is to wait for five
// seconds (delay_first_probe_time); one in the state NUD_PROBE is asked at once. An entry
// that somebody has set stays as it is: either request would make it one that is not
// permanent (NEIGH_UPDATE_F_USE in __neigh_update of net/core/neighbour.c).
func (k *kernel) Solicit(link int, a netip.Addr, known bool) error {
	n, err := k.neighbour(link, a)
	if err != nil && !isNotExist(err) {
		return err
	}
	if n.set {
		return nil
	}
	request := neighbourRequest(a, link, 0, unix.NTF_USE)
	if known && err == nil { // one that does not say that it is a router unsets that
		request = neighbourRequest(a, link, unix.NUD_PROBE, n.router)
	}
	if err := k.ask(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK, request, nil); err != nil {
		return fmt.Errorf("solicit neighbour %s: %w", a, err)
	}
	return nil
}

// maxSingle is up to how many addresses are looked up one by one and not in a list: that
// contains all, and takes milliseconds where a bridge has hundreds of ports.
const maxSingle = 64

func (k *kernel) FDB(bridge Link, macs []HardwareAddr) (map[HardwareAddr]int, error) {
	found := make(map[HardwareAddr]int, len(macs))
	add := func(b []byte) {
		if n, ok := parseNeighbour(b); ok && n.learned && n.master == bridge.Index {
			found[n.MAC] = n.Link
		}
	}
	master := binary.NativeEndian.AppendUint32(nil, uint32(bridge.Index))
	var err error
	if bridge.VLANs || len(macs) > maxSingle {
		// The table of one bridge is asked for in the form of a link message, unless the
		// socket checks strictly (valid_fdb_dump_legacy in net/core/rtnetlink.c).
		request := nlwire.AppendAttr(linkHeader(unix.AF_BRIDGE, 0), unix.IFLA_MASTER, master...)
		err, macs = k.ask(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, request, add), nil
	}
	for _, mac := range macs {
		request := nlwire.AppendAttr(neighbourHeader(unix.AF_BRIDGE, 0, 0, 0), unix.NDA_MASTER, master...)
		err = k.ask(unix.RTM_GETNEIGH, 0, nlwire.AppendAttr(request, unix.NDA_LLADDR, mac[:]...), add)
		if err != nil && !isGone(err) {
			break
		}
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("look up addresses of bridge %d: %w", bridge.Index, err)
	}
	return found, err
}

func (k *kernel) SetHairpin(port int, on bool) error {
	mode := byte(0)
	if on {
		mode = 1
	}
	b, at := nlwire.OpenAttr(linkHeader(unix.AF_BRIDGE, port), unix.IFLA_PROTINFO|nlwire.Nested)
	b = nlwire.CloseAttr(nlwire.AppendAttr(b, brportMode, mode), at)
	if err := k.ask(unix.RTM_SETLINK, unix.NLM_F_ACK, b, nil); err != nil {
		return fmt.Errorf("set hairpin mode of port %d: %w", port, err)
	}
	return nil
}
