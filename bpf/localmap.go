// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// LocalEntry is where a frontend leads on localhost.
type LocalEntry struct {
	// Protocol is TCP or UDP.
	Protocol uint32
	// Frontend has an address of loopback, or 0.0.0.0 or :: for all of its family. For others see [LocalEntry.OnLocalhost].
	Frontend netip.AddrPort
	// Last is the last port of a range, whose backends have the ports of the frontends. Zero: one port.
	Last uint16
	// Backend is of either family. Zero: a port without one, which is for a hole in a range.
	Backend netip.AddrPort
}

// OnLocalhost reports whether sockets that ask for localhost may have asked for the frontend. Others need no entry: netfilter leads
// the host's own connections to them as well.
func (e LocalEntry) OnLocalhost() bool {
	addr := e.Frontend.Addr()
	return addr.IsUnspecified() || addr.IsLoopback()
}

// ErrFull says that there are more entries than a map has room for.
var ErrFull = errors.New("the map is full")

// localKey and localValue are a key and a value of mapPorts, as the kernel has them.
type (
	localKey   [entryLen]byte
	localValue [valueLen]byte
	// localBlock is a key of mapRanges: ports that have their first bits in common.
	localBlock [4 + entryLen]byte
)

func (e LocalEntry) key() (k localKey, err error) {
	switch e.Protocol {
	case TCP:
		k[entryProto] = unix.IPPROTO_TCP
	case UDP:
		k[entryProto] = unix.IPPROTO_UDP
	default:
		return k, fmt.Errorf("protocol %d: %w", e.Protocol, unix.EINVAL)
	}
	if !e.OnLocalhost() || e.Frontend.Port() == 0 || e.Last != 0 && (e.Last < e.Frontend.Port() || e.Backend.IsValid() && e.Backend.Port() != e.Frontend.Port()) {
		return k, fmt.Errorf("frontend %s: %w", e.Frontend, unix.EINVAL)
	}
	addr := e.Frontend.Addr()
	if addr.Is4() {
		b := addr.As4()
		copy(k[entryAddr:], b[:])
		k[entryFamily] = 4
	} else {
		b := addr.As16()
		copy(k[entryAddr:], b[12:])
		k[entryFamily] = 6
		if addr.Is4In6() {
			k[entryFamily] = 4
		}
	}
	binary.BigEndian.PutUint16(k[entryPort:], e.Frontend.Port())
	return k, nil
}

func (e LocalEntry) value() (v localValue) {
	if !e.Backend.IsValid() {
		return v
	}
	addr := e.Backend.Addr().As16()
	copy(v[valueAddr:], addr[:])
	if v[valueFamily] = 6; e.Backend.Addr().Unmap().Is4() {
		v[valueFamily] = 4
	}
	if e.Last == 0 {
		binary.BigEndian.PutUint16(v[valuePort:], e.Backend.Port())
	}
	return v
}

// blocks are the keys of the range, at most 30.
func (e LocalEntry) blocks(k localKey, each func(localBlock) error) error {
	for first, last := uint32(e.Frontend.Port()), uint32(e.Last); first <= last; {
		size := min(bits.TrailingZeros32(first|1<<16), bits.Len32(last-first+1)-1)
		binary.BigEndian.PutUint16(k[entryPort:], uint16(first))
		var b localBlock
		binary.NativeEndian.PutUint32(b[:], uint32(8*entryLen-size))
		copy(b[4:], k[:])
		if err := each(b); err != nil {
			return err
		}
		first += 1 << size
	}
	return nil
}

// Change takes entries away and puts others, which replace those with the same frontend. While it does, a frontend that both have leads
// to the one or the other backend, and no frontend to a third. An entry to take away that is not there is no error. After an error some
// may be changed, and [Local.Replace] puts all in order.
func (l *Local) Change(remove, put []LocalEntry) error {
	if err := l.change(remove, put); err != nil {
		return fmt.Errorf("change %d frontends on localhost: %w", len(remove)+len(put), err)
	}
	return nil
}

// Put is [Local.Change] with nothing to take away.
func (l *Local) Put(entries ...LocalEntry) error { return l.Change(nil, entries) }

// Delete is [Local.Change] with nothing to put; backends are ignored.
func (l *Local) Delete(entries ...LocalEntry) error { return l.Change(entries, nil) }

func (l *Local) change(remove, put []LocalEntry) error {
	var c localChange
	for _, e := range put {
		if err := c.put(e); err != nil {
			return err
		}
	}
	for _, e := range remove {
		if err := c.remove(e); err != nil {
			return err
		}
	}
	return l.apply(&c)
}

// localChange is what is written: in the order of its fields, so that ports are held out of a range before it comes, and until it is gone.
type localChange struct {
	ports       []localKey
	portValues  []localValue
	blocks      []localBlock
	blockValues []localValue
	noBlocks    []localBlock
	noPorts     []localKey
}

func (c *localChange) put(e LocalEntry) error {
	k, err := e.key()
	if err != nil {
		return err
	}
	v := e.value()
	if e.Last == 0 {
		c.ports, c.portValues = append(c.ports, k), append(c.portValues, v)
		return nil
	}
	return e.blocks(k, func(b localBlock) error {
		c.blocks, c.blockValues = append(c.blocks, b), append(c.blockValues, v)
		return nil
	})
}

func (c *localChange) remove(e LocalEntry) error {
	k, err := e.key()
	if err != nil {
		return err
	}
	if e.Last == 0 {
		c.noPorts = append(c.noPorts, k)
		return nil
	}
	return e.blocks(k, func(b localBlock) error {
		c.noBlocks = append(c.noBlocks, b)
		return nil
	})
}

