// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Link attaches a program, for as long as it is open in any process.
type Link struct{ descriptor }

// Attach attaches a program to what a descriptor stands for: a control group, or a network namespace.
func Attach(target int, p *Program, attach uint32) (*Link, error) {
	attr := struct{ program, target, attach, flags uint32 }{program: uint32(p.fd), target: uint32(target), attach: attach}
	fd, err := call(unix.BPF_LINK_CREATE, &attr)
	if err != nil {
		return nil, err
	}
	return &Link{descriptor{fd}}, nil
}

// AttachTracepoint attaches a program to a tracepoint.
func AttachTracepoint(tracepoint string, p *Program) (*Link, error) {
	attr := struct {
		name    pointer
		program uint32
		_       uint32
	}{name: at(append([]byte(tracepoint), 0)), program: uint32(p.fd)}
	fd, err := call(unix.BPF_RAW_TRACEPOINT_OPEN, &attr)
	if err != nil {
		return nil, err
	}
	return &Link{descriptor{fd}}, nil
}

// LinkFromFD is the link of a descriptor, which it closes after an error.
func LinkFromFD(fd int) (*Link, error) {
	l := &Link{descriptor{fd}}
	var told struct{ kind, id, program, _ uint32 }
	if err := info(fd, &told); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Update puts another program in the place of the one that is attached, with no moment without.
func (l *Link) Update(p *Program) error {
	attr := struct{ link, program, flags, old uint32 }{link: uint32(l.fd), program: uint32(p.fd)}
	_, err := call(unix.BPF_LINK_UPDATE, &attr)
	return err
}

// query is the attribute of BPF_PROG_QUERY. It has all fields of Linux 6.6, which writes the last one
// however short the attribute is that it was given.
type query struct {
	target, attach, _, _ uint32  // flags, and those of attaching
	_                    pointer // identifiers
	count, _             uint32
	_, _, _              pointer // more of each program
	revision             uint64
}

// Count returns how many programs are attached to an interface. EINVAL: the kernel does not know of
// this way of attaching.
func Count(index int, attach uint32) (int, error) {
	attr := query{target: uint32(index), attach: attach}
	_, err := call(unix.BPF_PROG_QUERY, &attr)
	return int(attr.count), err
}
