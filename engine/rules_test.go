// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/answers"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// fakePolicy is the policy routing of a host with the local addresses of the fakes. Packets
// from sources that a rule is for do not reach the backends.
type fakePolicy struct {
	rules []hostnet.Rule
	calls int
	// dies is after how many changes of rules the process is killed. Zero: never.
	dies int
}

var errKilled = errors.New("the process was killed")

func (p *fakePolicy) Rules(is4 bool) ([]hostnet.Rule, error) {
	return slices.DeleteFunc(slices.Clone(p.rules), func(r hostnet.Rule) bool { return r.Is4 != is4 }), nil
}

func (p *fakePolicy) change() error {
	if p.dies != 0 && p.calls == p.dies {
		return errKilled
	}
	p.calls++
	return nil
}

func (p *fakePolicy) AddRule(r hostnet.Rule) error {
	if err := p.change(); err != nil {
		return err
	}
	if slices.Contains(p.rules, r) {
		return unix.EEXIST
	}
	behind := slices.IndexFunc(p.rules, func(o hostnet.Rule) bool { return o.Priority > r.Priority })
	if behind < 0 {
		behind = len(p.rules)
	}
	p.rules = slices.Insert(p.rules, behind, r)
	return nil
}

func (p *fakePolicy) DeleteRule(r hostnet.Rule) error {
	if err := p.change(); err != nil {
		return err
	}
	if i := slices.Index(p.rules, r); i >= 0 {
		p.rules = slices.Delete(p.rules, i, i+1)
	}
	return nil
}

func (p *fakePolicy) Addresses() (addrs []netip.Addr, err error) {
	for _, a := range []string{local4, otherLocal4, local6, otherLocal6} {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, nil
}

func (p *fakePolicy) WayTo(_, from netip.Addr) (hostnet.Way, error) {
	if from.IsValid() && slices.ContainsFunc(p.rules, func(r hostnet.Rule) bool { return r.From.IsValid() && r.From.Contains(from) }) {
		return hostnet.Way{Link: 2}, nil
	}
	return hostnet.Way{Link: 1}, nil
}

func (p *fakePolicy) Close() {}

// ofEngines counts the rules of engines.
func (p *fakePolicy) ofEngines() (n int) {
	for _, r := range p.rules {
		if r.Protocol == answers.Protocol {
			n++
		}
	}
	return n
}

func (p *fakePolicy) add(addr string, table uint32) {
	a := netip.MustParseAddr(addr)
	p.rules = append(p.rules, hostnet.Rule{Is4: a.Is4(), Priority: 100, From: netip.PrefixFrom(a, a.BitLen()), Action: unix.FR_ACT_TO_TBL, Table: table})
}

// openRules opens an engine on a host with rules.
func (b *testbed) openRules(t *testing.T, p *fakePolicy) *Engine {
	t.Helper()
	e := b.open(t)
	e.core.policy = p
	return e
}

// recorded lists the elements about rules.
func recorded(b *testbed) (lines []string) {
	for _, el := range elementsIn(b.kernel.Dump()) {
		if strings.HasPrefix(el, "answer") || strings.HasPrefix(el, "proxied_sources") {
			lines = append(lines, el)
		}
	}
	return lines
}

func TestFollowRules(t *testing.T) {
	b, p := newTestbed(), &fakePolicy{}
	e := b.openRules(t, p)
	publish(t, e, "80->172.30.0.2:80")
	require.NoError(t, e.core.followRules())
	require.Zero(t, p.calls)
	require.Empty(t, recorded(b))

	p.add(local4, 102)
	p.add(local6, 103)
	require.NoError(t, e.core.followRules())
	require.Equal(t, 4, p.ofEngines(), "nothing of IPv6 is published")
	require.Len(t, recorded(b), 3)
	publish(t, e, "[::]:86->[fd00:30::2]:80")
	require.Equal(t, 8, p.ofEngines())
	found := recorded(b)
	require.Len(t, found, 6)

	// Nothing changes without a change, and a new engine finds all as it is.
	calls, elements := p.calls, b.kernel.Dump()
	require.NoError(t, e.core.followRules())
	require.NoError(t, e.Close())
	e = b.openRules(t, p)
	require.NoError(t, e.core.followRules())
	require.Equal(t, elements, b.kernel.Dump())
	require.Equal(t, calls, p.calls)

	require.NoError(t, unpublishes("80->172.30.0.2:80")(e))
	require.Equal(t, 4, p.ofEngines())
	require.NoError(t, e.Purge(t.Context()))
	require.Zero(t, p.ofEngines())
	require.Len(t, p.rules, 2)
}

// Whenever the process is killed, the next engine removes what has lost its reason, and makes
// what is missing.
func TestFollowRulesKilled(t *testing.T) {
	change := func(p *fakePolicy, b *testbed) *Engine {
		p.add(local4, 102)
		p.add(otherLocal4, 104)
		p.add(local6, 103)
		e := b.openRules(t, p)
		publish(t, e, "80->172.30.0.2:80", "[::]:86->[fd00:30::2]:80")
		require.NoError(t, e.core.followRules())
		// One rule goes, and another is for a different table now.
		p.rules = slices.DeleteFunc(p.rules, func(r hostnet.Rule) bool {
			return r.Protocol == 0 && (r.Table == 104 || r.Table == 103)
		})
		p.add(local6, 105)
		return e
	}
	b, p := newTestbed(), &fakePolicy{}
	e := change(p, b)
	begin := p.calls
	require.NoError(t, e.core.followRules())
	want, rules := recorded(b), p.ofEngines()
	require.Equal(t, 8, rules)
	require.Len(t, want, 6)
	for dies := begin; dies < p.calls; dies++ {
		t.Run(fmt.Sprint(dies-begin), func(t *testing.T) {
			for _, stays := range []bool{true, false} {
				b, p := newTestbed(), &fakePolicy{}
				e := change(p, b)
				p.dies = dies
				require.ErrorIs(t, e.core.followRules(), errKilled)
				p.dies = 0
				if !stays {
					p.rules = slices.DeleteFunc(p.rules, func(r hostnet.Rule) bool { return r.Protocol == 0 })
				}
				next := b.openRules(t, p)
				require.NoError(t, next.core.followRules())
				if stays {
					require.Equal(t, want, recorded(b))
					require.Equal(t, rules, p.ofEngines())
				} else {
					require.Empty(t, recorded(b))
					require.Zero(t, p.ofEngines())
				}
			}
		})
	}
}

// Flows that the host has begun from an address end when proxies come to serve it.
func TestFollowRulesEndsFlows(t *testing.T) {
	b, p := newTestbed(), &fakePolicy{}
	e := b.openRules(t, p)
	publish(t, e, "80->172.30.0.2:80/udp", "80->172.30.0.2:80")
	flow := func(proto nat.Proto, from, backend string, status conntrack.Status) conntrack.Flow {
		at := func(a string, port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(a), port) }
		return conntrack.Flow{
			Proto: uint8(proto), Status: status,
			Src: at(from, 4000), Dst: at(local4, 80), ReplySrc: at(backend, 80), ReplyDst: at(from, 4000),
		}
	}
	const answered = conntrack.StatusDNAT | conntrack.StatusSeenReply
	stay := []conntrack.Flow{
		flow(nat.TCP, local4, "172.30.0.2", answered), flow(nat.UDP, otherLocal4, "172.30.0.2", answered),
		flow(nat.UDP, local4, "172.30.0.9", answered), flow(nat.UDP, local4, "172.30.0.2", conntrack.StatusSeenReply),
	}
	end := []conntrack.Flow{flow(nat.UDP, local4, "172.30.0.2", answered), flow(nat.TCP, local4, "172.30.0.2", conntrack.StatusDNAT)}
	b.flows.flows = slices.Concat(stay, end)
	p.add(local4, 102)
	require.NoError(t, e.core.followRules())
	require.Equal(t, stay, b.flows.flows)
	passes := len(b.flows.passes)
	require.NoError(t, e.core.followRules())
	require.Len(t, b.flows.passes, passes)
}

