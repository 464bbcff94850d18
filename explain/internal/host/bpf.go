// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"

	"golang.org/x/net/bpf"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// runBPF runs the classic program of a filter over a frame. known is false if it is of eBPF, or asks for
// what is not in the frame.
func (f *TCFilter) runBPF(frame []byte) (result uint32, known bool) {
	ops := nlwire.Find(f.options, tcaBPFOps)
	count := int(u16(nlwire.Find(f.options, tcaBPFOpsLen)))
	if f.Program != 0 && ops == nil || count == 0 || len(ops) != 8*count {
		return 0, false
	}
	raw := make([]bpf.RawInstruction, count)
	for i := range raw { // struct sock_filter
		b := ops[8*i:]
		raw[i] = bpf.RawInstruction{Op: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])}
	}
	program, decoded := bpf.Disassemble(raw)
	if !decoded {
		return 0, false
	}
	for _, i := range program {
		if e, ok := i.(bpf.LoadExtension); ok && e.Num != bpf.ExtLen {
			return 0, false
		}
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		return 0, false
	}
	n, err := vm.Run(frame)
	return uint32(n), err == nil
}
