// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/sock_diag.h and include/uapi/linux/filter.h.
const (
	soMemInfo    = 55
	memInfoDrops = 8
	memInfoVars  = 9
)

// synAckDropped is a filter that drops a segment with SYN and ACK and takes all others. The segment
// begins with the header of TCP.
var synAckDropped = [...]unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13}, // the flags
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x16},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x12, Jt: 0, Jf: 1}, // SYN and ACK and not RST
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
}

// connect sends the SYNs. It runs on a thread in the namespace.
func (b *batchProbe) connect() {
	for _, p := range b.probes {
		if p.done || p.Proto != unix.IPPROTO_TCP {
			continue
		}
		if err := p.sendSYN(); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			p.failed(err)
		}
	}
}

func (p *probe) sendSYN() (err error) {
	to := p.Addr.Addr().Unmap()
	p.fd, err = unix.Socket(int(family(to.Is4())), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		p.fd = -1
		return err
	}
	filter := synAckDropped
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(p.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	if to.Is4() {
		return unix.Connect(p.fd, &unix.SockaddrInet4{Addr: to.As4(), Port: int(p.Addr.Port())})
	}
	at := &unix.SockaddrInet6{Addr: to.As16(), Port: int(p.Addr.Port())}
	if p.neighbour != nil && to.Zone() != "" {
		at.ZoneId = uint32(p.neighbour.link)
	}
	return unix.Connect(p.fd, at)
}

// failed ends a probe by the error of its socket.
func (p *probe) failed(err error) {
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		p.end(Refused, "a SYN", err.Error())
	case errors.Is(err, unix.EHOSTUNREACH) && p.neighbour != nil && p.neighbour.refused:
		p.end(NoNeighbour, "a SYN", err.Error())
	case errors.Is(err, unix.ETIMEDOUT):
		p.end(Silent, "a SYN", err.Error())
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPROTO), errors.Is(err, unix.ENOPROTOOPT):
		p.end(Unreachable, "a SYN", err.Error())
	default:
		p.end(Unasked, "", err.Error())
	}
}

// drops returns how many segments the filter of a socket has dropped.
func drops(fd int) uint32 {
	var info [memInfoVars]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, soMemInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return info[memInfoDrops]
}
