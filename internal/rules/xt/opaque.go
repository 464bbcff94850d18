// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// decodeOpaque decodes the matches of which the options are all that is kept.
func decodeOpaque(b *blob, ip6 bool, name string, rev uint32) Match {
	w := &words{}
	switch name {
	case "limit":
		rate := perTime(uint64(b.u32(0)), 10000)
		w.add("--limit", rate)
		if burst := b.u32(4); burst != 5 {
			w.add("--limit-burst", burst)
		}
		return Rate{Text: "a limit of " + rate, options: w.String()}
	case "hashlimit":
		return decodeHashlimit(b, ip6, rev)
	case "quota":
		w.not(b.u32(0)&1 != 0, "--quota", b.u64(8))
		return Rate{Text: fmt.Sprintf("a quota of %d bytes", b.u64(8)), options: w.String()}
	case "connlimit":
		return decodeConnlimit(b, ip6)
	case "connbytes":
		return decodeConnbytes(b)
	case "rateest":
		return decodeRateest(b)
	case "policy":
		return decodePolicy(b, ip6)
	case "cgroup":
		return decodeCgroup(b, rev)
	case "osf":
		return decodeOSF(b)
	case "sctp":
		return decodeSCTP(b)
	case "dccp":
		return decodeDCCP(b)
	case "esp", "ah":
		inv := b.u8(8)
		if name == "ah" && ip6 {
			inv = b.u8(13)
		}
		if b.u32(0) != 0 || b.u32(4) != 1<<32-1 {
			w.not(inv&1 != 0, "--"+name+"spi", span(b.u32(0), b.u32(4)))
		}
		if name == "ah" && ip6 {
			if b.u32(8) != 0 {
				w.not(inv&2 != 0, "--ahlen", b.u32(8))
			}
			w.on(b.flag(12), "--ahres")
		}
		return ProtoOnly{options: w.String()}
	case "ipcomp":
		if b.u32(0) != 0 || b.u32(4) != 1<<32-1 {
			w.not(b.u8(8)&1 != 0, "--ipcompspi", span(b.u32(0), b.u32(4)))
		}
		w.on(b.flag(9), "--compres")
		return ProtoOnly{options: w.String()}
	case "mh":
		if b.u8(0) != 0 || b.u8(1) != 255 {
			w.not(b.u8(2)&1 != 0, "--mh-type", span(b.u8(0), b.u8(1)))
		}
		return ProtoOnly{options: w.String()}
	case "frag":
		return decodeFrag(b)
	case "rt":
		return decodeRt(b)
	case "hbh", "dst":
		return decodeOpts(b, name)
	case "srh":
		return decodeSRH(b, rev)
	}
	return decodeText(b, name, rev)
}

// decodeText decodes the matches that can be neither known nor ruled out.
func decodeText(b *blob, name string, rev uint32) Match {
	w := &words{}
	switch name {
	case "u32":
		return decodeU32(b)
	case "string":
		return decodeString(b, rev)
	case "socket":
		w.on(rev >= 1 && b.u8(0)&1 != 0, "--transparent")
		w.on(rev >= 2 && b.u8(0)&2 != 0, "--nowildcard")
		w.on(rev >= 3 && b.u8(0)&4 != 0, "--restore-skmark")
		return Socket{options: w.String()}
	case "bpf":
		if rev == 1 && b.u16(0) == 1 {
			w.add("--object-pinned", b.text(8, 512))
			break
		}
		at, count := 4, int(b.u16(0))
		if rev == 1 {
			at, count = 8, int(b.u16(2))
		}
		if count > 64 {
			return nil
		}
		code := make([]string, count)
		for i := range code {
			o := at + 8*i
			code[i] = fmt.Sprintf(",%d %d %d %d", b.u16(o), b.u8(o+2), b.u8(o+3), b.u32(o+4))
		}
		w.add("--bytecode", fmt.Sprintf(`"%d%s"`, count, strings.Join(code, "")))
	case "cluster":
		w.not(b.u32(12)&1 != 0, "--cluster-local-nodemask", fmt.Sprintf("0x%08x", b.u32(4)))
		w.add("--cluster-total-nodes", b.u32(0))
		w.add("--cluster-hash-seed", fmt.Sprintf("0x%08x", b.u32(8)))
	case "realm":
		w.not(b.flag(8), "--realm", hex(b.u32(0), b.u32(4)))
	case "cpu":
		w.not(b.u32(4) != 0, "--cpu", b.u32(0))
	case "connlabel":
		w.not(b.u16(2)&1 != 0, "--label", `"`+strconv.Itoa(int(b.u16(0)))+`"`)
		w.on(b.u16(2)&2 != 0, "--set")
	case "ipvs", "l2tp", "eui64":
		if name != "eui64" {
			w.add(fmt.Sprintf("[revision %d, %d bytes]", rev, len(b.data)))
		}
	default:
		return nil
	}
	return Opaque(w.String())
}

