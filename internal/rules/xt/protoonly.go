// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"strconv"
	"strings"
)

// sides appends the ports of sctp and dccp.
func (w *words) sides(b *blob, src, dst int, flags, inv uint32) {
	if flags&1 != 0 {
		w.not(inv&1 != 0, "--sport", PortRange{b.u16(src), b.u16(src + 2)})
	}
	if flags&2 != 0 {
		w.not(inv&2 != 0, "--dport", PortRange{b.u16(dst), b.u16(dst + 2)})
	}
}

func decodeSCTP(b *blob) Match {
	w := &words{}
	flags, inv := b.u32(284), b.u32(288)
	w.sides(b, 4, 0, flags, inv)
	if flags&4 != 0 {
		how := map[uint32]string{1: "any", 2: "all", 4: "only"}[b.u32(264)]
		w.not(inv&4 != 0, "--chunk-types", how)
		w.add(sctpChunks(b))
	}
	return ProtoOnly{options: w.String()}
}

func sctpChunks(b *blob) string {
	names := map[int]string{
		0: "DATA", 1: "INIT", 2: "INIT_ACK", 3: "SACK", 4: "HEARTBEAT", 5: "HEARTBEAT_ACK", 6: "ABORT", 7: "SHUTDOWN",
		8: "SHUTDOWN_ACK", 9: "ERROR", 10: "COOKIE_ECHO", 11: "COOKIE_ACK", 12: "ECN_ECNE", 13: "ECN_CWR",
		14: "SHUTDOWN_COMPLETE", 64: "I_DATA", 128: "ASCONF_ACK", 130: "RE_CONFIG", 132: "PAD", 192: "FORWARD_TSN",
		193: "ASCONF", 194: "I_FORWARD_TSN",
	}
	var out []string
	all := true
	for i := range 256 {
		if b.u32(8+i/32*4)&(1<<(i%32)) == 0 {
			all = false
			continue
		}
		if name, ok := names[i]; ok {
			out = append(out, name)
		} else {
			out = append(out, strconv.Itoa(i))
		}
	}
	switch {
	case all:
		return "ALL"
	case out == nil:
		return "NONE"
	}
	return strings.Join(out, ",")
}

func decodeDCCP(b *blob) Match {
	w := &words{}
	flags, inv := uint32(b.u16(8)), uint32(b.u16(10))
	w.sides(b, 4, 0, flags, inv)
	if flags&4 != 0 {
		names := []string{
			"REQUEST", "RESPONSE", "DATA", "ACK", "DATAACK", "CLOSEREQ", "CLOSE", "RESET", "SYNC", "SYNCACK", "INVALID",
		}
		var types []string
		for i, name := range names {
			if b.u16(12)&(1<<i) != 0 {
				types = append(types, name)
			}
		}
		w.not(inv&4 != 0, "--dccp-types", strings.Join(types, ","))
	}
	if flags&8 != 0 {
		w.not(inv&8 != 0, "--dccp-option", b.u8(14))
	}
	return ProtoOnly{options: w.String()}
}

func decodeFrag(b *blob) Match {
	w := &words{}
	flags, inv := b.u8(12), b.u8(13)
	if b.u32(0) != 0 || b.u32(4) != 1<<32-1 {
		w.not(inv&1 != 0, "--fragid", span(b.u32(0), b.u32(4)))
	}
	if flags&2 != 0 {
		w.not(inv&2 != 0, "--fraglen", b.u32(8))
	}
	w.on(flags&4 != 0, "--fragres")
	w.on(flags&8 != 0, "--fragfirst")
	w.on(flags&16 != 0, "--fragmore")
	w.on(flags&32 != 0, "--fraglast")
	return ProtoOnly{options: w.String()}
}

func decodeRt(b *blob) Match {
	w := &words{}
	flags, inv, n := b.u8(16), b.u8(17), int(b.u8(276))
	if n > 16 {
		return nil
	}
	if flags&1 != 0 {
		w.not(inv&1 != 0, "--rt-type", b.u32(0))
	}
	if b.u32(4) != 0 || b.u32(8) != 1<<32-1 {
		w.not(inv&2 != 0, "--rt-segsleft", span(b.u32(4), b.u32(8)))
	}
	if flags&4 != 0 {
		w.not(inv&4 != 0, "--rt-len", b.u32(12))
	}
	w.on(flags&8 != 0, "--rt-0-res")
	if flags&0x30 != 0 || n != 0 {
		hops := make([]string, n)
		for i := range n {
			hops[i] = b.addr6(20 + 16*i).String()
		}
		if n > 0 {
			w.add("--rt-0-addrs", strings.Join(hops, ","))
		}
		w.on(flags&0x20 != 0, "--rt-0-not-strict")
	}
	return ProtoOnly{options: w.String()}
}

func decodeOpts(b *blob, name string) Match {
	w := &words{}
	flags, inv, n := b.u8(4), b.u8(5), int(b.u8(38))
	if n > 16 {
		return nil
	}
	if flags&1 != 0 {
		w.not(inv&1 != 0, "--"+name+"-len", b.u32(0))
	}
	if n > 0 {
		opts := make([]string, n)
		for i := range n {
			o := b.u16(6 + 2*i)
			opts[i] = strconv.Itoa(int(o >> 8))
			if o&0xff != 0xff {
				opts[i] += ":" + strconv.Itoa(int(o&0xff))
			}
		}
		w.add("--"+name+"-opts", strings.Join(opts, ","))
	}
	w.on(flags&4 != 0, "--"+name+"-not-strict")
	return ProtoOnly{options: w.String()}
}

func decodeSRH(b *blob, rev uint32) Match {
	at := 6
	if rev == 1 {
		at = 104 // behind six addresses
	}
	if rev > 1 {
		return nil
	}
	w := &words{}
	flags, inv := b.u16(at), b.u16(at+2)
	for i, o := range []struct {
		name  string
		value uint16
	}{
		{"next-hdr", uint16(b.u8(0))},
		{"hdr-len-eq", uint16(b.u8(1))},
		{"hdr-len-gt", uint16(b.u8(1))},
		{"hdr-len-lt", uint16(b.u8(1))},
		{"segs-left-eq", uint16(b.u8(2))},
		{"segs-left-gt", uint16(b.u8(2))},
		{"segs-left-lt", uint16(b.u8(2))},
		{"last-entry-eq", uint16(b.u8(3))},
		{"last-entry-gt", uint16(b.u8(3))},
		{"last-entry-lt", uint16(b.u8(3))},
		{"tag", b.u16(4)},
	} {
		if flags&(1<<i) != 0 {
			w.not(inv&(1<<i) != 0, "--srh-"+o.name, o.value)
		}
	}
	if rev == 1 {
		for i, name := range []string{"psid", "nsid", "lsid"} {
			if flags&(0x800<<i) != 0 {
				w.not(inv&(0x800<<i) != 0, "--srh-"+name, masked(b.addr6(8+16*i), b.addr6(56+16*i)))
			}
		}
	}
	return ProtoOnly{options: w.String()}
}
