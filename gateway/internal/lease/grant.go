// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// attempts bounds how many ports are tried because programs of the host hold those that were picked.
const attempts = 16

// Grant gives a client a port, or renews the lease that it has for its own. The lease may be of another port than was
// asked for, unless the request is Exact.
//
// A lease of NAT-PMP or PCP is known by the client and its port: what was asked for as External does not move it, and
// with Exact is an [ErrTaken] if it is another port. PCP takes over a lease of NAT-PMP. Otherwise what leads to that port already, an operator's mapping
// or a lease of another kind, is returned as it is. A lease of IGD is known by External, and the client that
// has it may change it; who would get another port than External gets that of the same request, if there was one.
//
// Errors: [ErrInvalid], [ErrDenied], [ErrKey], [ErrTaken], [ErrQuota], [ErrFull], [ErrSources], [ErrNoAddress] and [ErrDaemon].
func (l *Leases) Grant(ctx context.Context, r Request) (Lease, error) {
	granted, err := l.grant(ctx, &r)
	if err != nil {
		l.Refuse(r.Kind, r.Client, r.words(), err.Error())
	}
	return granted, err
}

// words says what is asked for, for people.
func (r *Request) words() string {
	if r.External == 0 {
		return fmt.Sprintf("any port to %s %d", r.Proto, r.Internal)
	}
	return fmt.Sprintf("%s %d to port %d", r.Proto, r.External, r.Internal)
}

func (l *Leases) grant(ctx context.Context, r *Request) (Lease, error) {
	if err := r.check(); err != nil {
		return Lease{}, err
	}
	if err := l.await1st(ctx); err != nil {
		return Lease{}, err
	}
	var err error
	for range attempts {
		var c *change
		if c, err = l.plan(ctx, r); err != nil {
			return Lease{}, err
		}
		if c.unchanged {
			return c.want, nil
		}
		err = l.publish(ctx, c)
		l.done(c)
		if err == nil {
			return c.want, nil
		}
		if !errors.Is(err, ErrTaken) {
			return Lease{}, err
		}
		l.forget(c.had)
		if r.Exact {
			return Lease{}, err
		}
	}
	return Lease{}, err
}

// check refuses what no protocol should have passed on, and makes the rest fit for a name.
func (r *Request) check() error {
	switch {
	case r.Kind < PMP || r.Kind > IGD, r.Proto != nat.TCP && r.Proto != nat.UDP, !r.Client.Is4(), r.Internal == 0, r.Exact && r.External == 0:
		return ErrInvalid
	case r.Kind == PCP && !isNonce(r.Key):
		return ErrInvalid
	case slices.ContainsFunc(r.From, func(p netip.Prefix) bool { return !p.IsValid() || !p.Addr().Is4() }):
		return ErrInvalid
	}
	switch r.Kind {
	case PMP:
		r.Key, r.Text, r.SetText = "", "", false
	case PCP:
		r.Text = clean(r.Text, len("pcp: ")+nonceDigits)
	case IGD:
		r.Key, r.Text, r.SetText = clean(r.Key, len("igd:")), "", false
	}
	return nil
}

// downTime is how long the daemon is waited for. If it has not answered for as long, nobody waits.
const downTime = 2 * time.Second

// await1st waits until the mappings have been read for the first time.
func (l *Leases) await1st(ctx context.Context) error {
	select {
	case <-l.ready:
		return nil
	default:
	}
	timer := time.NewTimer(downTime)
	defer timer.Stop()
	select {
	case <-l.ready:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return ErrDaemon
}

// change is a lease on its way to the daemon.
type change struct {
	want Lease
	had  *entry // the lease that is renewed or changed; nil: it is a new one
	// unchanged is whether there is nothing to do.
	unchanged bool
	// replaces is the name of the mapping that is replaced; empty: none is, or it differs in its expiry only.
	replaces string
	mapping  nat.Mapping
	targets  []target // that others wait for
	counted  bool     // see count
}

// plan decides what a request leads to. After a success, done has to be called, unless nothing is to be done.
func (l *Leases) plan(ctx context.Context, r *Request) (*change, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		t := target{r.Client, r.Proto, r.Internal}
		have := l.existing(r, t)
		wait := l.busy[t]
		if have != nil && wait == nil {
			wait = l.busy[have.target()]
		}
		if wait == nil {
			return l.decide(r, t, have)
		}
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDaemon, err)
		}
	}
}

// existing returns what a request renews, changes or is answered with. Nil: nothing.
func (l *Leases) existing(r *Request, t target) *entry {
	if r.Kind != IGD {
		return l.index.find(t)
	}
	if e := l.index.entries[slot{r.Proto, r.External}]; e != nil && e.Kind == IGD && e.Client == r.Client {
		return e
	}
	if r.Exact || r.External != 0 && l.rules.allow(r.Client, r.External, r.Internal) && l.taken(r, r.External) == nil {
		return nil
	}
	// It would get another port than it asks for: the one that it has got by the same request, of which it may not have heard.
	return l.index.same(t, r)
}