func decodeHashlimit(b *blob, ip6 bool, rev uint32) Match {
	w := &words{}
	var name string
	var avg, burst, scale, bytes uint64
	var mode, size, limit, gc, expire, interval uint32
	var srcMask, dstMask uint8
	switch rev {
	case 1:
		name, scale = b.text(0, unix.IFNAMSIZ), 10000
		mode, avg, burst = b.u32(16), uint64(b.u32(20)), uint64(b.u32(24))
		size, limit, gc, expire = b.u32(28), b.u32(32), b.u32(36), b.u32(40)
		srcMask, dstMask = b.u8(44), b.u8(45)
	case 2, 3:
		name, scale = b.text(0, 255), 1000000
		avg, burst, mode = b.u64(256), b.u64(264), b.u32(272)
		size, limit, gc, expire = b.u32(276), b.u32(280), b.u32(284), b.u32(288)
		at := 292
		if rev == 3 {
			interval = b.u32(292)
			at = 296
		}
		srcMask, dstMask = b.u8(at), b.u8(at+1)
	default:
		return nil
	}
	option := "--hashlimit-upto"
	if mode&16 != 0 {
		option = "--hashlimit-above"
	}
	var rate string
	quantum := uint64(0)
	switch {
	case mode&64 != 0: // a rate in whole numbers
		rate = strconv.FormatUint(avg, 10) + "/sec"
	case mode&32 != 0: // bytes, in units of 16
		bytes = (uint64(1<<32-1)/max(avg, 1) - 1) * 16
		rate = byteRate(bytes)
	default:
		rate = perTime(avg, scale)
	}
	w.add(option, rate)
	if mode&32 == 0 {
		w.add("--hashlimit-burst", burst)
		quantum = unitQuantum(avg, scale)
	} else {
		quantum = 15000
		if burst != 0 {
			quantum = 60000
			w.add("--hashlimit-burst", byteBurst(burst*bytes))
		}
	}
	if m := joined(mode, []bitName{{4, "srcip"}, {8, "srcport"}, {1, "dstip"}, {2, "dstport"}}); m != "" {
		w.add("--hashlimit-mode", m)
	}
	w.add("--hashlimit-name", name)
	if size != 0 {
		w.add("--hashlimit-htable-size", size)
	}
	if limit != 0 {
		w.add("--hashlimit-htable-max", limit)
	}
	if gc != 1000 {
		w.add("--hashlimit-htable-gcinterval", gc)
	}
	if uint64(expire) != quantum {
		w.add("--hashlimit-htable-expire", expire)
	}
	full := uint8(32)
	if ip6 {
		full = 128
	}
	if srcMask != full {
		w.add("--hashlimit-srcmask", srcMask)
	}
	if dstMask != full {
		w.add("--hashlimit-dstmask", dstMask)
	}
	if mode&64 != 0 {
		w.add("--hashlimit-rate-match")
		if interval != 1 {
			w.add("--hashlimit-rate-interval", interval)
		}
	}
	return Rate{Text: "a limit of " + rate + " (hashlimit " + name + ")", options: w.String()}
}

// unitQuantum is the unit of a rate in milliseconds.
func unitQuantum(period, scale uint64) uint64 {
	_, unit, _ := strings.Cut(perTime(period, scale), "/")
	switch unit {
	case "day":
		return 86400000
	case "hour":
		return 3600000
	case "min":
		return 60000
	}
	return 1000
}

// byteRate is a number of bytes per second, in the largest unit that divides it.
func byteRate(n uint64) string { return byteBurst(n) + "/s" }

