// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// BenchmarkRun is of a chain of 10,000 rules, which may take 10 ms.
func BenchmarkRun(b *testing.B) {
	var list [][]rules.Expr
	for i := range 10_000 {
		list = append(list, rule(saddr(fmt.Sprintf("10.0.%d.%d", i/250, i%250)), dport(uint16(i)), counter, drop))
	}
	rs := &ruleset{}
	base(rs.table(unix.NFPROTO_INET, "t"), "c", "filter", unix.NF_INET_FORWARD, 0, codeAccept, list...)
	p := seen(syn())
	for b.Loop() {
		if out, err := Run(&rs.Ruleset, Forward, p, &rs.facts); err != nil || len(out) != 1 {
			b.Fatal(out, err)
		}
	}
}

// BenchmarkRunBound is of a chain with more ways than are followed.
func BenchmarkRunBound(b *testing.B) {
	var list [][]rules.Expr
	for i := range 10_000 {
		list = append(list, rule(limit, counter, setMark(uint32(i)), limit))
	}
	rs := &ruleset{}
	base(rs.table(unix.NFPROTO_INET, "t"), "c", "filter", unix.NF_INET_FORWARD, 0, codeAccept, list...)
	p := seen(syn())
	for b.Loop() {
		if out, err := Run(&rs.Ruleset, Forward, p, &rs.facts); err != nil || len(out) != 1 || out[0].End != Unclear {
			b.Fatal(len(out), err)
		}
	}
}

// BenchmarkRunUnknown is of a chain in which every rule may match.
func BenchmarkRunUnknown(b *testing.B) {
	var list [][]rules.Expr
	for i := range 1000 {
		list = append(list, rule(limit, counter, setMark(uint32(i%3)), limit))
	}
	rs := &ruleset{}
	base(rs.table(unix.NFPROTO_INET, "t"), "c", "filter", unix.NF_INET_FORWARD, 0, codeAccept, list...)
	p := seen(syn())
	for b.Loop() {
		if out, err := Run(&rs.Ruleset, Forward, p, &rs.facts); err != nil || len(out) != 3 {
			b.Fatal(len(out), err)
		}
	}
}
