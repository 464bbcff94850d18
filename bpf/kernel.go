// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// offsets are where the kernel has what is read, in bytes.
type offsets struct {
	skbDev, skbSock, skbHead, skbNetwork uint32
	devNet, devIndex, sockNet, netInode  uint32
	// pointer is the size of a pointer: a program of 32 bits may run on a kernel of 64.
	pointer asm.Size
	// skbTrace is the byte with the mark for nftrace, and traceMask its bit; zero: the kernel has none.
	skbTrace  uint32
	traceMask int32
}

func findOffsets(spec *btf.Spec) (at offsets, err error) {
	for _, f := range []struct {
		to   *uint32
		name string
		path []string
	}{
		{&at.skbDev, "sk_buff", []string{"dev"}},
		{&at.skbSock, "sk_buff", []string{"sk"}},
		{&at.skbHead, "sk_buff", []string{"head"}},
		{&at.skbNetwork, "sk_buff", []string{"network_header"}},
		{&at.devNet, "net_device", []string{"nd_net", "net"}},
		{&at.devIndex, "net_device", []string{"ifindex"}},
		{&at.sockNet, "sock", []string{"__sk_common", "skc_net", "net"}},
		{&at.netInode, "net", []string{"ns", "inum"}},
	} {
		var s *btf.Struct
		if err := spec.TypeByName(f.name, &s); err != nil {
			return offsets{}, fmt.Errorf("find struct %s: %w", f.name, err)
		}
		var t btf.Type = s
		for _, field := range f.path {
			offset, typ, ok := member(t, field)
			if !ok {
				return offsets{}, fmt.Errorf("find %s of struct %s: the kernel has no such field", strings.Join(f.path, "."), f.name)
			}
			*f.to += offset.Bytes()
			t = typ
		}
	}
	var list *btf.Struct // of two pointers
	if err := spec.TypeByName("list_head", &list); err != nil {
		return offsets{}, fmt.Errorf("find struct list_head: %w", err)
	}
	if at.pointer = asm.DWord; list.Size == 8 {
		at.pointer = asm.Word
	}
	var skb *btf.Struct
	if err := spec.TypeByName("sk_buff", &skb); err != nil {
		return offsets{}, fmt.Errorf("find struct sk_buff: %w", err)
	}
	if bits, _, ok := member(skb, "nf_trace"); ok {
		at.skbTrace, at.traceMask = uint32(bits/8), bitMask(bits)
	}
	return at, nil
}

// bitMask is the bit of a field of one bit in its byte.
func bitMask(offset btf.Bits) int32 {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big-endian: counted from the highest bit
		return 0x80 >> (offset % 8)
	}
	return 1 << (offset % 8)
}

// member finds a field of a struct or union, also in those without a name in it.
func member(t btf.Type, name string) (offset btf.Bits, typ btf.Type, ok bool) {
	var members []btf.Member
	switch s := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		members = s.Members
	case *btf.Union:
		members = s.Members
	}
	for _, m := range members {
		if m.Name == name {
			return m.Offset, m.Type, true
		}
		if m.Name == "" {
			if offset, typ, ok := member(m.Type, name); ok {
				return m.Offset + offset, typ, true
			}
		}
	}
	return 0, nil, false
}

// reasonsOf lists the names of drop reasons. Nil: the kernel has none.
func reasonsOf(spec *btf.Spec) map[uint32]string {
	var e *btf.Enum
	if err := spec.TypeByName("skb_drop_reason", &e); err != nil {
		return nil
	}
	reasons := make(map[uint32]string, len(e.Values))
	for _, v := range e.Values {
		reasons[uint32(v.Value)] = strings.TrimPrefix(strings.TrimPrefix(v.Name, "SKB_"), "DROP_REASON_")
	}
	return reasons
}

// mostFunctions bounds how many functions are remembered.
const mostFunctions = 256

// Function names the function with an address; empty: it may not be known (/proc/sys/kernel/kptr_restrict). The first time for
// an address takes some hundredths of a second, for the list of the kernel is long.
func (d *Drops) Function(address uint64) string {
	name, ok := d.functions[address]
	if !ok {
		if len(d.functions) >= mostFunctions {
			clear(d.functions)
		}
		name = symbol(address)
		d.functions[address] = name
	}
	return name
}

// symbol finds the function with the address in /proc/kallsyms. Empty: there is none, or addresses are hidden, and
// all zero.
func symbol(address uint64) (name string) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // nothing was written
	var best uint64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		at, rest, _ := strings.Cut(lines.Text(), " ")
		if len(rest) < 3 || !strings.Contains("tTwW", rest[:1]) {
			continue
		}
		if n, err := strconv.ParseUint(at, 16, 64); err == nil && n <= address && n > best {
			best = n
			name, _, _ = strings.Cut(rest[2:], "\t") // a module is behind
			name, _, _ = strings.Cut(name, ".")      // parts of a function: ".cold", ".constprop.0"
			name = strings.Clone(name)
		}
	}
	return name
}