// apply writes a change. What is put stays, also if it is to be removed.
func (l *Local) apply(c *localChange) error {
	put := map[any]bool{}
	if len(c.noPorts) > 0 {
		for _, k := range c.ports {
			put[k] = true
		}
	}
	if len(c.noBlocks) > 0 {
		for _, b := range c.blocks {
			put[b] = true
		}
	}
	if err := putAll(l.maps[mapPorts], c.ports, c.portValues); err != nil {
		return err
	}
	for i, b := range c.blocks {
		if err := l.maps[mapRanges].Put(b, c.blockValues[i]); err != nil {
			return full(err)
		}
	}
	for _, b := range c.noBlocks {
		if put[b] {
			continue
		}
		if err := l.maps[mapRanges].Delete(b); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	noPorts := slices.DeleteFunc(c.noPorts, func(k localKey) bool { return put[k] })
	return deleteAll(l.maps[mapPorts], noPorts)
}

// putAll is Put of many.
func putAll(m *ebpf.Map, keys []localKey, values []localValue) error {
	switch len(keys) {
	case 0:
		return nil
	case 1:
		return full(m.Put(keys[0], values[0]))
	}
	_, err := m.BatchUpdate(keys, values, nil)
	return full(err)
}

// deleteAll deletes keys that need not be there.
func deleteAll(m *ebpf.Map, keys []localKey) error {
	for len(keys) > 1 {
		n, err := m.BatchDelete(keys, nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		keys = keys[n+1:] // behind the one that is not there
	}
	for _, k := range keys {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	return nil
}

func full(err error) error {
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// Replace makes these the only entries: what is so already is not touched, and the rest in the order of [Local.Change].
func (l *Local) Replace(entries []LocalEntry) error {
	if err := l.replace(entries); err != nil {
		return fmt.Errorf("replace all frontends on localhost: %w", err)
	}
	return nil
}

func (l *Local) replace(entries []LocalEntry) error {
	var c localChange
	for _, e := range entries {
		if err := c.put(e); err != nil {
			return err
		}
	}
	ports, blocks := make(map[localKey]localValue, len(c.ports)), make(map[localBlock]localValue, len(c.blocks))
	for i, k := range c.ports {
		ports[k] = c.portValues[i]
	}
	for i, b := range c.blocks {
		blocks[b] = c.blockValues[i]
	}
	c = localChange{}
	// What is left in the maps after this is to be put.
	err := each(l.maps[mapPorts], func(k localKey, v localValue) {
		switch want, ok := ports[k]; {
		case !ok:
			c.noPorts = append(c.noPorts, k)
		case want == v:
			delete(ports, k)
		}
	})
	if err != nil {
		return err
	}
	err = each(l.maps[mapRanges], func(b localBlock, v localValue) {
		switch want, ok := blocks[b]; {
		case !ok:
			c.noBlocks = append(c.noBlocks, b)
		case want == v:
			delete(blocks, b)
		}
	})
	if err != nil {
		return err
	}
	for k, v := range ports {
		c.ports, c.portValues = append(c.ports, k), append(c.portValues, v)
	}
	for b, v := range blocks {
		c.blocks, c.blockValues = append(c.blocks, b), append(c.blockValues, v)
	}
	return l.apply(&c)
}

// each calls f with all entries of a map.
func each[K, V any](m *ebpf.Map, f func(K, V)) error {
	var k K
	var v V
	entries := m.Iterate()
	for entries.Next(&k, &v) {
		f(k, v)
	}
	return entries.Err()
}

// All lists the entries, in order. Ranges that touch and lead to the same backend are one.
func (l *Local) All() ([]LocalEntry, error) {
	var all []LocalEntry
	err := each(l.maps[mapPorts], func(k localKey, v localValue) { all = append(all, entryOf(k, v)) })
	if err == nil {
		err = each(l.maps[mapRanges], func(b localBlock, v localValue) {
			e := entryOf(localKey(b[4:]), v)
			e.Last = e.Frontend.Port() | (1<<(8*entryLen-binary.NativeEndian.Uint32(b[:])) - 1)
			e.Backend = netip.AddrPortFrom(e.Backend.Addr(), e.Frontend.Port())
			all = append(all, e)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list frontends on localhost: %w", err)
	}
	slices.SortFunc(all, func(a, b LocalEntry) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Frontend.Addr().Compare(b.Frontend.Addr()), cmp.Compare(min(a.Last, 1), min(b.Last, 1)),
			cmp.Compare(a.Frontend.Port(), b.Frontend.Port()))
	})
	joined := all[:0]
	for _, e := range all {
		if i := len(joined) - 1; e.Last != 0 && i >= 0 && joined[i].Last != 0 && joined[i].Last+1 == e.Frontend.Port() && joined[i].Protocol == e.Protocol &&
			joined[i].Frontend.Addr() == e.Frontend.Addr() && joined[i].Backend.Addr() == e.Backend.Addr() {
			joined[i].Last = e.Last
			continue
		}
		joined = append(joined, e)
	}
	return joined, nil
}

func entryOf(k localKey, v localValue) LocalEntry {
	e := LocalEntry{Protocol: TCP}
	if k[entryProto] == unix.IPPROTO_UDP {
		e.Protocol = UDP
	}
	addr := netip.AddrFrom4([4]byte(k[entryAddr:]))
	if k[entryFamily] == 6 {
		var b [16]byte
		copy(b[12:], k[entryAddr:entryAddr+4])
		addr = netip.AddrFrom16(b)
	}
	e.Frontend = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(k[entryPort:]))
	if v[valueFamily] != 0 {
		backend := netip.AddrFrom16([16]byte(v[valueAddr:]))
		if v[valueFamily] == 4 {
			backend = backend.Unmap()
		}
		e.Backend = netip.AddrPortFrom(backend, binary.BigEndian.Uint16(v[valuePort:]))
	}
	return e
}
