// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/alloc"
)

// Publish publishes the mappings, all or none, and returns them with the ports that
// were chosen for frontends of port 0. When it returns, packets follow them, and so
// do the UDP flows that were there before.
//
// A mapping that ends by itself and is published already, with the same frontend,
// backend and name, is a lease that is renewed: it ends when the new one does, or never,
// and nothing else changes.
//
// Errors: ErrInvalid (nothing was touched); *ConflictError if a frontend is taken;
// alloc.ErrExhausted if no free port is left to choose; fs.ErrPermission. On any
// error nothing has changed.
func (e *Engine) Publish(ms ...Mapping) ([]Mapping, error) { return e.publish(ms, publishing{}) }

// Retarget publishes the mappings as Publish does, and where a frontend is published
// already it gives that one the new backend, name and time-out: in one transaction,
// with no moment without a target. A frontend is the same if its address is; one
// for any address and one for a single address are in conflict as ever.
// Established TCP connections stay with the old backend; UDP flows follow at once.
func (e *Engine) Retarget(ms ...Mapping) ([]Mapping, error) {
	return e.publish(ms, publishing{retarget: true})
}

// RetargetAndKill is Retarget, and ends established TCP connections to the old
// backends as well.
func (e *Engine) RetargetAndKill(ms ...Mapping) ([]Mapping, error) {
	return e.publish(ms, publishing{retarget: true, kill: true})
}

// publishing is how mappings are published.
type publishing struct {
	retarget bool // also where the frontend is published already
	kill     bool // and what goes to another backend than the new one ends, TCP too
}

func (e *Engine) publish(ms []Mapping, how publishing) (done []Mapping, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.writable(); err != nil {
		return nil, err
	}
	if err := e.validate(ms); err != nil || len(ms) == 0 {
		return nil, err
	}
	hosts := e.newSurvey()
	for i := range ms {
		if err := hosts.check(&ms[i]); err != nil {
			return nil, err
		}
	}
	e.warn(hosts)
	err = e.deciding(func() (err error) {
		done, err = e.publishOnce(ms, change{routes: hosts.routes, killTCP: how.kill}, how.retarget)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", describeAll(ms), err)
	}
	return done, nil
}

// chooseAttempts bounds how many ports, or ranges, are chosen in vain because other
// processes hold one of them. Each costs microseconds; besides those that listen there
// are clients, whose ports the kernel chooses from much the same range.
const chooseAttempts = 1000

// takenError says that another process has a port which the engine chose.
type takenError struct{ port port }

func (e *takenError) Error() string {
	return describeFrontend(e.port.mapping()) + " is held by another process"
}

// publishOnce reserves and commits, with what else there is to the change; where other
// processes hold what it chose, it chooses anew.
func (e *Engine) publishOnce(ms []Mapping, base change, retarget bool) ([]Mapping, error) {
	// What others hold stays reserved meanwhile, so that it is not chosen again.
	var held []port
	defer func() { e.release(held) }()
	for {
		done, err := e.publishChosen(ms, base, retarget)
		var taken *takenError
		if !errors.As(err, &taken) {
			return done, err
		}
		if len(held) == chooseAttempts {
			return nil, e.findHolder(taken.port)
		}
		if err := e.ports[taken.port.proto].Reserve(reservation(taken.port.ap)); err != nil {
			return nil, err
		}
		held = append(held, taken.port)
	}
}

// publishChosen chooses ports once.
func (e *Engine) publishChosen(ms []Mapping, c change, retarget bool) ([]Mapping, error) {
	e.opts.Trace("reserve")
	done, err := e.reserve(ms, &c, retarget)
	if err == nil {
		err = e.commit(c)
	}
	if err != nil {
		e.release(c.added)
		return nil, err
	}
	return done, nil
}

// reserve reserves the frontends of the mappings, and makes of them what the change
// adds and moves. What was reserved before an error is among what it adds.
func (e *Engine) reserve(ms []Mapping, c *change, retarget bool) ([]Mapping, error) {
	done := make([]Mapping, len(ms))
	for i, m := range ms {
		// As the kernel keeps it, so that it equals what Mappings tells.
		m.Expires = m.Expires.Truncate(time.Millisecond)
		done[i] = m
		if m.Frontend.Port() == 0 {
			continue
		}
		for single := range Expand(m) {
			p := portOf(single)
			if have, taken := e.mappings.get(p.frontend); taken && (retarget || have.renewedBy(p.target)) {
				if other, ok := e.inThePlaceOf(p, have); ok {
					return nil, &ConflictError{Want: single, Have: other.mapping()}
				}
				c.moved = append(c.moved, move{p.frontend, have, p.target})
				continue
			}
			if err := e.ports[p.proto].Reserve(reservation(p.ap)); err != nil {
				return nil, e.conflict(single, err)
			}
			c.added = append(c.added, p)
		}
	}
	// Ports are chosen last, so that none is that is asked for further on.
	for i, m := range done {
		if m.Frontend.Port() != 0 {
			continue
		}
		first, err := e.ports[m.Proto].NextRun(reservation(m.Frontend).Addr(), int(m.More)+1)
		if err != nil {
			return nil, fmt.Errorf("choose a port for %s: %w", m, err)
		}
		m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), first)
		done[i] = m
		for single := range Expand(m) {
			c.added = append(c.added, portOf(single))
			c.chosen++
		}
	}
	return done, nil
}

