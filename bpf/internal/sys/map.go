// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MapSpec describes a map.
type MapSpec struct {
	Name string
	// Type is one of unix.BPF_MAP_TYPE_.
	Type                                  uint32
	KeySize, ValueSize, MaxEntries, Flags uint32
}

// Map is a map. Keys and values are of the sizes that it has.
type Map struct {
	descriptor
	spec MapSpec
}

// NewMap makes a map.
func NewMap(spec *MapSpec) (_ *Map, err error) {
	attr := struct {
		kind, key, value, most, flags, inner, node uint32
		name                                       [nameLen]byte
		link, types, keyType, valueType            uint32
	}{kind: spec.Type, key: spec.KeySize, value: spec.ValueSize, most: spec.MaxEntries, flags: spec.Flags, name: name(spec.Name)}
	if spec.Type == unix.BPF_MAP_TYPE_SK_STORAGE { // which is made with the types of its keys and values alone
		types := descriptor{}
		if types.fd, err = loadTypes(spec.ValueSize); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, types.Close()) }()
		attr.types, attr.keyType, attr.valueType = uint32(types.fd), keyType, valueType
	}
	fd, err := call(unix.BPF_MAP_CREATE, &attr)
	if err != nil {
		return nil, err
	}
	return &Map{descriptor{fd}, *spec}, nil
}

// Types that loadTypes loads.
const (
	keyType   = 1
	valueType = 3
)

// loadTypes loads the types of 4 bytes as an integer, and of some bytes as an array (Documentation/bpf/btf.rst).
func loadTypes(size uint32) (int, error) {
	const (
		names               = "\x00int\x00char\x00"
		nameInt, nameChar   = 1, 5
		kindInt, kindArray  = 1 << 24, 3 << 24
		signed, char        = 1 << 24, 2 << 24
		headerLen, typesLen = 24, 16 + 16 + 24
	)
	var b []byte
	add := func(values ...uint32) {
		for _, v := range values {
			b = binary.NativeEndian.AppendUint32(b, v)
		}
	}
	b = append(binary.NativeEndian.AppendUint16(b, 0xeb9f), 1, 0) // magic, version, flags
	add(headerLen, 0, typesLen, typesLen, uint32(len(names)))
	add(nameInt, kindInt, 4, signed|32)
	add(nameChar, kindInt, 1, char|8)
	add(0, kindArray, 0, 2, keyType, size)
	b = append(b, names...)
	attr := struct {
		types, log              pointer
		size, logSize, logLevel uint32
		_                       uint32
	}{types: at(b), size: uint32(len(b))}
	return call(unix.BPF_BTF_LOAD, &attr)
}

// MapFromFD is the map of a descriptor, which it closes after an error.
func MapFromFD(fd int) (*Map, error) {
	m := &Map{descriptor: descriptor{fd}}
	var told struct {
		kind, id, key, value, most, flags uint32
		name                              [nameLen]byte
	}
	if err := info(fd, &told); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	m.spec = MapSpec{Type: told.kind, KeySize: told.key, ValueSize: told.value, MaxEntries: told.most, Flags: told.flags}
	return m, nil
}

// Like reports whether a map is of the type and the sizes of a spec.
func (m *Map) Like(spec *MapSpec) bool {
	return m.spec.Type == spec.Type && m.spec.KeySize == spec.KeySize && m.spec.ValueSize == spec.ValueSize
}

// element is the attribute of commands about one element.
type element struct {
	fd, _      uint32
	key, value pointer // or the next key
	_          uint64  // flags
}

// errSize says that a key or value is not of the map's size, which the kernel would not notice.
var errSize = errors.New("a key or value of another size than the map's")

func (m *Map) element(command uintptr, key, value []byte) error {
	if key != nil && len(key) != int(m.spec.KeySize) {
		return errSize
	}
	attr := element{fd: uint32(m.fd), key: at(key), value: at(value)}
	_, err := call(command, &attr)
	return err
}

// Put sets the value of a key.
func (m *Map) Put(key, value []byte) error {
	if len(value) != int(m.spec.ValueSize) {
		return errSize
	}
	return m.element(unix.BPF_MAP_UPDATE_ELEM, key, value)
}

// Lookup reads the value of a key; ENOENT: there is none.
func (m *Map) Lookup(key, value []byte) error {
	if len(value) != int(m.spec.ValueSize) {
		return errSize
	}
	return m.element(unix.BPF_MAP_LOOKUP_ELEM, key, value)
}

// Delete deletes a key; ENOENT: it is not there.
func (m *Map) Delete(key []byte) error { return m.element(unix.BPF_MAP_DELETE_ELEM, key, nil) }

// Empty reports whether there are no elements.
func (m *Map) Empty() (bool, error) {
	err := m.element(unix.BPF_MAP_GET_NEXT_KEY, nil, make([]byte, m.spec.KeySize))
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	return false, err
}

// Each calls f with all elements of a map that nobody changes meanwhile. Key and value are valid until f
// returns.
func (m *Map) Each(f func(key, value []byte)) error {
	key, next, value := []byte(nil), make([]byte, m.spec.KeySize), make([]byte, m.spec.ValueSize)
	for range m.spec.MaxEntries + 1 {
		err := m.element(unix.BPF_MAP_GET_NEXT_KEY, key, next)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err == nil {
			err = m.Lookup(next, value)
		}
		if err == nil {
			f(next, value)
		} else if !errors.Is(err, unix.ENOENT) {
			return err
		}
		key = append(key[:0], next...)
	}
	return errors.New("the map was changed while it was read")
}

// many is the attribute of commands about many elements.
type many struct {
	in, out, keys, values pointer
	count, fd             uint32
	_, _                  uint64 // flags
}

func (m *Map) many(command uintptr, attr many, keys, values []byte) (int, error) {
	n := len(keys) / int(m.spec.KeySize)
	if values != nil && len(values) != n*int(m.spec.ValueSize) || len(keys) != n*int(m.spec.KeySize) {
		return 0, errSize
	}
	attr.keys, attr.values, attr.count, attr.fd = at(keys), at(values), uint32(n), uint32(m.fd)
	_, err := call(command, &attr)
	return int(attr.count), err
}

// PutAll is Put for many keys, one after another, and returns how many it did. See [Flat].
func (m *Map) PutAll(keys, values []byte) (int, error) {
	return m.many(unix.BPF_MAP_UPDATE_BATCH, many{}, keys, values)
}

// DeleteAll is Delete for many keys, up to the first that is not there, and returns how many it did.
func (m *Map) DeleteAll(keys []byte) (int, error) {
	return m.many(unix.BPF_MAP_DELETE_BATCH, many{}, keys, nil)
}

// Cursor is a place in a map. The zero Cursor is its begin.
type Cursor []byte

// LookupAll reads elements from a cursor on, which it moves, and returns how many; with ENOENT, they
// are the last.
func (m *Map) LookupAll(c *Cursor, keys, values []byte) (int, error) {
	var attr many
	if *c == nil {
		*c = make(Cursor, max(m.spec.KeySize, 4))
	} else {
		attr.in = at(*c)
	}
	attr.out = at(*c)
	return m.many(unix.BPF_MAP_LOOKUP_BATCH, attr, keys, values)
}

// Flat is the memory of a slice whose elements have no pointers.
func Flat[T any](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(*new(T))))
}
