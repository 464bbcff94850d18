// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// machine runs a filter as the kernel does, but for its reading words in network order.
type machine struct {
	t  *testing.T
	vm *bpf.VM
}

func newMachine(t *testing.T, program []unix.SockFilter) machine {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(program))
	for i, f := range program {
		raw[i] = bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	decoded, ok := bpf.Disassemble(raw)
	require.True(t, ok)
	vm, err := bpf.NewVM(decoded)
	require.NoError(t, err)
	return machine{t, vm}
}

// call is what the filter says to a call.
func (m machine) call(arch, number uint32, args ...uint64) uint32 {
	m.t.Helper()
	data := make([]byte, 64) // struct seccomp_data
	binary.BigEndian.PutUint32(data[dataNumber:], number)
	binary.BigEndian.PutUint32(data[dataArch:], arch)
	for i, arg := range args {
		// The halves stand as in this machine's memory.
		low := (&argument{index: uint32(i)}).offset()
		high := 2*dataArguments + 16*uint32(i) + 4 - low
		binary.BigEndian.PutUint32(data[low:], uint32(arg))
		binary.BigEndian.PutUint32(data[high:], uint32(arg>>32))
	}
	n, err := m.vm.Run(data)
	require.NoError(m.t, err)
	return uint32(n)
}

// Each call of the list is allowed, under its condition, and no other is.
func TestFilter(t *testing.T) {
	const pid, eperm = 4711, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	for _, o := range []Options{{}, {Namespaces: true}} {
		calls := allowedCalls(pid, o)
		m := newMachine(t, filter(calls))
		listed := map[uint32]bool{}
		for _, c := range calls {
			require.False(t, listed[c.number], "%d is there twice", c.number)
			listed[c.number] = true
			require.Equal(t, eperm, m.call(nativeArch^1, c.number, 0, 0, 0), "of another architecture")
			if c.only == nil {
				require.Equal(t, uint32(unix.SECCOMP_RET_ALLOW), m.call(nativeArch, c.number))
				continue
			}
			args := make([]uint64, 6)
			for _, v := range c.only.values {
				for _, more := range []uint64{0, 1 << 32, uint64(^c.only.mask)} {
					args[c.only.index] = uint64(v) | more
					require.Equal(t, uint32(unix.SECCOMP_RET_ALLOW), m.call(nativeArch, c.number, args...))
				}
				args[c.only.index] = uint64(v ^ c.only.mask&-c.only.mask)
				require.Equal(t, eperm, m.call(nativeArch, c.number, args...))
			}
		}
		for number := range uint32(1 << 12) {
			switch {
			case listed[number]:
			case number == unix.SYS_CLONE3:
				require.Equal(t, unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS), m.call(nativeArch, number))
			default:
				require.Equal(t, eperm, m.call(nativeArch, number), "%d", number)
			}
			require.Equal(t, eperm, m.call(nativeArch, number|0x40000000), "%d of x32", number)
		}
	}
}