func (l *Leases) decide(r *Request, t target, have *entry) (*change, error) {
	now := l.now()
	c := &change{want: Lease{
		Kind: r.Kind, Key: r.Key, Client: r.Client, Proto: r.Proto, Internal: r.Internal, From: r.From,
	}}
	if r.SetText {
		c.want.Text = r.Text
	}
	if d := l.limits.clamp(r.Kind, r.Lifetime); d != 0 {
		c.want.Expires = now.Add(d).UTC().Truncate(time.Millisecond)
	}
	var before nat.Mapping
	if have != nil {
		if r.Kind != IGD {
			if r.Exact && r.External != have.External {
				return nil, &TakenError{Proto: r.Proto, Port: have.External, Holder: "the client itself, whose port it leads to"}
			}
			if have.Kind == 0 || have.Kind == IGD || have.Kind == PCP && r.Kind == PMP {
				return &change{want: have.Lease, unchanged: true}, nil
			}
			if have.Kind == PCP && have.Key != r.Key {
				return nil, ErrKey
			}
		}
		if !l.rules.allow(r.Client, have.External, r.Internal) {
			return nil, ErrDenied
		}
		c.had, c.want.External = have, have.External
		if !r.SetText && have.Kind == PCP {
			c.want.Text = have.Text
		}
		if r.AddFrom {
			c.want.From = slices.Concat(have.From, r.From)
		}
		var err error
		if before, err = have.mapping(); err != nil {
			return nil, err
		}
	} else {
		port, err := l.choose(r, now)
		if err != nil {
			return nil, err
		}
		c.want.External = port
	}
	var err error
	if c.mapping, err = c.want.mapping(); err != nil {
		return nil, err
	}
	c.want.From = c.mapping.From.Prefixes()
	if have != nil {
		renewed := before
		renewed.Expires = c.mapping.Expires
		if c.mapping == before {
			return &change{want: c.want, unchanged: true}, nil
		}
		if renewed != c.mapping || before.Expires.IsZero() {
			c.replaces = before.Name
		}
		c.targets = append(c.targets, have.target())
	} else {
		l.asked[r.Client]++
	}
	at := slot{r.Proto, c.want.External}
	l.index.ports.claim(at, r.Client, have == nil && l.index.entries[at.companion()] == nil)
	if !slices.Contains(c.targets, t) {
		c.targets = append(c.targets, t)
	}
	done := make(chan struct{})
	for _, t := range c.targets {
		l.busy[t] = done
	}
	return c, nil
}

// forget removes a lease from the index which the daemon has just said is another mapping by now, in case that its event has yet
// to come: its client gets another port. Nil: it does nothing.
func (l *Leases) forget(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e != nil && l.index.entries[e.slot()] == e {
		l.index.remove(e.slot())
	}
}

// done ends a change, whatever became of it.
func (l *Leases) done(c *change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index.ports.unclaim(slot{c.want.Proto, c.want.External})
	l.count(c)
	close(l.busy[c.targets[0]])
	for _, t := range c.targets {
		delete(l.busy, t)
	}
}

// count has a new lease no longer be one that is asked for: the index counts it, or it came to nothing.
func (l *Leases) count(c *change) {
	if c.had != nil || c.counted {
		return
	}
	c.counted = true
	if l.asked[c.want.Client]--; l.asked[c.want.Client] == 0 {
		delete(l.asked, c.want.Client)
	}
}

// choose returns a port for a new lease.
func (l *Leases) choose(r *Request, now time.Time) (uint16, error) {
	allowed := l.rules.allowed(r.Client, r.Internal)
	if len(allowed) == 0 {
		return 0, ErrDenied
	}
	if l.index.count(r.Client)+l.asked[r.Client] >= l.limits.Quota {
		return 0, ErrQuota
	}
	if !l.address.IsValid() {
		return 0, ErrNoAddress
	}
	p := l.index.ports
	p.expire(now)
	permitted := func(port uint16) bool {
		return slices.ContainsFunc(allowed, func(a Ports) bool { return a.has(port) })
	}
	if r.Exact {
		switch {
		case permitted(r.External):
		case r.Kind == IGD:
			return 0, ErrDenied
		default:
			return 0, &TakenError{Proto: r.Proto, Port: r.External, Holder: "the rules", Other: true}
		}
		if err := l.taken(r, r.External); err != nil {
			return 0, err
		}
		return r.External, nil
	}
	// The number that was asked for, that which the client has for its port over the other protocol, and its own.
	for _, port := range []uint16{r.External, l.sibling(r), r.Internal} {
		if port != 0 && permitted(port) && l.taken(r, port) == nil {
			return port, nil
		}
	}
	if port, ok := p.pick(allowed); ok {
		return port, nil
	}
	return 0, ErrFull
}

// sibling returns the port that leads to the client's port over the other protocol; zero: there is none.
func (l *Leases) sibling(r *Request) uint16 {
	other := slot{proto: r.Proto}.companion()
	if e := l.index.find(target{r.Client, other.proto, r.Internal}); e != nil {
		return e.External
	}
	return 0
}

// taken returns a [*TakenError] if a port cannot be given to a client, as far as is known here.
func (l *Leases) taken(r *Request, port uint16) error {
	at := slot{r.Proto, port}
	by := func(holder string, other bool) error {
		return &TakenError{Proto: at.proto, Port: port, Holder: holder, Other: other}
	}
	mine := false
	for _, s := range []slot{at, at.companion()} {
		e := l.index.entries[s]
		switch {
		case e == nil:
		case s != at && e.Client == r.Client:
			mine = true
		case e.Kind == 0:
			return by(fmt.Sprintf("the mapping %q", e.Key), true)
		default:
			return by("client "+e.Client.String(), false)
		}
	}
	if c := l.index.ports.claims[port]; c != nil {
		if c.client != r.Client || c.protos[at.proto] {
			return by("client "+c.client.String(), false)
		}
		mine = true
	}
	if mine { // the daemon knows what else is there
		return nil
	}
	if holder := l.index.ports.taken(port, r.Client, r.Exact); holder != "" {
		return by(holder, true)
	}
	return nil
}
