// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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

// perTime is a rate by its period of 1/scale seconds, as 3/min.
func perTime(period, scale uint64) string {
	units := []struct {
		name    string
		seconds uint64
	}{{"day", 86400}, {"hour", 3600}, {"min", 60}, {"sec", 1}}
	i := 1
	for ; i < len(units); i++ {
		m := units[i].seconds * scale
		if period == 0 || period > m || m/period < m%period {
			break
		}
	}
	if period == 0 {
		return "0/day"
	}
	return fmt.Sprintf("%d/%s", units[i-1].seconds*scale/period, units[i-1].name)
}
