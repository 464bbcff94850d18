// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// SetQuery is what a match asks a set of ipset: whether it has an element for the packet.
type SetQuery struct {
	// Dim is how many fields the match names, and bit i+1 of Flags is set if the i-th is of the
	// source (IPSET_DIM_ONE_SRC and so on).
	Dim, Flags uint8
	// ReturnNomatch is the option --return-nomatch.
	ReturnNomatch    bool
	Proto            uint8
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16 // zero: not known; of ICMP: type and code, in both
	SrcMAC, DstMAC   []byte // nil: not known
	In, Out          string // names of interfaces; empty: none
	Mark             uint32
	MarkUnknown      bool
}

// Sets asks sets of ipset in a network namespace.
type Sets struct {
	socket *nlwire.Socket
	seq    uint32
	buffer []byte
	types  map[string]setType
	names  map[uint16]string
}

// setType is what a set has elements of.
type setType struct {
	name   string // as "hash:ip,port"
	family uint8  // NFPROTO_UNSPEC: of any packet
}

// OpenSets returns Sets for a network namespace, by an open file descriptor; zero: that of the
// calling thread.
func OpenSets(netNS int) (*Sets, error) {
	socket, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_NETFILTER, NetNS: netNS})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for ipset: %w", err)
	}
	return &Sets{
		socket: socket, buffer: make([]byte, nlwire.LargestDatagram), types: map[string]setType{}, names: map[uint16]string{},
	}, nil
}

// Close closes the socket.
func (s *Sets) Close() error { return s.socket.Close() }

// Messages and attributes of include/uapi/linux/netfilter/ipset/ip_set.h.
const (
	setList       = 7
	setTest       = 11
	setHeader     = 12
	setGetByIndex = 15

	setProtocol     = 1
	setName         = 2
	setTypeName     = 3
	setFamily       = 5
	setData         = 7
	setADT          = 8
	setIndex        = 11
	setElementIP    = 1
	setElementPort  = 4
	setElementProto = 7
	setElementFlags = 8
	setElementMark  = 10
	setElementEther = 17
	setElementName  = 18
	setElementIP2   = 20
	setElementIface = 23

	setProtocolNumber = 7
	setFlagNomatch    = 1 << 2 // IPSET_FLAG_NOMATCH

	// Errors are numbers that errno(3) does not have.
	setErrExist       = 4103 // IPSET_ERR_EXIST: it is not in the set
	setErrBitmapRange = 4352 // an address that a bitmap has no bit for
	setErrHashElem    = 4353 // an address that no hash takes, as 0.0.0.0
)

// setError is an error of ipset or of netlink.
type setError uint32

func (e setError) Error() string {
	if e < 4096 {
		return unix.Errno(e).Error()
	}
	return fmt.Sprintf("error %d of ipset", uint32(e))
}

func (e setError) Is(target error) bool { return e < 4096 && unix.Errno(e).Is(target) }

// ask sends a request, and calls each with the attributes of every answer.
func (s *Sets) ask(cmd, flags uint16, attrs []byte, each func(attrs []byte)) error {
	s.seq++
	b, at := nlwire.OpenNetfilter(nil, unix.NFNL_SUBSYS_IPSET<<8|cmd, flags|unix.NLM_F_ACK, unix.AF_INET, 0, s.seq)
	b = nlwire.AppendAttr(b, setProtocol, setProtocolNumber)
	const timeout = 2 * time.Second
	if err := s.socket.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if err := s.socket.Send(nlwire.CloseMessage(append(b, attrs...), at)); err != nil {
		return err
	}
	for {
		n, err := s.socket.Receive(s.buffer, true)
		if err != nil {
			return err
		}
		m := nlwire.Messages{Data: s.buffer[:n]}
		for m.Next() {
			switch {
			case m.Seq != s.seq: // left from a request before
			case m.Type == unix.NLMSG_DONE:
				return nil
			case m.Type == unix.NLMSG_ERROR:
				if len(m.Payload) < 4 {
					return nlwire.ErrMalformed
				}
				if code := -int32(binary.NativeEndian.Uint32(m.Payload)); code != 0 { //nolint:gosec // a signed number
					return setError(code) //nolint:gosec // positive
				}
				return nil
			case len(m.Payload) >= nlwire.NetfilterHeader:
				each(m.Payload[nlwire.NetfilterHeader:])
			}
		}
		if m.Err != nil {
			return m.Err
		}
	}
}

// Name returns the name of a set by its number.
func (s *Sets) Name(set uint16) (string, error) {
	if name, ok := s.names[set]; ok {
		return name, nil
	}
	name := ""
	attr := nlwire.AppendAttr(nil, setIndex|unix.NLA_F_NET_BYTEORDER, byte(set>>8), byte(set))
	err := s.ask(setGetByIndex, 0, attr, func(attrs []byte) { name = nlwire.FindString(attrs, setName) })
	if err != nil {
		return "", fmt.Errorf("look up the set of ipset number %d: %w", set, err)
	}
	s.names[set] = name
	return name, nil
}

// typeOf returns the type of a set.
func (s *Sets) typeOf(name string) (setType, error) {
	if t, ok := s.types[name]; ok {
		return t, nil
	}
	var t setType
	err := s.ask(setHeader, 0, nlwire.AppendString(nil, setName, name), func(attrs []byte) {
		t.name = nlwire.FindString(attrs, setTypeName)
		if f := nlwire.Find(attrs, setFamily); len(f) == 1 {
			t.family = f[0]
		}
	})
	if err != nil {
		return t, fmt.Errorf("look up the type of set %s: %w", name, err)
	}
	s.types[name] = t
	return t, nil
}

