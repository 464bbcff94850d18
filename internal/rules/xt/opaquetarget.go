// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// decodeHarmless decodes the targets that go on.
func decodeHarmless(b *blob, ip6 bool, name string, rev uint32) Target {
	w := &words{}
	switch name {
	case "LOG", "ULOG":
		if name == "ULOG" {
			break
		}
		if p := b.text(2, 30); p != "" {
			w.add("--log-prefix", quoted(p))
		}
		if l := b.u8(0); l != 4 {
			w.add("--log-level", l)
		}
		for i, option := range []string{"tcp-sequence", "tcp-options", "ip-options", "uid", "", "macdecode"} {
			w.on(option != "" && b.u8(1)&(1<<i) != 0, "--log-"+option)
		}
	case "NFLOG":
		if p := b.text(12, 64); p != "" {
			w.add("--nflog-prefix", quoted(p))
		}
		if g := b.u16(4); g != 0 {
			w.add("--nflog-group", g)
		}
		if n := b.u32(0); b.u16(8)&1 != 0 {
			w.add("--nflog-size", n)
		} else if n != 0 {
			w.add("--nflog-range", n)
		}
		if t := b.u16(6); t != 0 {
			w.add("--nflog-threshold", t)
		}
	case "TRACE":
	case "TCPMSS":
		if m := b.u16(0); m == 1<<16-1 {
			w.add("--clamp-mss-to-pmtu")
		} else {
			w.add("--set-mss", m)
		}
	case "TCPOPTSTRIP":
		var opts []string
		for i := range 256 {
			if b.u32(i/32*4)&(1<<(i%32)) != 0 {
				opts = append(opts, strconv.Itoa(i))
			}
		}
		w.add("--strip-options", strings.Join(opts, ","))
	case "ECN":
		w.on(b.u8(0)&1 != 0 && b.u8(1) == 0, "--ecn-tcp-remove")
		w.on(b.u8(0)&0x30 != 0, "--ecn-tcp-remove")
	case "CHECKSUM":
		w.on(b.u8(0)&1 != 0, "--checksum-fill")
	case "AUDIT":
		if t := int(b.u8(0)); t < 3 {
			w.add("--type", []string{"accept", "drop", "reject"}[t])
		}
	case "SECMARK":
		at := 8
		if rev == 1 {
			at = 1
		}
		w.add("--selctx", b.text(at, 256))
	case "CONNSECMARK":
		if m := b.u8(0); m == 1 {
			w.add("--save")
		} else {
			w.add("--restore")
		}
	case "TEE":
		w.add("--gateway", b.addr(0, ip6))
		if o := b.text(16, 16); o != "" {
			w.add("--oif", o)
		}
	case "IDLETIMER":
		w.add("--timeout", b.u32(0))
		w.add("--label", b.text(4, 28))
		w.on(rev == 1 && b.u8(33) != 0, "--alarm")
	case "RATEEST":
		interval, log := int8(b.u8(16)), b.u8(17)
		w.add("--rateest-name", b.text(0, 16))
		w.add("--rateest-interval", estimator(250000<<uint(clampInt(int(interval)+2, 0, 31)))) //nolint:gosec // bounded
		w.add("--rateest-ewmalog", estimator(ewma(interval, log)))
	case "LED":
		w.add("--led-trigger-id", quoted(strings.TrimPrefix(b.text(0, 27), "netfilter-")))
		switch d := b.u32(28); {
		case d == 1<<32-1:
			w.add("--led-delay", "inf")
		case d != 0:
			w.add("--led-delay", d)
		}
		w.on(b.flag(27), "--led-always-blink")
	default:
		return nil
	}
	return Harmless{options: w.String()}
}

func clampInt(n, low, high int) int { return min(max(n, low), high) }

// ewma is the time constant of an estimator in microseconds.
func ewma(interval int8, log uint8) int {
	i := clampInt(int(interval)+2, 0, 31)
	return 250000 << i << clampInt(int(log), 0, 8) // a close one: iptables computes with floating point
}

