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
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
	"github.com/nftnat/nftnat/internal/order"
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
// to the one or the other backend, and no frontend to a third. Where ranges go and others come, it waits for the programs that are running. An entry to take away that is not there is no error. After an error some
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
	ports    []localItem[localKey]
	blocks   []localItem[localBlock]
	noBlocks []localBlock
	noPorts  []localKey
}

// localItem is an entry of a map.
type localItem[K any] struct {
	key   K
	value localValue
}

func (c *localChange) put(e LocalEntry) error {
	k, err := e.key()
	if err != nil {
		return err
	}
	v := e.value()
	if e.Last == 0 {
		c.ports = append(c.ports, localItem[localKey]{k, v})
		return nil
	}
	return e.blocks(k, func(b localBlock) error {
		c.blocks = append(c.blocks, localItem[localBlock]{b, v})
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
		for _, item := range c.ports {
			put[item.key] = true
		}
	}
	if len(c.noBlocks) > 0 {
		for _, item := range c.blocks {
			put[item.key] = true
		}
	}
	if err := l.putPorts(c.ports); err != nil {
		return err
	}
	for _, item := range c.blocks {
		if err := l.maps[mapRanges].Put(item.key[:], item.value[:]); err != nil {
			return full(err)
		}
	}
	c.noBlocks = slices.DeleteFunc(c.noBlocks, func(b localBlock) bool { return put[b] })
	if len(c.noBlocks) > 0 && len(c.ports)+len(c.blocks) > 0 {
		grace()
	}
	for _, b := range c.noBlocks {
		if err := l.maps[mapRanges].Delete(b[:]); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	noPorts := slices.DeleteFunc(c.noPorts, func(k localKey) bool { return put[k] })
	return deleteAll(l.maps[mapPorts], noPorts)
}

// grace waits for the programs that are running: one that has not found what was put would not find what then goes either. In most cases that takes some
// 15 ms (membarrier(2)).
func grace() {
	const barrierGlobal, pause = 1, 20 * time.Millisecond // MEMBARRIER_CMD_GLOBAL
	if runtime.NumCPU() > 1 {
		if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, barrierGlobal, 0, 0); errno == 0 {
			return
		}
	}
	time.Sleep(pause)
}

// batch is how many entries one call of the kernel takes: more than a bucket of the map has.
const batch = 4096

func (l *Local) putPorts(items []localItem[localKey]) error {
	if len(items) == 1 {
		return full(l.maps[mapPorts].Put(items[0].key[:], items[0].value[:]))
	}
	keys, values := make([]localKey, 0, min(len(items), batch)), make([]localValue, 0, min(len(items), batch))
	for some := range slices.Chunk(items, batch) {
		keys, values = keys[:0], values[:0]
		for _, item := range some {
			keys, values = append(keys, item.key), append(values, item.value)
		}
		if _, err := l.maps[mapPorts].PutAll(sys.Flat(keys), sys.Flat(values)); err != nil {
			return full(err)
		}
	}
	return nil
}

// deleteAll deletes keys that need not be there.
func deleteAll(m *sys.Map, keys []localKey) error {
	for len(keys) > 1 {
		n, err := m.DeleteAll(sys.Flat(keys))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
		keys = keys[n+1:] // behind the one that is not there
	}
	for _, k := range keys {
		if err := m.Delete(k[:]); err != nil && !errors.Is(err, unix.ENOENT) {
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
	ports, blocks := differenceOf(c.ports), differenceOf(c.blocks)
	if err := l.eachPort(ports.is); err != nil {
		return err
	}
	if err := l.eachBlock(blocks.is); err != nil {
		return err
	}
	return l.apply(&localChange{ports: ports.missing(), blocks: blocks.missing(), noBlocks: blocks.more, noPorts: ports.more})
}

// difference is what a map is to be, without what it is.
type difference[K interface{ ~[8]byte | ~[12]byte }] struct {
	want []localItem[K] // in order
	done []bool
	more []K // what it has and is not to have
}

func differenceOf[K interface{ ~[8]byte | ~[12]byte }](want []localItem[K]) *difference[K] {
	d := &difference[K]{want: want, done: make([]bool, len(want))}
	order.Sort(d.want, func(a, b localItem[K]) int { return d.compare(a, b.key) })
	return d
}

func (d *difference[K]) compare(a localItem[K], b K) int {
	for i := range len(b) {
		if a.key[i] != b[i] {
			return int(a.key[i]) - int(b[i])
		}
	}
	return 0
}

// is takes an entry into account that the map has.
func (d *difference[K]) is(k K, v localValue) {
	i, ok := slices.BinarySearchFunc(d.want, k, d.compare)
	switch {
	case !ok:
		d.more = append(d.more, k)
	case d.want[i].value == v:
		d.done[i] = true
	}
}

// missing is what has to be put.
func (d *difference[K]) missing() []localItem[K] {
	missing := d.want[:0]
	for i, item := range d.want {
		if !d.done[i] {
			missing = append(missing, item)
		}
	}
	return missing
}

// eachPort calls f with all entries of mapPorts, some thousands a call of the kernel.
func (l *Local) eachPort(f func(localKey, localValue)) error {
	keys, values := make([]localKey, batch), make([]localValue, batch)
	var at sys.Cursor
	for {
		n, err := l.maps[mapPorts].LookupAll(&at, sys.Flat(keys), sys.Flat(values))
		for i, k := range keys[:n] {
			f(k, values[i])
		}
		if errors.Is(err, unix.ENOENT) { // the last
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// eachBlock calls f with all entries of mapRanges.
func (l *Local) eachBlock(f func(localBlock, localValue)) error {
	return l.maps[mapRanges].Each(func(key, value []byte) { f(localBlock(key), localValue(value)) })
}

// All lists the entries, in order. Ranges that touch and lead to the same backend are one.
func (l *Local) All() ([]LocalEntry, error) {
	var all []LocalEntry
	err := l.eachPort(func(k localKey, v localValue) { all = append(all, entryOf(k, v)) })
	if err == nil {
		err = l.eachBlock(func(b localBlock, v localValue) {
			e := entryOf(localKey(b[4:]), v)
			e.Last = e.Frontend.Port() | (1<<(8*entryLen-binary.NativeEndian.Uint32(b[:])) - 1)
			e.Backend = netip.AddrPortFrom(e.Backend.Addr(), e.Frontend.Port())
			all = append(all, e)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list frontends on localhost: %w", err)
	}
	order.Sort(all, func(a, b LocalEntry) int {
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
