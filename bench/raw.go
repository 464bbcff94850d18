// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// The limit: a netlink batch that is built and read by hand, without checks, comments or
// proper errors. It shares no code with what is measured.

const (
	rawTable = "raw"
	rawMap   = "m"
	rawSeq   = 1
)

type rawSocket struct {
	fd  int
	buf []byte
}

func newRawSocket() (*rawSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &rawSocket{fd: fd, buf: make([]byte, 256<<10)}, nil
}

func (s *rawSocket) close() { _ = unix.Close(s.fd) }

func msg(b []byte, typ, flags uint16, family byte, res uint16, attrs []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(20+len(attrs)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, rawSeq)
	b = append(b, 0, 0, 0, 0, family, 0)
	b = binary.BigEndian.AppendUint16(b, res)
	return append(b, attrs...)
}

func attr(b []byte, typ uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func nft(m uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | m }

func batch(body []byte) []byte {
	b := msg(nil, unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil)
	b = append(b, body...)
	return msg(b, unix.NFNL_MSG_BATCH_END, 0, 0, unix.NFNL_SUBSYS_NFTABLES, nil)
}

// commit sends a batch whose last message asks for an acknowledgement.
func (s *rawSocket) commit(b []byte) error {
	if err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
	if err != nil {
		return err
	}
	if code := int32(binary.NativeEndian.Uint32(s.buf[16:])); n < 20 || code != 0 {
		return fmt.Errorf("raw batch: %w", unix.Errno(-code))
	}
	return nil
}

// tableMessages make a table with a sized map of a port to an address and a port.
func tableMessages() []byte {
	b := msg(nil, nft(unix.NFT_MSG_NEWTABLE), unix.NLM_F_CREATE, unix.NFPROTO_INET, 0,
		attr(nil, unix.NFTA_TABLE_NAME, []byte(rawTable+"\x00")))
	a := attr(nil, unix.NFTA_SET_TABLE, []byte(rawTable+"\x00"))
	a = attr(a, unix.NFTA_SET_NAME, []byte(rawMap+"\x00"))
	a = attr(a, unix.NFTA_SET_FLAGS, be32(unix.NFT_SET_MAP|unix.NFT_SET_TIMEOUT))
	a = attr(a, unix.NFTA_SET_KEY_TYPE, be32(13))
	a = attr(a, unix.NFTA_SET_KEY_LEN, be32(2))
	a = attr(a, unix.NFTA_SET_DATA_TYPE, be32(7<<6|13))
	a = attr(a, unix.NFTA_SET_DATA_LEN, be32(8))
	a = attr(a, unix.NFTA_SET_ID, be32(1))
	a = attr(a, unix.NFTA_SET_DESC|unix.NLA_F_NESTED, attr(nil, unix.NFTA_SET_DESC_SIZE, be32(65535)))
	return msg(b, nft(unix.NFT_MSG_NEWSET), unix.NLM_F_CREATE, unix.NFPROTO_INET, 0, a)
}

// elementMessages add the ports from first on, each to 172.30.0.2 and its own number.
func elementMessages(first, count int) []byte { return mappingMessages(mappings(first, count)) }

// mappingMessages add IPv4 mappings of any address.
func mappingMessages(ms []nat.Mapping) []byte {
	var b []byte
	for len(ms) > 0 {
		n := min(len(ms), 1000)
		var list []byte
		for _, m := range ms[:n] {
			key := binary.BigEndian.AppendUint16(nil, m.Frontend.Port())
			to := m.Backend.Addr().As4()
			value := append(binary.BigEndian.AppendUint16(to[:], m.Backend.Port()), 0, 0)
			e := attr(nil, unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, attr(nil, unix.NFTA_DATA_VALUE, key))
			e = attr(e, unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED, attr(nil, unix.NFTA_DATA_VALUE, value))
			list = attr(list, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, e)
		}
		a := attr(nil, unix.NFTA_SET_ELEM_LIST_TABLE, []byte(rawTable+"\x00"))
		a = attr(a, unix.NFTA_SET_ELEM_LIST_SET, []byte(rawMap+"\x00"))
		a = attr(a, unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, list)
		flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
		if ms = ms[n:]; len(ms) == 0 {
			flags |= unix.NLM_F_ACK
		}
		b = msg(b, nft(unix.NFT_MSG_NEWSETELEM), flags, unix.NFPROTO_INET, 0, a)
	}
	return b
}

// dump reads all elements of the map into a Go map and returns how many there are.
func (s *rawSocket) dump(table, set string) (int, error) {
	a := attr(nil, unix.NFTA_SET_ELEM_LIST_TABLE, []byte(table+"\x00"))
	a = attr(a, unix.NFTA_SET_ELEM_LIST_SET, []byte(set+"\x00"))
	request := msg(nil, nft(unix.NFT_MSG_GETSETELEM), unix.NLM_F_DUMP, unix.NFPROTO_INET, 0, a)
	if err := unix.Sendto(s.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	found := map[uint16][6]byte{}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if err != nil {
			return 0, err
		}
		for b := s.buf[:n]; len(b) >= 20; {
			length := binary.NativeEndian.Uint32(b)
			switch binary.NativeEndian.Uint16(b[4:]) {
			case unix.NLMSG_DONE:
				return len(found), nil
			case unix.NLMSG_ERROR:
				return 0, unix.Errno(-int32(binary.NativeEndian.Uint32(b[16:])))
			}
			each(b[20:length], func(typ uint16, list []byte) {
				if typ == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
					each(list, func(_ uint16, e []byte) { rawElement(e, found) })
				}
			})
			b = b[(length+3)&^3:]
		}
	}
}

func rawElement(e []byte, found map[uint16][6]byte) {
	var port uint16
	var value [6]byte
	each(e, func(typ uint16, v []byte) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			port = binary.BigEndian.Uint16(v[4:])
		case unix.NFTA_SET_ELEM_DATA:
			copy(value[:], v[4:10])
		}
	})
	found[port] = value
}

func each(b []byte, f func(uint16, []byte)) {
	for len(b) >= 4 {
		n := binary.NativeEndian.Uint16(b)
		f(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[4:n])
		b = b[min(int(n+3)&^3, len(b)):]
	}
}
