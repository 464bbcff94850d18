// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
)

// Range is ports of a protocol at an address of the host.
type Range struct {
	// Proto is unix.IPPROTO_TCP or unix.IPPROTO_UDP.
	Proto uint8
	// Addr without an address is every one of both families; 0.0.0.0 and :: are every one of theirs.
	Addr        netip.Addr
	First, Last uint16
}

func (r Range) String() string {
	proto, host := "tcp", "*"
	if r.Proto == unix.IPPROTO_UDP {
		proto = "udp"
	}
	if r.Addr.IsValid() {
		host = r.Addr.String()
	}
	return fmt.Sprintf("%s %s ports %d-%d", proto, host, r.First, r.Last)
}

// Ports is a set of ports that programs of the kernel look up. A range of any width is at most 30 entries of
// a map, and so is one more for each port that was removed from it, 15 at most. While a set changes, a port that it has before and
// after is never missing. All methods are safe for concurrent use, and need no privilege.
type Ports struct {
	ports *sys.Map // LPM trie

	mu   sync.Mutex
	sets map[scope][]run // guarded by mu: what the trie has
}

// scope is what a run of ports belongs to, and the part of a key before the port.
type scope struct {
	kind  uint8 // kind4, kind6, or one of them with anywhere
	proto uint8
	addr  [16]byte // zeros: all, or anywhere; an address of IPv4 has the first four
}

// The kinds of a scope.
const (
	kind4 uint8 = 4
	kind6 uint8 = 6
	// anywhere marks ports that are in the set for some single address.
	anywhere uint8 = 0x80
)

// run is consecutive ports.
type run struct{ first, last uint16 }

// The layout of a key of the trie: struct bpf_lpm_trie_key, whose data are in network order.
const (
	keyLength = 0 // of the prefix, in bits
	keyKind   = 4
	keyProto  = 5
	keyAddr   = 8
	keyPort   = 24
	keySize   = 26
	keyBits   = (keySize - keyKind) * 8
	portBits  = 16
)

// mostPrefixes bounds the entries of the trie, whose memory is only what entries take: as if every second port were in the
// set, for each protocol and family.
const mostPrefixes = 1 << 17

func portsSpec(name string) *sys.MapSpec {
	return &sys.MapSpec{
		Name: name, Type: unix.BPF_MAP_TYPE_LPM_TRIE, KeySize: keySize, ValueSize: 4, MaxEntries: mostPrefixes, Flags: unix.BPF_F_NO_PREALLOC,
	}
}

func portsOf(m *sys.Map) *Ports { return &Ports{ports: m, sets: map[scope][]run{}} }

// scopes are those of a range: one for each family.
func (r Range) scopes() ([]scope, error) {
	if r.Proto != unix.IPPROTO_TCP && r.Proto != unix.IPPROTO_UDP || r.First > r.Last || r.First == 0 {
		return nil, fmt.Errorf("%s of protocol %d: %w", r, r.Proto, unix.EINVAL)
	}
	four, six := scope{kind: kind4, proto: r.Proto}, scope{kind: kind6, proto: r.Proto}
	switch addr := r.Addr.Unmap(); {
	case !addr.IsValid():
		return []scope{four, six}, nil
	case addr.Is4():
		a := addr.As4()
		copy(four.addr[:], a[:])
		return []scope{four}, nil
	default:
		six.addr = addr.As16()
		return []scope{six}, nil
	}
}

func (s scope) single() bool { return s.addr != [16]byte{} }

// some is the scope of ports at some address of the family.
func (s scope) some() scope { return scope{kind: s.kind | anywhere, proto: s.proto} }

// Add adds ports; those that are in the set already stay. After an error the set is as before.
func (p *Ports) Add(r Range) error {
	if err := p.change(r, true); err != nil {
		return fmt.Errorf("add %s: %w", r, err)
	}
	return nil
}

// Remove removes ports; those that are not in the set are no error. After an error the set is as before.
func (p *Ports) Remove(r Range) error {
	if err := p.change(r, false); err != nil {
		return fmt.Errorf("remove %s: %w", r, err)
	}
	return nil
}

