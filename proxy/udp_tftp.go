// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tftpPort is where TFTP servers take requests.
const tftpPort = 69

// The opcodes of TFTP (RFC 1350 section 5, RFC 2347).
const (
	tftpRead  = 1
	tftpWrite = 2
	tftpData  = 3
	tftpAck   = 4
	tftpError = 5
	tftpOAck  = 6
)

// tftpFlow is the part of a flow to a TFTP server, which serves each transfer from a port
// of its own choice (RFC 1350 section 4). The client hears all of it from the frontend, as
// from a server that uses one port. What it sends then goes to the port of its transfer,
// and requests to the server's.
type tftpFlow struct {
	flow   *udpFlow
	server sockaddr // the port is where the next datagram goes
	port   uint16   // of the transfer; 0: the server has not answered its request
}

// opcode is what a datagram is; 0: it is not of TFTP. block is its number, or anything.
func opcode(datagram []byte) (code, block uint16) {
	if len(datagram) < 4 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(datagram), binary.BigEndian.Uint16(datagram[2:])
}

// destination returns the port for a datagram of the client.
func (t *tftpFlow) destination(datagram []byte) uint16 {
	switch code, _ := opcode(datagram); code {
	case tftpRead, tftpWrite:
		t.port = 0 // a new transfer
	case tftpData, tftpAck, tftpError:
		if t.port != 0 {
			return t.port
		}
	}
	return tftpPort
}

// accepts reports whether a datagram is for the client.
func (t *tftpFlow) accepts(from *rawName, datagram []byte) bool {
	if string(from.host()) != string(t.server.raw.host()) {
		return false
	}
	port := binary.BigEndian.Uint16(from[2:])
	if port == tftpPort || port == t.port {
		return true
	}
	// The first answer, and not a late one of the client's last transfer.
	switch code, block := opcode(datagram); {
	case t.port != 0:
		return false
	case code == tftpData && block == 1, code == tftpAck && block == 0, code == tftpOAck, code == tftpError:
		t.port = port
		return true
	}
	return false
}

// forward sends received datagrams first..next-1 to the server.
func (t *tftpFlow) forward(b *udpBatch, first, next int) {
	c := &t.flow.proxy.counters
	for i := first; i < next; i++ {
		for all := b.payload(i); ; {
			size := len(all)
			if b.seg[i] != 0 { // UDP_GRO joined it
				size = min(b.seg[i], size)
			}
			if t.send(all[:size]) == noErrno {
				c.toBackend.Add(uint64(size))
			} else {
				c.dropped.Add(1)
			}
			if all = all[size:]; len(all) == 0 {
				break
			}
		}
	}
}

func (t *tftpFlow) send(datagram []byte) unix.Errno {
	binary.BigEndian.PutUint16(t.server.raw[2:], t.destination(datagram))
	v := unix.Iovec{Base: unsafe.SliceData(datagram)}
	v.SetLen(len(datagram))
	m := unix.Msghdr{Name: &t.server.raw[0], Namelen: t.server.size, Iov: &v}
	m.SetIovlen(1)
	return sendmsg(t.flow.fd, &m)
}

// queue lists those of received datagrams first..next-1 for the client that are for it.
func (t *tftpFlow) queue(b *udpBatch, first, next int) {
	for i := first; i < next; i++ {
		if t.accepts(&b.names[i], b.payload(i)) {
			t.flow.touch()
			b.queue(i, i+1, t.flow)
		}
	}
}