// estimator is a time in microseconds with its unit.
func estimator(us int) string {
	switch {
	case us >= 1000000:
		return fmt.Sprintf("%.1fs", float64(us)/1e6)
	case us >= 1000:
		return fmt.Sprintf("%.1fms", float64(us)/1e3)
	}
	return fmt.Sprintf("%dus", us)
}

func decodeHmark(b *blob, ip6 bool) Target {
	w := &words{}
	flags := b.u32(40)
	has := func(bit uint) bool { return flags&(1<<bit) != 0 }
	mask := func(a netip.Addr) string {
		if n, ok := prefixLen(a); ok {
			return strconv.Itoa(n)
		}
		return a.String()
	}
	if has(0) {
		w.add("--hmark-src-prefix", mask(b.addr(0, ip6)))
	}
	if has(1) {
		w.add("--hmark-dst-prefix", mask(b.addr(16, ip6)))
	}
	port := func(bit uint, option string, at int, format string) {
		if has(bit) {
			w.add(option, fmt.Sprintf(format, b.be16(at)))
		}
	}
	port(4, "--hmark-sport", 36, "%d")
	port(5, "--hmark-dport", 38, "%d")
	port(6, "--hmark-sport-mask", 32, "0x%04x")
	port(7, "--hmark-dport-mask", 34, "0x%04x")
	if has(8) {
		w.add("--hmark-proto-mask", fmt.Sprintf("%#x", b.u16(44)))
	}
	if has(9) {
		w.add("--hmark-rnd", fmt.Sprintf("0x%08x", b.u32(48)))
	}
	if has(10) {
		w.add("--hmark-mod", b.u32(52))
	}
	if has(11) {
		w.add("--hmark-offset", b.u32(56))
	}
	if has(12) {
		w.add("--hmark-tuple", "ct")
	}
	return Marks{options: w.String()}
}

// decodeARPMangle decodes struct arpt_mangle.
func decodeARPMangle(b *blob) Target {
	w := &words{}
	flags, verdict := b.u8(40), int32(b.u32(44)) //nolint:gosec // a signed number of the kernel
	if flags&4 != 0 {
		w.add("--mangle-ip-s", b.addr4(32))
	}
	if flags&8 != 0 {
		w.add("--mangle-ip-d", b.addr4(36))
	}
	if flags&1 != 0 {
		w.add("--mangle-mac-s", macText(b.at(0, 6)))
	}
	if flags&2 != 0 {
		w.add("--mangle-mac-d", macText(b.at(16, 6)))
	}
	switch verdict {
	case nfDrop:
		w.add("--mangle-target", "DROP")
	case xtContinue:
		w.add("--mangle-target", "CONTINUE")
	}
	return Taking{Text: "mangle of arptables, which changes ARP packets", options: w.String()}
}

// xtContinue is the verdict XT_CONTINUE.
const xtContinue = -1

func decodeClusterIP(b *blob) Target {
	w := &words{}
	w.on(b.u32(0)&1 != 0, "--new")
	if mode := int(b.u32(48)); mode < 3 {
		w.add("--hashmode", []string{"sourceip", "sourceip-sourceport", "sourceip-sourceport-destport"}[mode])
	}
	w.add("--clustermac", macText(b.at(4, 6)))
	w.add("--total-nodes", b.u16(10))
	w.add("--local-node", b.u16(14))
	w.add("--hash-init", b.u32(52))
	return Taking{Text: "CLUSTERIP, which leaves some clients to other hosts", options: w.String()}
}

// Options returns what is logged or changed.
func (t Harmless) Options() string { return t.options }

// Options returns options of TCP.
func (t Synproxy) Options() string { return t.options }

// Options returns what is hashed.
func (t Marks) Options() string { return t.options }

// Options returns what is done.
func (t Taking) Options() string { return t.options }
