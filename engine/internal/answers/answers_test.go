// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package answers

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// from is a rule of an administrator.
func from(priority uint32, prefix string, table uint32) hostnet.Rule {
	p := netip.MustParsePrefix(prefix)
	return hostnet.Rule{Is4: p.Addr().Is4(), Priority: priority, Protocol: unix.RTPROT_BOOT, From: p, Action: unix.FR_ACT_TO_TBL, Table: table}
}

func addrs(texts ...string) (as []netip.Addr) {
	for _, text := range texts {
		as = append(as, netip.MustParseAddr(text))
	}
	return as
}

// text lists the rules of an address without their mark.
func (w Want) text(a string) (lines []string) {
	mark := w.By[netip.MustParseAddr(a)]
	for _, r := range w.Rules[mark] {
		if r.Mark != mark || r.Mask != exactMask || r.Protocol != Protocol {
			lines = append(lines, "no rule of an engine")
		}
		r.Mask = 0
		lines = append(lines, r.String())
	}
	return lines
}

func TestPlan(t *testing.T) {
	own := "198.51.100.1"
	to := from(9, "198.51.100.1/32", 102)
	to.To = netip.MustParsePrefix("10.0.0.0/8")
	prohibit := from(9, "198.51.100.1/32", 0)
	prohibit.Action = unix.FR_ACT_PROHIBIT
	jump := from(9, "198.51.100.1/32", 0)
	jump.Action, jump.Goto = unix.FR_ACT_GOTO, 100
	suppress := from(9, "198.51.100.1/32", 102)
	suppress.MinLength = 1
	with := func(change func(*hostnet.Rule)) hostnet.Rule {
		r := from(9, "198.51.100.1/32", 102)
		change(&r)
		return r
	}
	for name, tt := range map[string]struct {
		rules []hostnet.Rule
		want  []string
	}{
		"table": {[]hostnet.Rule{from(9, "198.51.100.1/32", 102)}, []string{
			"9: from all iif lo lookup 254",
			"9: from all lookup 102 suppress_prefixlength 0", "9: from all lookup 254 suppress_prefixlength 0", "9: from all lookup 102",
		}},
		"prefix": {[]hostnet.Rule{from(9, "198.51.0.0/16", 254)}, []string{"9: from all iif lo lookup 254", "9: from all lookup 254"}},
		"two": {[]hostnet.Rule{from(7, "198.51.100.0/24", 254), from(8, "198.51.100.9/32", 5), suppress}, []string{
			"7: from all iif lo lookup 254", "7: from all lookup 254", "9: from all lookup 102 suppress_prefixlength 0",
		}},
		"destination": {[]hostnet.Rule{to}, []string{
			"9: from all iif lo lookup 254", "9: from all to 10.0.0.0/8 lookup 102 suppress_prefixlength 0",
			"9: from all to 10.0.0.0/8 lookup 254 suppress_prefixlength 0", "9: from all to 10.0.0.0/8 lookup 102",
		}},
		"prohibit": {[]hostnet.Rule{prohibit}, []string{
			"9: from all iif lo lookup 254", "9: from all lookup 254 suppress_prefixlength 0", "9: from all action 8",
		}},
		"goto": {[]hostnet.Rule{jump}, []string{
			"9: from all iif lo lookup 254", "9: from all lookup 254 suppress_prefixlength 0", "9: from all goto 100",
		}},
		"others": {[]hostnet.Rule{
			from(1, "198.51.100.2/32", 102),
			with(func(r *hostnet.Rule) { r.IIF = "lo" }), with(func(r *hostnet.Rule) { r.Opaque = true }),
			with(func(r *hostnet.Rule) { r.Mark, r.Mask = 1, exactMask }), with(func(r *hostnet.Rule) { r.From = netip.Prefix{} }),
			with(func(r *hostnet.Rule) { r.Action = unix.FR_ACT_NOP }),
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := Plan("nftnat", tt.rules, addrs(own), NewState())
			require.Equal(t, tt.want, w.text(own))
			require.Len(t, w.By, min(len(tt.want), 1))
		})
	}
}

// Addresses for which the same rules hold have one mark, which no other rule looks for.
func TestPlanMarks(t *testing.T) {
	rules := []hostnet.Rule{
		from(9, "10.0.0.0/24", 101), from(9, "10.0.1.0/24", 102),
		{Is4: true, Priority: 5, Mark: 0x1, Mask: 0x1, Action: unix.FR_ACT_TO_TBL, Table: 7},
		{Is4: true, Priority: 6, Mark: 0, Mask: 0x70, Action: unix.FR_ACT_TO_TBL, Table: 7},
	}
	w := Plan("nftnat", rules, addrs("10.0.0.1", "10.0.0.2", "10.0.1.1"), NewState())
	one, other := w.By[netip.MustParseAddr("10.0.0.1")], w.By[netip.MustParseAddr("10.0.1.1")]
	require.Equal(t, one, w.By[netip.MustParseAddr("10.0.0.2")])
	require.NotEqual(t, one, other)
	for _, mark := range []uint32{one, other} {
		require.True(t, mark >= FirstMark && mark <= LastMark && mark&0x71 == 0, "%#x", mark)
	}

	// With its own rules in the kernel it chooses the same; those of another engine are in
	// the way.
	recorded := NewState()
	recorded.Marks[Mark{Is4: true, Mark: one}] = struct{}{}
	recorded.Marks[Mark{Is4: true, Mark: other}] = struct{}{}
	both := slices.Concat(rules, w.Rules[one], w.Rules[other])
	for _, r := range w.Rules[one] {
		require.True(t, recorded.IsOwn(r))
		require.False(t, NewState().IsOwn(r))
	}
	require.Equal(t, w, Plan("nftnat", both, addrs("10.0.0.1", "10.0.0.2", "10.0.1.1"), recorded))
	again := Plan("nftnat", both, addrs("10.0.0.1", "10.0.1.1"), NewState())
	for _, mark := range again.By {
		require.NotContains(t, []uint32{one, other}, mark)
	}
}

func TestPlanTooMany(t *testing.T) {
	var rules []hostnet.Rule
	var own []netip.Addr
	for i := range 300 {
		a := fmt.Sprintf("10.0.%d.%d", i/250, 1+i%250)
		rules, own = append(rules, from(9, a+"/32", uint32(100+i))), append(own, netip.MustParseAddr(a))
	}
	w := Plan("nftnat", rules, own, NewState())
	require.Len(t, w.By, LastMark-FirstMark+1)
	require.Len(t, w.Unmarked, 300-(LastMark-FirstMark+1))
}

func TestHasSource(t *testing.T) {
	rules := []hostnet.Rule{{Action: unix.FR_ACT_TO_TBL}, from(9, "10.0.0.0/24", 101)}
	require.True(t, HasSource(rules, netip.MustParseAddr("10.0.0.1")))
	require.False(t, HasSource(rules, netip.MustParseAddr("10.0.1.1")))
}
