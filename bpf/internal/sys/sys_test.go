// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// Pointers of bpf(2) have 64 bits everywhere, and what follows one is where the kernel looks for it.
func TestLayout(t *testing.T) {
	require.EqualValues(t, 8, unsafe.Sizeof(pointer{}))
	require.EqualValues(t, 32, unsafe.Sizeof(element{}))
	require.EqualValues(t, 56, unsafe.Sizeof(many{}))
	require.EqualValues(t, 36, unsafe.Offsetof(many{}.fd))
	require.EqualValues(t, 68, unsafe.Offsetof(program{}.attach))
}

// The kernel writes the last field of a query beyond the size that it was given.
func TestQuery(t *testing.T) {
	require.EqualValues(t, 64, unsafe.Sizeof(query{}))
	if _, ok := open(t, MapSpec{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 4, MaxEntries: 1}); !ok {
		return
	}
	attr := query{target: 1, attach: unix.BPF_TCX_INGRESS} // lo
	if _, err := call(unix.BPF_PROG_QUERY, &attr); errors.Is(err, unix.EINVAL) {
		t.Log(err) // before Linux 6.6
		return
	} else {
		require.NoError(t, err)
	}
	require.NotZero(t, attr.revision)
}

func number(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// open makes a map. False: this machine may not.
func open(t *testing.T, spec MapSpec) (*Map, bool) {
	t.Helper()
	labtest.Require(t)
	m, err := NewMap(&spec)
	if errors.Is(err, fs.ErrPermission) {
		t.Log(err) // a user namespace
		return nil, false
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m, true
}

func TestMap(t *testing.T) {
	m, ok := open(t, MapSpec{Name: "a_name_that_is_too_long", Type: unix.BPF_MAP_TYPE_HASH, KeySize: 4, ValueSize: 8, MaxEntries: 100})
	if !ok {
		return
	}
	empty, err := m.Empty()
	require.NoError(t, err)
	require.True(t, empty)
	value := make([]byte, 8)
	require.ErrorIs(t, m.Lookup(number(1), value), unix.ENOENT)
	require.ErrorIs(t, m.Delete(number(1)), unix.ENOENT)
	for _, err := range []error{m.Put(number(1), value[:4]), m.Put(value, value), m.Lookup(number(1), nil), m.Delete(value)} {
		require.ErrorIs(t, err, errSize)
	}
	require.NoError(t, m.Put(number(1), []byte("12345678")))
	require.NoError(t, m.Lookup(number(1), value))
	require.Equal(t, "12345678", string(value))
	empty, err = m.Empty()
	require.NoError(t, err)
	require.False(t, empty)
	empty, err = (&Map{descriptor: descriptor{fd: -1}, spec: m.spec}).Empty()
	require.ErrorIs(t, err, unix.EBADF)
	require.False(t, empty, "nobody knows")
	var keys []uint32
	var values []uint64
	for i := range uint32(99) {
		keys, values = append(keys, i+2), append(values, uint64(i))
	}
	n, err := m.PutAll(Flat(keys), Flat(values))
	require.NoError(t, err)
	require.Equal(t, 99, n)
	_, err = m.PutAll(Flat(keys), Flat(values[1:]))
	require.ErrorIs(t, err, errSize)
	require.ErrorIs(t, m.Put(number(1000), value), unix.E2BIG)
	seen := map[uint32]bool{}
	require.NoError(t, m.Each(func(key, _ []byte) { seen[binary.NativeEndian.Uint32(key)] = true }))
	require.Len(t, seen, 100)
	var at Cursor
	all := 0
	for {
		n, err := m.LookupAll(&at, make([]byte, 4*200), make([]byte, 8*200))
		if all += n; errors.Is(err, unix.ENOENT) {
			break
		}
		require.NoError(t, err)
	}
	require.Equal(t, 100, all)
	n, err = m.DeleteAll(Flat([]uint32{1, 2, 3, 1000, 4}))
	require.ErrorIs(t, err, unix.ENOENT)
	require.Equal(t, 3, n)

	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 3)
	require.NoError(t, err)
	same, err := MapFromFD(fd)
	require.NoError(t, err)
	require.True(t, same.Like(&m.spec))
	require.False(t, same.Like(&MapSpec{Type: unix.BPF_MAP_TYPE_HASH, KeySize: 8, ValueSize: 8}))
	require.NoError(t, errors.Join(same.Close(), same.Close()))
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	_, err = MapFromFD(null)
	require.ErrorIs(t, err, unix.EINVAL)
	require.ErrorIs(t, unix.Close(null), unix.EBADF, "it was closed")
}

// What the verifier says is in the error.
func TestRefused(t *testing.T) {
	if _, ok := open(t, MapSpec{Type: unix.BPF_MAP_TYPE_ARRAY, KeySize: 4, ValueSize: 4, MaxEntries: 1}); !ok {
		return
	}
	_, err := NewProgram(&ProgramSpec{Name: "x", Type: unix.BPF_PROG_TYPE_SOCKET_FILTER, Instructions: asm.Instructions{asm.Return()}})
	require.ErrorIs(t, err, unix.EACCES)
	require.ErrorContains(t, err, "R0 !read_ok")
	p, err := NewProgram(&ProgramSpec{Name: "x", Type: unix.BPF_PROG_TYPE_SOCKET_FILTER, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	require.NoError(t, err)
	require.NoError(t, p.Close())
}

// A program that is loaded at the second attempt is not lost.
func TestLoadAgain(t *testing.T) {
	calls := 0
	fd, err := load(&program{}, func(attr *program) (int, error) {
		if calls++; calls == 1 {
			return 0, unix.ENOMEM
		}
		require.NotZero(t, attr.logSize)
		return 5, nil
	})
	require.NoError(t, err)
	require.Equal(t, 5, fd)
	_, err = load(&program{}, func(*program) (int, error) { return 0, unix.ENOMEM })
	require.ErrorIs(t, err, unix.ENOMEM)
}