func (p *Ports) change(r Range, add bool) (err error) {
	scopes, err := r.scopes()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := run{r.First, r.Last}
	var done []func()
	defer func() {
		if err != nil {
			for _, undo := range slices.Backward(done) {
				undo()
			}
		}
	}()
	set := func(s scope, after []run) error {
		before := p.sets[s]
		if err := p.write(s, before, after); err != nil {
			return err
		}
		p.store(s, after)
		done = append(done, func() {
			_ = p.write(s, after, before) // which had room
			p.store(s, before)
		})
		return nil
	}
	for _, s := range scopes {
		after := without(p.sets[s], at)
		if add {
			after = with(after, at)
		}
		if err := set(s, after); err != nil {
			return err
		}
		if s.single() {
			if err := set(s.some(), p.atSome(s, at)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Ports) store(s scope, runs []run) {
	if len(runs) == 0 {
		delete(p.sets, s)
	} else {
		p.sets[s] = runs
	}
}

// atSome is what the set of ports at some address is after a change of some ports at one.
func (p *Ports) atSome(of scope, changed run) []run {
	after := without(p.sets[of.some()], changed)
	for s, runs := range p.sets {
		if s.kind != of.kind || s.proto != of.proto || !s.single() {
			continue
		}
		for _, r := range runs[search(runs, changed.first):] {
			if r.first > changed.last {
				break
			}
			after = with(after, run{max(r.first, changed.first), min(r.last, changed.last)})
		}
	}
	return after
}

// Replace makes the set these ranges and nothing else, also if it was passed on by another process. A port that it has before and
// after is never missing. After an error there may be more in it.
func (p *Ports) Replace(ranges []Range) error {
	p.mu.Lock()
	want := &Ports{sets: map[scope][]run{}} // without a trie
	for _, r := range ranges {
		if err := want.change(r, true); err != nil {
			p.mu.Unlock()
			return fmt.Errorf("add %s: %w", r, err)
		}
	}
	defer p.mu.Unlock()
	for s, runs := range want.sets {
		if err := p.write(s, p.sets[s], runs); err != nil {
			return fmt.Errorf("replace %d ranges of ports: %w", len(ranges), err)
		}
		p.sets[s] = runs
	}
	for s, runs := range p.sets {
		if _, ok := want.sets[s]; ok {
			continue
		}
		if err := p.write(s, runs, nil); err != nil {
			return fmt.Errorf("replace %d ranges of ports: %w", len(ranges), err)
		}
		delete(p.sets, s)
	}
	return nil
}

// write changes the runs of a scope in the trie: first what comes, then what goes. After an error they are as before.
func (p *Ports) write(s scope, before, after []run) error {
	if p.ports == nil {
		return nil
	}
	comes, goes := differ(before, after)
	key := s.key()
	for i, x := range comes {
		if err := p.ports.Put(x.put(key), word(1)); err != nil {
			for _, x := range comes[:i] {
				_ = p.ports.Delete(x.put(key))
			}
			return err
		}
	}
	for i, x := range goes {
		if err := p.ports.Delete(x.put(key)); err != nil && !errors.Is(err, unix.ENOENT) {
			for _, x := range goes[:i] {
				_ = p.ports.Put(x.put(key), word(1))
			}
			for _, x := range comes {
				_ = p.ports.Delete(x.put(key))
			}
			return err
		}
	}
	return nil
}

// read fills the sets from the trie.
func (p *Ports) read() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.ports.Each(func(key, _ []byte) {
		s := scope{kind: key[keyKind], proto: key[keyProto], addr: [16]byte(key[keyAddr:])}
		length := binary.NativeEndian.Uint32(key[keyLength:]) - (keyBits - portBits)
		first := binary.BigEndian.Uint16(key[keyPort:])
		p.sets[s] = with(p.sets[s], prefix{first, uint8(length)}.run())
	})
	if err != nil {
		return fmt.Errorf("read ports: %w", err)
	}
	return nil
}

// key is a key of the trie without port and length.
func (s scope) key() []byte {
	key := make([]byte, keySize)
	key[keyKind], key[keyProto] = s.kind, s.proto
	copy(key[keyAddr:], s.addr[:])
	return key
}

// prefix is the ports that have their first bits in common.
type prefix struct {
	first  uint16
	length uint8
}

func (x prefix) run() run { return run{x.first, x.first | (1<<(portBits-x.length) - 1)} }

// put completes a key.
func (x prefix) put(key []byte) []byte {
	binary.NativeEndian.PutUint32(key[keyLength:], keyBits-portBits+uint32(x.length))
	binary.BigEndian.PutUint16(key[keyPort:], x.first)
	return key
}

// prefixes divides a run: at most 30.
func (r run) prefixes(to []prefix) []prefix {
	for first, last := uint32(r.first), uint32(r.last); first <= last; {
		size := bits.TrailingZeros32(first | 1<<portBits)
		for first+1<<size-1 > last {
			size--
		}
		to = append(to, prefix{uint16(first), uint8(portBits - size)})
		first += 1 << size
	}
	return to
}

// differ lists the prefixes of after that are not of before, and those of before that are not of after.
func differ(before, after []run) (comes, goes []prefix) {
	for i, j := 0, 0; i < len(before) || j < len(after); {
		switch {
		case i < len(before) && j < len(after) && before[i] == after[j]:
			i, j = i+1, j+1
		case j == len(after) || i < len(before) && before[i].first <= after[j].first:
			goes = before[i].prefixes(goes)
			i++
		default:
			comes = after[j].prefixes(comes)
			j++
		}
	}
	both := map[prefix]bool{}
	for _, x := range goes {
		both[x] = false
	}
	comes = slices.DeleteFunc(comes, func(x prefix) bool {
		_, ok := both[x]
		if ok {
			both[x] = true
		}
		return ok
	})
	return comes, slices.DeleteFunc(goes, func(x prefix) bool { return both[x] })
}

// search is the index of the first run that ends at the port or after.
func search(runs []run, port uint16) int {
	i, _ := slices.BinarySearchFunc(runs, port, func(r run, port uint16) int { return int(r.last) - int(port) })
	return i
}

// with returns a copy of runs, which are in order and do not touch, with one more.
func with(runs []run, r run) []run {
	from := r.first
	if from > 0 {
		from-- // one that touches
	}
	i := search(runs, from)
	j := i
	for ; j < len(runs) && int(runs[j].first) <= int(r.last)+1; j++ {
		r.first, r.last = min(r.first, runs[j].first), max(r.last, runs[j].last)
	}
	return slices.Concat(runs[:i], []run{r}, runs[j:])
}

// without returns a copy of runs without some ports.
func without(runs []run, r run) []run {
	i := search(runs, r.first)
	j := i
	var rest []run
	for ; j < len(runs) && runs[j].first <= r.last; j++ {
		if runs[j].first < r.first {
			rest = append(rest, run{runs[j].first, r.first - 1})
		}
		if runs[j].last > r.last {
			rest = append(rest, run{r.last + 1, runs[j].last})
		}
	}
	return slices.Concat(runs[:i], rest, runs[j:])
}