// Test reports whether a set has an element for a packet, as the match set finds it. It changes nothing. An
// error means that it cannot be known.
func (s *Sets) Test(set uint16, q SetQuery) (bool, error) {
	name, err := s.Name(set)
	if err != nil {
		return false, err
	}
	return s.test(name, q)
}

func (s *Sets) test(name string, q SetQuery) (bool, error) {
	t, err := s.typeOf(name)
	if err != nil {
		return false, err
	}
	if t.name == "list:set" {
		return s.testList(name, q)
	}
	family := uint8(unix.NFPROTO_IPV6)
	if q.Src.Is4() || q.Dst.Is4() {
		family = unix.NFPROTO_IPV4
	}
	kind, kinds, _ := strings.Cut(t.name, ":")
	fields := strings.Split(kinds, ",")
	if int(q.Dim) < len(fields) || t.family != unix.NFPROTO_UNSPEC && t.family != family {
		return false, nil // as the kernel says
	}
	b := nlwire.AppendString(nil, setName, name)
	b, at := nlwire.OpenAttr(b, setData|nlwire.Nested)
	ip := uint16(setElementIP)
	for i, field := range fields {
		var ok bool
		b, ok, err = appendField(b, field, kind == "bitmap", &ip, q, q.Flags&(2<<i) != 0)
		if err != nil {
			return false, fmt.Errorf("the set %s: %w", name, err)
		}
		if !ok {
			return false, nil
		}
		if t.name == "bitmap:port" && q.Proto != unix.IPPROTO_TCP && q.Proto != unix.IPPROTO_UDP {
			return false, nil
		}
	}
	if q.ReturnNomatch && strings.Contains(kinds, "net") {
		b = nlwire.AppendBE32(b, setElementFlags|unix.NLA_F_NET_BYTEORDER, setFlagNomatch)
	}
	err = s.ask(setTest, 0, nlwire.CloseAttr(b, at), func([]byte) {})
	var code setError
	if errors.As(err, &code) {
		switch code {
		case setErrExist, setErrBitmapRange, setErrHashElem:
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("test the set %s: %w", name, err)
	}
	return true, nil
}

// appendField appends the attributes of a field of an element. False: no element has what the packet has.
func appendField(b []byte, field string, bitmap bool, ip *uint16, q SetQuery, source bool) ([]byte, bool, error) {
	addr, port, mac, iface := q.Dst, q.DstPort, q.DstMAC, q.Out
	if source {
		addr, port, mac, iface = q.Src, q.SrcPort, q.SrcMAC, q.In
	}
	switch field {
	case "ip", "net":
		if !addr.IsValid() {
			return nil, false, errors.New("the address is not known")
		}
		b = appendAddr(b, *ip, addr)
		*ip = setElementIP2
	case "port":
		switch q.Proto {
		case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP:
			if port == 0 {
				return nil, false, errors.New("the port that the client uses is not known")
			}
		case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		default:
			return nil, false, nil
		}
		b = nlwire.AppendAttr(b, setElementPort|unix.NLA_F_NET_BYTEORDER, byte(port>>8), byte(port))
		if !bitmap { // it takes no protocol
			b = nlwire.AppendAttr(b, setElementProto, q.Proto)
		}
	case "mac":
		if len(mac) != 6 {
			return nil, false, errors.New("the link-layer address is not known")
		}
		b = nlwire.AppendAttr(b, setElementEther, mac...)
	case "iface":
		if iface == "" {
			return nil, false, nil
		}
		b = nlwire.AppendString(b, setElementIface, iface)
	case "mark":
		if q.MarkUnknown {
			return nil, false, errors.New("the packet's mark is not known")
		}
		b = nlwire.AppendBE32(b, setElementMark|unix.NLA_F_NET_BYTEORDER, q.Mark)
	default:
		return nil, false, fmt.Errorf("a field %s that is not read", field)
	}
	return b, true, nil
}

func appendAddr(b []byte, attr uint16, a netip.Addr) []byte {
	b, at := nlwire.OpenAttr(b, attr|nlwire.Nested)
	which := uint16(1) // IPSET_ATTR_IPADDR_IPV4
	if a.Is6() {
		which = 2
	}
	return nlwire.CloseAttr(nlwire.AppendAttr(b, which|unix.NLA_F_NET_BYTEORDER, a.AsSlice()...), at)
}

// testList tests the sets of a list in their order. A list has no lists.
func (s *Sets) testList(name string, q SetQuery) (bool, error) {
	var members []string
	err := s.ask(setList, unix.NLM_F_DUMP, nlwire.AppendString(nil, setName, name), func(attrs []byte) {
		for e := (nlwire.Attrs{Data: nlwire.Find(attrs, setADT)}); e.Next(); {
			if member := nlwire.FindString(e.Payload, setElementName); e.Type == setData && member != "" {
				members = append(members, member)
			}
		}
	})
	if err != nil {
		return false, fmt.Errorf("list the sets of set %s: %w", name, err)
	}
	var unknown error
	for _, member := range members {
		if t, err := s.typeOf(member); err == nil && t.name == "list:set" {
			continue
		}
		in, err := s.test(member, q)
		if in {
			return true, nil
		}
		unknown = errors.Join(unknown, err)
	}
	return false, unknown
}
