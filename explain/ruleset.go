// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// hostFacts is a host whose backends' namespaces are peers.
type hostFacts struct {
	*host.Host
	more *[]string
}

// Peer opens the namespace of a neighbour, which has its address.
func (h hostFacts) Peer(neighbour netip.Addr) (peer, error) {
	link, err := h.PortOf(neighbour)
	if err != nil || link == nil {
		return nil, err
	}
	p, err := h.PeerOf(link)
	if err != nil || p == nil {
		return nil, err
	}
	if a, err := p.Address(neighbour.WithZone("")); err != nil || a == nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// PeerOf opens the namespace of the other end of a link.
func (h hostFacts) PeerOf(link *host.Link) (peer, error) {
	p, err := h.Host.PeerOf(link)
	if err != nil || p == nil {
		return nil, err
	}
	return &peerHost{hostFacts: hostFacts{p, new([]string)}, link: link.Lower}, nil
}

// peerHost is the namespace of a neighbour. Its rules are read if they are asked for.
type peerHost struct {
	hostFacts
	link  int
	rules *ruleset
}

func (p *peerHost) in() int { return p.link }

func (p *peerHost) run(h eval.Hook, packet *eval.Packet) ([]eval.Outcome, error) {
	if err := p.readRules(); err != nil {
		return nil, err
	}
	return p.rules.run(h, packet)
}

func (p *peerHost) readRules() error {
	if p.rules != nil {
		return nil
	}
	reader, err := rules.Open(p.NetNS())
	if err != nil {
		return err
	}
	r := reading{reader: reader}
	if err := r.readRules(context.Background(), p.NetNS(), p.hostFacts); err != nil {
		return errors.Join(err, reader.Close())
	}
	p.rules = r.rules
	return nil
}

func (p *peerHost) tells(a *apart, _ string, _ map[netip.Addr]bool) {
	if p.readRules() == nil { // else nothing is evaluated
		p.rules.tells(a, "", nil)
	}
}

func (p *peerHost) clamps() bool { return p.rules != nil && p.rules.clamps() }

// changed is not asked for: what stops a packet there has just been read.
func (p *peerHost) changed() (bool, error) { return false, nil }

func (p *peerHost) setName(set uint16) string {
	if p.rules == nil {
		return ""
	}
	return p.rules.setName(set)
}

// Close closes what is open of the namespace.
func (p *peerHost) Close() error {
	var errs []error
	if p.rules != nil {
		errs = append(errs, p.rules.close(), p.rules.Close())
	}
	return errors.Join(append(errs, p.Host.Close())...)
}

// Unread says what could not be read.
func (h hostFacts) Unread() []string { return append(slices.Clone(h.Host.Unread()), *h.more...) }

// ruleset evaluates the rules of a namespace.
type ruleset struct {
	*rules.Reader
	nft   *rules.Ruleset
	all   *rules.Ruleset // and tables of iptables-legacy
	facts hostFacts
	netNS int
	sets  *xt.Sets // of ipset; nil: none was asked
	// legacyErr is why those could not be read.
	legacyErr error
	// legacyBridge is set if there may be tables of ebtables-legacy.
	legacyBridge bool
	// calls are the base chains, by what calls them: hooks without a chain need not be asked.
	calls map[call][]*rules.Chain
	got   map[*rules.Set]*lookups
}

// call is a hook of a family.
type call struct {
	family rules.Family
	hook   uint32
}

// lookups are the answers of a set.
type lookups struct {
	elements map[string]element
	whole    bool // all that the set has is in elements
}

type element struct {
	rules.Element
	ok bool
}

// renew takes over what is read each time. Sets of ipset may have other names now.
func (r *ruleset) renew(f hostFacts, legacy []*rules.Table, legacyErr error) error {
	r.facts, r.legacyErr, r.legacyBridge = f, legacyErr, xt.LegacyBridge()
	r.all = &rules.Ruleset{Generation: r.nft.Generation, Tables: slices.Concat(r.nft.Tables, legacy)}
	r.calls = map[call][]*rules.Chain{}
	r.got = map[*rules.Set]*lookups{} // packets and time-outs change sets without a new generation
	for _, t := range r.all.Tables {
		if t.Dormant() {
			continue
		}
		for _, c := range t.Chains {
			if c.Base != nil {
				id := call{t.Family, c.Base.Hook}
				r.calls[id] = append(r.calls[id], c)
			}
		}
	}
	return r.close()
}

func (r *ruleset) close() error {
	if r.sets == nil {
		return nil
	}
	err := r.sets.Close()
	r.sets = nil
	return err
}

// run evaluates a packet at a hook; no outcome: nothing is called there.
func (r *ruleset) run(h eval.Hook, p *eval.Packet) ([]eval.Outcome, error) {
	var hidden error
	if h >= eval.BridgePrerouting && h <= eval.BridgePostrouting && r.legacyBridge {
		hidden = errHiddenTables
	}
	if !r.called(h, p) {
		return nil, hidden
	}
	outcomes, err := eval.Run(r.all, h, *p, r)
	if h >= eval.Prerouting && h <= eval.Postrouting {
		err = errors.Join(err, r.legacyErr)
	}
	return outcomes, errors.Join(err, hidden)
}

// changed reports whether rules of nftables have changed since they were read.
func (r *ruleset) changed() (bool, error) {
	if r.Reader == nil {
		return false, nil
	}
	return r.Changed()
}

// errHiddenTables says that there may be tables of ebtables-legacy: to ask the kernel for one makes it.
var errHiddenTables = errors.New("tables of ebtables-legacy are listed nowhere")

// nfInetIngress is NF_INET_INGRESS.
const nfInetIngress = 5

// called reports whether a hook calls any chain for a packet.
func (r *ruleset) called(h eval.Hook, p *eval.Packet) bool {
	switch h {
	case eval.Ingress:
		return r.ofDevice(call{unix.NFPROTO_NETDEV, unix.NF_NETDEV_INGRESS}, p.In.Name) || r.ofDevice(call{unix.NFPROTO_INET, nfInetIngress}, p.In.Name)
	case eval.Egress:
		return r.ofDevice(call{unix.NFPROTO_NETDEV, unix.NF_NETDEV_EGRESS}, p.Out.Name)
	case eval.BridgePrerouting, eval.BridgeInput, eval.BridgeForward, eval.BridgeOutput, eval.BridgePostrouting:
		return r.calls[call{unix.NFPROTO_BRIDGE, uint32(h - eval.BridgePrerouting)}] != nil
	case eval.ArpInput, eval.ArpOutput:
		return r.calls[call{unix.NFPROTO_ARP, uint32(h - eval.ArpInput)}] != nil
	case eval.Forward:
		family := rules.Family(unix.NFPROTO_IPV6)
		if p.EtherType == unix.ETH_P_IP {
			family = unix.NFPROTO_IPV4
		}
		return r.calls[call{unix.NFPROTO_INET, unix.NF_INET_FORWARD}] != nil || r.calls[call{family, unix.NF_INET_FORWARD}] != nil
	case eval.Prerouting, eval.Input, eval.Output, eval.Postrouting: // of connection tracking and nat too
	}
	return true
}

func (r *ruleset) ofDevice(id call, name string) bool {
	for _, c := range r.calls[id] {
		for _, d := range c.Base.Devices {
			if d == name || strings.HasSuffix(d, "*") && strings.HasPrefix(name, d[:len(d)-1]) {
				return true
			}
		}
	}
	return false
}

// clamps looks for the rules of forwarding that set the option of the segment size.
func (r *ruleset) clamps() bool {
	for _, t := range r.all.Tables {
		if t.Dormant() {
			continue
		}
		for _, c := range t.Chains {
			rs, err := r.Rules(c)
			if err != nil {
				continue
			}
			for _, rl := range rs {
				if slices.ContainsFunc(rl.Exprs, clamp) {
					return true
				}
			}
		}
	}
	return false
}

// clamp reports whether an expression sets the segment size of TCP.
func clamp(e rules.Expr) bool {
	switch e := e.(type) {
	case rules.Exthdr:
		return e.Set && e.Type == tcpOptMSS
	case rules.Target:
		return e.Name == "TCPMSS"
	}
	return false
}

// tcpOptMSS is TCPOPT_MAXSEG.
const tcpOptMSS = 2

// A set that was asked for so many keys is read as a whole, if it is no larger than that.
const (
	manyKeys = 64
	allKeys  = 1 << 18
)

// Get looks up each key once.
func (r *ruleset) Get(set *rules.Set, key []byte) (rules.Element, bool, error) {
	l := r.got[set]
	if l == nil {
		l = &lookups{elements: map[string]element{}}
		r.got[set] = l
	}
	if e, ok := l.elements[string(key)]; ok || l.whole {
		return e.Element, e.ok, nil
	}
	if len(l.elements) == manyKeys && set.Flags&unix.NFT_SET_INTERVAL == 0 {
		if err := r.readWhole(set, l); err == nil && l.whole {
			e := l.elements[string(key)]
			return e.Element, e.ok, nil
		}
	}
	e, ok, err := r.Reader.Get(set, key)
	if err == nil {
		l.elements[string(key)] = element{e, ok}
	}
	return e, ok, err
}

// readWhole reads all elements of a set.
func (r *ruleset) readWhole(set *rules.Set, l *lookups) error {
	list, more, err := r.Elements(set, allKeys)
	if err != nil || more {
		return err
	}
	for _, e := range list {
		if e.CatchAll || e.End != nil {
			return errors.ErrUnsupported
		}
		l.elements[string(e.Key)] = element{e, true}
	}
	l.whole = true
	return nil
}

// Fib answers a fib expression.
func (r *ruleset) Fib(p *eval.Packet, hook, flags, result uint32) ([]byte, error) {
	return fib(r.facts, p, hook, flags, result)
}

// Queue reports whether a program takes packets from a queue of netfilter.
func (r *ruleset) Queue(number uint16) (bool, error) { return r.facts.Queue(number) }

// IPsec reports whether the host has policies of IPsec.
func (r *ruleset) IPsec() (bool, error) { return r.facts.HasXFRM() }

// openSets opens the sets of ipset, once for each renewal.
func (r *ruleset) openSets() (_ *xt.Sets, err error) {
	if r.sets == nil {
		r.sets, err = xt.OpenSets(r.netNS)
	}
	return r.sets, err
}

// IPSet asks a set of ipset.
func (r *ruleset) IPSet(set uint16, q xt.SetQuery) (bool, error) {
	sets, err := r.openSets()
	if err != nil {
		return false, err
	}
	return sets.Test(set, q)
}

// setName returns the name of a set of ipset, or nothing if it cannot be read.
func (r *ruleset) setName(set uint16) string {
	sets, err := r.openSets()
	if err != nil {
		return ""
	}
	name, err := sets.Name(set)
	if err != nil {
		return ""
	}
	return name
}

// Recent reads a list of the match recent.
func (r *ruleset) Recent(list string) ([]xt.RecentEntry, error) { return xt.ReadRecent(r.netNS, list) }
