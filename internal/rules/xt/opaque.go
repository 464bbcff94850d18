// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"strconv"
	"strings"
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
