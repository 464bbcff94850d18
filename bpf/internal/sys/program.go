// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// ProgramSpec describes a program.
type ProgramSpec struct {
	Name string
	// Type is one of unix.BPF_PROG_TYPE_, and Attach of those that unix.BPF_CGROUP_INET4_BIND is one of.
	Type, Attach uint32
	Instructions asm.Instructions
}

// Program is a program that is loaded, under the GPL, of which helpers are.
type Program struct{ descriptor }

// NewProgram loads a program. If the kernel refuses it, the error has the last line of why.
func NewProgram(spec *ProgramSpec) (*Program, error) {
	var code bytes.Buffer
	if err := spec.Instructions.Marshal(&code, byteOrder()); err != nil {
		return nil, err
	}
	fd, err := load(&program{
		kind: spec.Type, count: uint32(code.Len() / asm.InstructionSize), code: at(code.Bytes()), license: at([]byte("GPL\x00")),
		name: name(spec.Name), attach: spec.Attach,
	}, func(attr *program) (int, error) { return call(unix.BPF_PROG_LOAD, attr) })
	if err != nil {
		return nil, err
	}
	return &Program{descriptor{fd}}, nil
}

// program is the attribute of BPF_PROG_LOAD.
type program struct {
	kind, count       uint32
	code, license     pointer
	logLevel, logSize uint32
	log               pointer
	_, _              uint32 // version and flags
	name              [nameLen]byte
	_, attach         uint32
}

// load loads a program, again with a log if the kernel refuses it: what was short for a moment may be
// there then.
func load(attr *program, call func(*program) (int, error)) (int, error) {
	fd, err := call(attr)
	if err == nil || errors.Is(err, unix.EPERM) {
		return fd, err
	}
	log := make([]byte, 64<<10)
	attr.logLevel, attr.logSize, attr.log = 1, uint32(len(log)), at(log)
	fd, again := call(attr)
	if again != nil { // the log may be too long: then it is cut
		return 0, refused(err, log)
	}
	return fd, nil
}

// byteOrder is the machine's: package asm knows it by these names alone.
func byteOrder() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// refused adds to an error the last line of the verifier's log that says something.
func refused(err error, log []byte) error {
	log, _, _ = bytes.Cut(log, []byte{0})
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	for _, line := range slices.Backward(lines) {
		if line = bytes.TrimSpace(line); len(line) > 0 && !bytes.HasPrefix(line, []byte("processed ")) {
			return fmt.Errorf("%w: %s", err, line)
		}
	}
	return err
}
