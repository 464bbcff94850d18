// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NFProgram is a program of eBPF at a hook of netfilter. No dump of tables has it.
type NFProgram struct {
	Program  uint32
	Family   uint8 // NFPROTO_IPV4 or NFPROTO_IPV6
	Hook     uint32
	Priority int32
}

// String returns it in words: "program 7 of eBPF at hook forward, priority -5".
func (p NFProgram) String() string {
	names := [...]string{"prerouting", "input", "forward", "output", "postrouting"}
	hook := fmt.Sprint(p.Hook)
	if int(p.Hook) < len(names) {
		hook = names[p.Hook]
	}
	return fmt.Sprintf("program %d of eBPF at hook %s, priority %d", p.Program, hook, p.Priority)
}

// Of include/uapi/linux/bpf.h.
const (
	bpfObjGetInfo    = 15
	bpfLinkGetFD     = 30
	bpfLinkGetNext   = 31
	bpfLinkNetfilter = 10
)

// bpfLinkInfo is the begin of struct bpf_link_info, and what it has of a link of netfilter.
type bpfLinkInfo struct {
	kind, id, program, _ uint32
	family, hook         uint32
	priority             int32
	flags                uint32
	_                    [64]byte
}

// NFPrograms lists the programs of eBPF at hooks of netfilter in all network namespaces: the kernel does
// not say of which one each is.
func (h *Host) NFPrograms() (list []NFProgram, err error) {
	if h.programs != nil {
		return *h.programs, nil
	}
	id := uint32(0)
	for {
		// The first number is what is asked for, the second the answer.
		next := [4]uint32{id}
		if _, err = bpfCall(bpfLinkGetNext, unsafe.Pointer(&next), unsafe.Sizeof(next)); err != nil {
			break
		}
		id = next[1]
		p, is, err := nfProgram(id)
		if err != nil {
			return nil, h.note(fmt.Errorf("list programs of netfilter: %w", err))
		}
		if is {
			list = append(list, p)
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT): // that was the last one
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL): // before Linux 5.8 there are none
	default:
		return nil, h.note(fmt.Errorf("list programs of netfilter: %w", err))
	}
	h.programs = &list
	return list, nil
}

// nfProgram reads a link of eBPF, and reports whether it is one of netfilter.
func nfProgram(id uint32) (p NFProgram, is bool, err error) {
	byID := [4]uint32{id}
	fd, err := bpfCall(bpfLinkGetFD, unsafe.Pointer(&byID), unsafe.Sizeof(byID))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAGAIN) { // it has gone, or is not there yet
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	defer func() { _ = unix.Close(fd) }() // it was only read
	var info bpfLinkInfo
	var pinner runtime.Pinner // a number does not keep what it points to in its place
	pinner.Pin(&info)
	defer pinner.Unpin()
	query := struct {
		fd, size uint32
		info     uint64
	}{uint32(fd), uint32(unsafe.Sizeof(info)), uint64(uintptr(unsafe.Pointer(&info)))}
	if _, err = bpfCall(bpfObjGetInfo, unsafe.Pointer(&query), unsafe.Sizeof(query)); err != nil {
		return p, false, err
	}
	return NFProgram{Program: info.program, Family: uint8(info.family), Hook: info.hook, Priority: info.priority}, info.kind == bpfLinkNetfilter, nil
}

// bpfCall is bpf(2).
func bpfCall(command uintptr, attr unsafe.Pointer, size uintptr) (fd int, err error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
