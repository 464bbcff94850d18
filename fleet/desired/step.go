// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"strings"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/nat"
)

// Step makes the daemon have what etcd has told. An error is about the daemon as a whole: then it is to
// be called again later. What the daemon refuses is in the report.
func (r *Reconciler) Step(ctx context.Context) error {
	r.stepping.Lock()
	defer r.stepping.Unlock()
	var err error
	for range 5 { // others change the daemon at the same time
		if err = r.step(ctx); !errors.Is(err, errChanged) {
			break
		}
		r.loaded = false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	away := ""
	if err != nil {
		away, r.loaded = err.Error(), false
	}
	if away != r.away && away != "" {
		r.log.Warn("the daemon does not do what the fleet wants", "error", err)
	}
	r.away = away
	return err
}

// errChanged: the daemon does not have what was read of it before.
var errChanged = errors.New("the daemon's mappings change all the time")

func (r *Reconciler) step(ctx context.Context) error {
	r.mu.Lock()
	if r.lost {
		r.lost, r.loaded = false, false
	}
	told := r.told
	r.mu.Unlock()
	if !told {
		return nil
	}
	if !r.loaded {
		if err := r.load(ctx); err != nil {
			r.mu.Lock()
			r.lost = true
			r.mu.Unlock()
			return err
		}
	}
	p, ok := r.plan()
	if !ok {
		return nil
	}
	faults := map[thing]keys.Fault{}
	if err := r.createNetworks(ctx, p.networks, faults); err != nil {
		return r.undo(p, err)
	}
	refused, err := r.exchangeAll(ctx, p.mappings)
	if err == nil && len(refused) != 0 { // they may have waited for others
		refused, err = r.exchangeEach(ctx, refused, faults)
	}
	if err != nil {
		return r.undo(p, err)
	}
	if err := r.removeNetworks(ctx, p.networks, faults); err != nil {
		return r.undo(p, err)
	}
	r.finish(p, refused, faults)
	return nil
}

// undo makes what was planned be planned again.
func (r *Reconciler) undo(p plan, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range p.mappings {
		r.dirty[x.thing] = true
	}
	for _, n := range p.networks {
		r.dirty[n.thing] = true
	}
	return err
}

// load reads what the daemon has of the fleet. Everything is to be looked at then.
func (r *Reconciler) load(ctx context.Context) error {
	ms, err := r.daemon.Mappings(ctx)
	if err != nil {
		return err
	}
	ns, err := r.daemon.Networks(ctx)
	if err != nil {
		return err
	}
	r.have, r.networks = map[string][]nat.Mapping{}, map[string]nat.Network{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range ms {
		if name, ours := strings.CutPrefix(m.Name, keys.MappingPrefix); ours {
			r.have[name] = append(r.have[name], m)
			r.dirty[thing{keys.KindMapping, name}] = true
		}
	}
	for name, ms := range r.have {
		r.have[name] = nat.Collapse(ms)
	}
	for _, n := range ns {
		if name, ours := strings.CutPrefix(n.Name, keys.NetworkPrefix); ours {
			r.networks[name] = n
			r.dirty[thing{keys.KindNetwork, name}] = true
		}
	}
	for t := range r.items.all {
		r.dirty[t] = true
	}
	r.loaded = true
	return nil
}

// exchangeAll exchanges everything in one transaction. What the daemon refuses it finds by halves, and
// does the rest.
func (r *Reconciler) exchangeAll(ctx context.Context, xs []exchange) (refused []exchange, err error) {
	if len(xs) == 0 {
		return nil, nil
	}
	var x nat.Exchange
	for i := range xs {
		x.Remove = append(x.Remove, xs[i].change.Remove...)
		x.Publish = append(x.Publish, xs[i].change.Publish...)
	}
	_, err = r.daemon.Exchange(ctx, x)
	switch {
	case err == nil:
		for i := range xs {
			r.done(&xs[i])
		}
		return nil, nil
	case !refusal(err):
		return nil, err
	case errors.Is(err, nat.ErrNotFound): // not what was read
		return nil, errChanged
	case len(xs) == 1:
		return xs, nil
	}
	half := len(xs) / 2
	refused, err = r.exchangeAll(ctx, xs[:half])
	if err != nil {
		return nil, err
	}
	more, err := r.exchangeAll(ctx, xs[half:])
	return append(refused, more...), err
}

// exchangeEach tries what was refused once more, one after another, and says why.
func (r *Reconciler) exchangeEach(ctx context.Context, xs []exchange, faults map[thing]keys.Fault) (refused []exchange, err error) {
	for i := range xs {
		x := &xs[i]
		_, err := r.daemon.Exchange(ctx, x.change)
		switch {
		case err == nil:
			r.done(x)
			continue
		case !refusal(err):
			return nil, err
		case errors.Is(err, nat.ErrNotFound):
			return nil, errChanged
		}
		fault := keys.Fault{Reason: reason(err)}
		if x.item != nil {
			fault.Key, fault.Revision = x.item.Key(), x.at
		}
		faults[x.thing] = fault
		refused = append(refused, *x)
	}
	return refused, nil
}

// reason is the error of an exchange without what was asked.
func reason(err error) string {
	text := err.Error()
	if rest, ok := strings.CutPrefix(text, "exchange "); ok {
		if _, rest, ok = strings.Cut(rest, ": "); ok {
			return rest
		}
	}
	return text
}

// done notes what the daemon has now.
func (r *Reconciler) done(x *exchange) {
	if len(x.want) == 0 {
		delete(r.have, x.name)
	} else {
		r.have[x.name] = x.want
	}
}

// finish notes what was applied and what was not.
func (r *Reconciler) finish(p plan, refused []exchange, faults map[thing]keys.Fault) {
	mappings := 0
	for _, ms := range r.have {
		mappings += len(ms)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied, r.counts = p.revision, [2]int{mappings, len(r.networks)}
	for t, f := range faults {
		r.refused[t] = f
		r.log.Warn("an item cannot be applied on this host", "key", f.Key, "revision", f.Revision, "error", f.Reason)
	}
	if n := len(p.mappings) - len(refused); n != 0 {
		r.log.Info("applied", "revision", p.revision, "items", n)
	}
}

// refusal reports whether an error is the daemon's answer to what it was asked, and not about the daemon.
func refusal(err error) bool {
	var op *net.OpError
	switch {
	case errors.Is(err, api.ErrNoServer), errors.Is(err, api.ErrBusy), errors.Is(err, nat.ErrClosed), errors.Is(err, errors.ErrUnsupported),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, fs.ErrPermission), errors.As(err, &op):
		return false
	}
	return true
}