// byteBurst is a number of bytes in the largest unit that divides it.
func byteBurst(n uint64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dmb", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dkb", n>>10)
	}
	return fmt.Sprintf("%db", n)
}

func decodeConnlimit(b *blob, ip6 bool) Match {
	w := &words{}
	limit, flags := b.u32(16), b.u32(20)
	option := "--connlimit-above"
	if flags&1 != 0 {
		option = "--connlimit-upto"
	}
	w.add(option, limit)
	bits, _ := prefixLen(b.addr(0, ip6))
	w.add("--connlimit-mask", bits)
	if flags&2 != 0 {
		w.add("--connlimit-daddr")
	} else {
		w.add("--connlimit-saddr")
	}
	return Rate{Text: fmt.Sprintf("a limit of %d connections", limit), options: w.String()}
}

func decodeConnbytes(b *blob) Match {
	w := &words{}
	from, to, what, dir := b.u64(0), b.u64(8), b.u8(16), b.u8(17)
	if what > 2 || dir > 2 {
		return nil
	}
	value := strconv.FormatUint(min(from, to), 10)
	if upper := max(from, to); upper != 1<<64-1 {
		value += ":" + strconv.FormatUint(upper, 10)
	}
	w.not(from > to, "--connbytes", value)
	w.add("--connbytes-mode", []string{"packets", "bytes", "avgpkt"}[what])
	w.add("--connbytes-dir", []string{"original", "reply", "both"}[dir])
	return Opaque(w.String())
}

func decodeRateest(b *blob) Match {
	flags, mode := b.u16(32), b.u16(34)
	w := &words{}
	comparison := func() {
		name := map[uint16]string{1: "--rateest-eq", 2: "--rateest-lt", 3: "--rateest-gt"}[mode]
		w.not(flags&1 != 0, name)
	}
	bps := func(n uint32) string { return fmt.Sprintf("%dbit", uint64(n)*8) }
	if flags&4 != 0 { // two estimators
		w.add("--rateest1", b.text(0, 16))
		w.on(flags&8 != 0, "--rateest-delta")
		comparison()
		w.on(flags&16 != 0, "--rateest-bps")
		w.on(flags&32 != 0, "--rateest-pps")
		w.add("--rateest2", b.text(16, 16))
		return Opaque(w.String())
	}
	bps2, pps2 := "--rateest-bps", "--rateest-pps"
	w.on(flags&8 != 0, "--rateest-delta")
	w.add("--rateest", b.text(0, 16))
	if flags&8 != 0 {
		bps2, pps2 = "--rateest-bps2", "--rateest-pps2"
		if flags&16 != 0 {
			w.add("--rateest-bps1", bps(b.u32(36)))
		}
		if flags&32 != 0 {
			w.add("--rateest-pps1", b.u32(40))
		}
	}
	comparison()
	if flags&16 != 0 {
		w.add(bps2, bps(b.u32(44)))
	}
	if flags&32 != 0 {
		w.add(pps2, b.u32(48))
	}
	return Opaque(w.String())
}

// XT_POLICY_MATCH_*.
const (
	PolicyIn = 1 << iota
	PolicyOut
	PolicyNone
	PolicyStrict
)

func decodePolicy(b *blob, ip6 bool) Match {
	const elem = 76
	flags, n := b.u16(4*elem), int(b.u16(4*elem+2))
	if n > 4 {
		return nil
	}
	w := &words{}
	dir := "out"
	if flags&PolicyIn != 0 {
		dir = "in"
	}
	w.add("--dir", dir)
	if flags&PolicyNone != 0 {
		w.add("--pol", "none")
		n = 0
	} else {
		w.add("--pol", "ipsec")
	}
	w.on(flags&PolicyStrict != 0, "--strict")
	for i := range n {
		e := i * elem
		if i > 0 {
			w.add("--next")
		}
		match, inv := b.bitfield(e+74), b.bitfield(e+75)
		if match&32 != 0 {
			w.not(inv&32 != 0, "--reqid", b.u32(e+68))
		}
		if match&16 != 0 {
			w.not(inv&16 != 0, "--spi", fmt.Sprintf("%#x", b.u32(e+64)))
		}
		if match&4 != 0 {
			w.not(inv&4 != 0, "--proto", protoName(uint16(b.u8(e+72))))
		}
		if match&8 != 0 {
			mode := "transport"
			if b.u8(e+73) == 1 {
				mode = "tunnel"
			}
			w.not(inv&8 != 0, "--mode", mode)
		}
		if match&2 != 0 {
			w.not(inv&2 != 0, "--tunnel-dst", hostOr(b.addr(e+32, ip6), b.addr(e+48, ip6)))
		}
		if match&1 != 0 {
			w.not(inv&1 != 0, "--tunnel-src", hostOr(b.addr(e, ip6), b.addr(e+16, ip6)))
		}
	}
	return Policy{Flags: flags, options: w.String()}
}