// renewedBy reports whether the target is a lease and the other one the same but for when
// it ends.
func (t target) renewedBy(o target) bool {
	leased := t.expires != 0
	t.expires = o.expires
	return leased && t == o
}

// release gives reserved ports back.
func (e *Engine) release(ports []port) {
	for _, p := range ports {
		e.ports[p.proto].Release(reservation(p.ap))
	}
}

// conflict finds out which mapping stands behind a refused reservation.
func (e *Engine) conflict(want Mapping, err error) error {
	var inUse *alloc.InUseError
	if !errors.As(err, &inUse) {
		return err
	}
	f := frontend{want.Proto, netip.AddrPortFrom(frontendAddr(inUse.Have.Addr()), inUse.Have.Port())}
	have, ok := e.mappings.get(f)
	if !ok {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return &ConflictError{Want: want, Have: f.mapping(have)}
}

// Unpublish removes mappings, all or none, by their protocol, frontend and number
// of ports; nothing else of ms counts. It returns what they were. When it returns,
// new connections are refused, and UDP flows have ended; established TCP connections
// go on, whether netfilter or a proxy carries them.
//
// The error is ErrNotFound if one of the ports is not published with just this
// frontend; nothing has changed then.
func (e *Engine) Unpublish(ms ...Mapping) ([]Mapping, error) { return e.unpublish(ms, false) }

// Kill is Unpublish, and ends established TCP connections to the backends as well,
// except those that the proxy of an earlier mapping of the port still carries.
func (e *Engine) Kill(ms ...Mapping) ([]Mapping, error) { return e.unpublish(ms, true) }

func (e *Engine) unpublish(ms []Mapping, kill bool) (done []Mapping, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.writable(); err != nil {
		return nil, err
	}
	err = e.deciding(func() error {
		done = done[:0]
		c := change{killTCP: kill}
		twice := map[frontend]bool{}
		for _, m := range ms {
			for single := range Expand(m) {
				f := frontendOf(single)
				t, ok := e.mappings.get(f)
				if !ok {
					return e.notPublished(f)
				}
				if !twice[f] {
					twice[f] = true
					c.removed = append(c.removed, port{f, t})
					done = append(done, f.mapping(t))
				}
			}
		}
		if c.empty() {
			return nil
		}
		return e.commit(c)
	})
	if err != nil {
		return nil, fmt.Errorf("unpublish %s: %w", describeAll(ms), err)
	}
	return Collapse(done), nil
}

// notPublished says what is published instead, where the port is but the address
// differs.
func (e *Engine) notPublished(f frontend) error {
	err := fmt.Errorf("%s is %w", describeFrontend(f.mapping(target{})), ErrNotFound)
	for _, a := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		near := frontend{f.proto, netip.AddrPortFrom(a, f.ap.Port())}
		if t, ok := e.mappings.get(near); ok {
			return fmt.Errorf("%w; %s is", err, describeFrontend(near.mapping(t)))
		}
	}
	return err
}

// describeAll names what a call is about: the first of its mappings, and how many
// more there are.
func describeAll(ms []Mapping) string {
	switch len(ms) {
	case 0:
		return "nothing"
	case 1:
		return describeFrontend(ms[0])
	}
	return fmt.Sprintf("%s and %d more", describeFrontend(ms[0]), len(ms)-1)
}

// validate refuses what no host could publish.
func (e *Engine) validate(ms []Mapping) error {
	if err := ValidateAll(ms...); err != nil {
		return err
	}
	now, choice := e.now(), int(e.opts.LastPort)-int(e.opts.FirstPort)+1
	for i := range ms {
		m := &ms[i]
		switch {
		case over(m, now):
			return &InvalidError{What: whatMapping, Input: m.String(),
				Reason: "its time was over at " + m.Expires.Format(time.RFC3339)}
		case m.Frontend.Port() == 0 && int(m.More) >= choice:
			return &InvalidError{What: whatMapping, Input: m.String(),
				Reason: fmt.Sprintf("there are only %d ports to choose from", choice)}
		}
	}
	return nil
}