// An engine does not touch rules of another one, even if both have chosen one mark.
func TestFollowRulesOfOthers(t *testing.T) {
	b, p := newTestbed(), &fakePolicy{}
	p.add(local4, 102)
	e := b.openRules(t, p)
	publish(t, e, "80->172.30.0.2:80")
	require.NoError(t, e.core.followRules())
	own := slices.Clone(p.rules)

	b = newTestbed()
	e = b.openRules(t, p)
	publish(t, e, "81->172.30.0.2:80")
	require.NoError(t, e.core.followRules())
	require.Equal(t, 8, p.ofEngines())
	require.NoError(t, e.Purge(t.Context()))
	require.Equal(t, own, p.rules)
}

// What others write into the record, or delete from it, is put right.
func TestFollowRulesRepairs(t *testing.T) {
	b, p := newTestbed(), &fakePolicy{}
	p.add(local4, 102)
	e := b.openRules(t, p)
	publish(t, e, "80->172.30.0.2:80")
	require.NoError(t, e.core.followRules())
	want := b.kernel.Dump()
	b.write(t, nft.Element{Set: "answers4", Key: nft.AddrKey(netip.MustParseAddr("10.0.0.1")), Mark: 7},
		nft.Element{Set: "proxied_sources4", Key: nft.AddrKey(netip.MustParseAddr("10.0.0.1"))},
		nft.Element{Set: "answer_marks6", Key: nft.MarkKey(9)},
		nft.Element{Set: "answer_marks6", Key: nft.MarkKey(10), Comment: "x"})
	require.NoError(t, e.core.table.Check())
	e.core.table.MarkStale()
	require.NoError(t, e.core.follow(t.Context()))
	require.Equal(t, want, b.kernel.Dump())

	b.kernel.Flush()
	e.core.table.MarkStale()
	require.NoError(t, e.core.follow(t.Context()))
	require.Equal(t, want, b.kernel.Dump())
}
