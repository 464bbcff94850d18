// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/asm"
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

func findOffsets(types *types) (at offsets, err error) {
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
		t, ok := types.find(kindStruct, f.name)
		if !ok {
			return offsets{}, fmt.Errorf("find struct %s: the kernel has none", f.name)
		}
		for _, field := range f.path {
			bits, typ, ok := types.member(t, field)
			if !ok {
				return offsets{}, fmt.Errorf("find %s of struct %s: the kernel has no such field", strings.Join(f.path, "."), f.name)
			}
			*f.to += bits / 8
			t = typ
		}
	}
	list, ok := types.find(kindStruct, "list_head") // of two pointers
	if !ok {
		return offsets{}, errors.New("find struct list_head: the kernel has none")
	}
	if at.pointer = asm.DWord; types.size(list) == 8 {
		at.pointer = asm.Word
	}
	if skb, ok := types.find(kindStruct, "sk_buff"); ok {
		if bits, _, ok := types.member(skb, "nf_trace"); ok {
			at.skbTrace, at.traceMask = bits/8, bitMask(bits)
		}
	}
	return at, nil
}

// bitMask is the bit of a field of one bit in its byte.
func bitMask(offset uint32) int32 {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 { // big-endian: counted from the highest bit
		return 0x80 >> (offset % 8)
	}
	return 1 << (offset % 8)
}

// reasonsOf lists the names of drop reasons. Nil: the kernel has none.
func reasonsOf(types *types) map[uint32]string {
	t, ok := types.find(kindEnum, "skb_drop_reason")
	if !ok {
		return nil
	}
	reasons := map[uint32]string{}
	for name, value := range types.values(t) {
		reasons[value] = strings.TrimPrefix(strings.TrimPrefix(name, "SKB_"), "DROP_REASON_")
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