func decodeCgroup(b *blob, rev uint32) Match {
	w := &words{}
	switch rev {
	case 0:
		w.not(b.u32(4) != 0, "--cgroup", b.u32(0))
	case 1, 2:
		size, class := 4096, 4+4096
		if rev == 2 {
			size, class = 512, 4
		}
		if b.flag(0) {
			w.not(b.flag(2), "--path", b.text(4, size))
		}
		if b.flag(1) {
			w.not(b.flag(3), "--cgroup", b.u32(class))
		}
	default:
		return nil
	}
	return Cgroup{options: w.String()}
}

func decodeOSF(b *blob) Match {
	// struct nf_osf_info: genre, len, flags, loglevel, ttl.
	w := &words{}
	flags := b.u32(36)
	w.not(flags&8 != 0, "--genre", quoted(b.text(0, 32)))
	if flags&2 != 0 {
		w.add("--ttl", b.u32(44))
	}
	if flags&4 != 0 {
		w.add("--log", b.u32(40))
	}
	return OSF{options: w.String()}
}

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

func decodeU32(b *blob) Match {
	const test, most = 11*8 + 11*8 + 4, 11
	n := int(b.u8(most * test))
	if n > most {
		return nil
	}
	var text strings.Builder
	for i := range n {
		at := i * test
		nums, values := int(b.u8(at+176)), int(b.u8(at+177))
		if nums > most || values > most {
			return nil
		}
		if i > 0 {
			text.WriteString("&&")
		}
		for j := range nums {
			if j > 0 {
				op := b.u8(at + 8*j + 4)
				if op > 3 {
					return nil
				}
				text.WriteString([]string{"&", "<<", ">>", "@"}[op])
			}
			fmt.Fprintf(&text, "0x%x", b.u32(at+8*j))
		}
		text.WriteString("=")
		for j := range values {
			if j > 0 {
				text.WriteString(",")
			}
			lo, hi := b.u32(at+88+8*j), b.u32(at+92+8*j)
			fmt.Fprintf(&text, "0x%x", lo)
			if lo != hi {
				fmt.Fprintf(&text, ":0x%x", hi)
			}
		}
	}
	w := &words{}
	w.not(b.flag(most*test+1), "--u32", `"`+text.String()+`"`)
	return Opaque(w.String())
}

func decodeString(b *blob, rev uint32) Match {
	n := int(b.u8(148))
	if n > 128 || rev > 1 {
		return nil
	}
	pattern := b.at(20, n)
	printable := n > 0 && pattern[n-1] != '\\'
	for _, c := range pattern {
		printable = printable && c >= 0x20 && c < 0x7f
	}
	w := &words{}
	not := b.u8(149)&1 != 0
	if printable {
		w.not(not, "--string", `"`+strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(string(pattern))+`"`)
	} else {
		w.not(not, "--hex-string", fmt.Sprintf(`"|%x|"`, pattern))
	}
	w.add("--algo", b.text(4, 16))
	if from := b.u16(0); from != 0 {
		w.add("--from", from)
	}
	if to := b.u16(2); to != 0 && to != 1<<16-1 {
		w.add("--to", to)
	}
	w.on(rev == 1 && b.u8(149)&2 != 0, "--icase")
	return Opaque(w.String())
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

// hostOr is an address with its mask, which is left out if it is all ones.
func hostOr(a, mask netip.Addr) string {
	if n, ok := prefixLen(mask); ok && n == mask.BitLen() {
		return a.String()
	}
	return masked(a, mask)
}
