// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// reading is what an Explainer reads a network namespace by.
type reading struct {
	ns     *os.File // nil: that of the process
	reader *rules.Reader
	host   *host.Host
	rules  *ruleset
}

// open opens the network namespace.
func (e *Explainer) open() error {
	r := &reading{}
	fd := 0
	if e.options.NetNS != "" {
		f, err := os.Open(e.options.NetNS)
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		r.ns, fd = f, int(f.Fd())
	}
	var err error
	if r.reader, err = rules.Open(fd); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return errors.Join(err, r.close())
	}
	e.read = func(ctx context.Context) (facts, evaluator, error) { return r.read(ctx, fd) }
	e.end = r.close
	return nil
}

func (r *reading) close() error {
	var errs []error
	if r.rules != nil {
		errs = append(errs, r.rules.close())
	}
	if r.host != nil {
		errs = append(errs, r.host.Close())
	}
	if r.reader != nil {
		errs = append(errs, r.reader.Close())
	}
	if r.ns != nil {
		errs = append(errs, r.ns.Close())
	}
	return errors.Join(errs...)
}

// read reads the host anew, and the rules if they have changed.
func (r *reading) read(ctx context.Context, fd int) (facts, evaluator, error) {
	if r.host != nil {
		if err := r.host.Close(); err != nil {
			return nil, nil, err
		}
		r.host = nil
	}
	h, err := host.Open(fd)
	if err != nil {
		return nil, nil, err
	}
	r.host = h
	// Tables of iptables-legacy have no generation, and are few.
	legacy, err := xt.LegacyTables(fd)
	if err != nil {
		return nil, nil, err
	}
	if r.rules != nil && r.reader != nil {
		if changed, err := r.reader.Changed(); err == nil && !changed {
			return hostFacts{h}, r.rules, r.rules.renew(h, legacy)
		}
	}
	rs := &rules.Ruleset{}
	if r.reader != nil {
		if rs, err = r.reader.Read(ctx); err != nil {
			return nil, nil, err
		}
	}
	if r.rules != nil {
		err = r.rules.close()
	}
	r.rules = &ruleset{Reader: r.reader, nft: rs, netNS: fd, got: map[got]element{}}
	return hostFacts{h}, r.rules, errors.Join(err, r.rules.renew(h, legacy))
}

// hostFacts is a host whose backends' namespaces are peers.
type hostFacts struct{ *host.Host }

// Peer opens the namespace of a backend.
func (h hostFacts) Peer(backend netip.Addr) (peer, error) {
	p, err := h.Host.Peer(backend)
	if err != nil || p == nil {
		return nil, err
	}
	return p, nil
}

// ruleset evaluates the rules of a namespace.
type ruleset struct {
	*rules.Reader
	nft   *rules.Ruleset
	all   *rules.Ruleset // and tables of iptables-legacy
	host  *host.Host
	got   map[got]element
	netNS int
	sets  *xt.Sets // nil: none was asked
}

// renew takes over what is read each time. Sets may have other names now.
func (r *ruleset) renew(h *host.Host, legacy []*rules.Table) error {
	r.host = h
	r.all = &rules.Ruleset{Generation: r.nft.Generation, Tables: slices.Concat(r.nft.Tables, legacy)}
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

type got struct {
	set *rules.Set
	key string
}

type element struct {
	rules.Element
	ok bool
}

func (r *ruleset) run(h eval.Hook, p *eval.Packet) ([]eval.Outcome, error) {
	return eval.Run(r.all, h, *p, r)
}

// Queue reports whether a program takes packets from a queue of netfilter.
func (r *ruleset) Queue(number uint16) (bool, error) { return r.host.Queue(number) }

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

// Get looks up each key once.
func (r *ruleset) Get(set *rules.Set, key []byte) (rules.Element, bool, error) {
	id := got{set, string(key)}
	if e, ok := r.got[id]; ok {
		return e.Element, e.ok, nil
	}
	e, ok, err := r.Reader.Get(set, key)
	if err == nil {
		r.got[id] = element{e, ok}
	}
	return e, ok, err
}

// Fib answers a fib expression.
func (r *ruleset) Fib(p *eval.Packet, hook, flags, result uint32) ([]byte, error) {
	return fib(hostFacts{r.host}, p, hook, flags, result)
}

// IPSet asks a set of ipset.
func (r *ruleset) IPSet(set uint16, q xt.SetQuery) (bool, error) {
	if r.sets == nil {
		var err error
		if r.sets, err = xt.OpenSets(r.netNS); err != nil {
			return false, err
		}
	}
	return r.sets.Test(set, q)
}

// Recent reads a list of the match recent.
func (r *ruleset) Recent(list string) ([]xt.RecentEntry, error) { return xt.ReadRecent(r.netNS, list) }
