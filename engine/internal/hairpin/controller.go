// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/addrmap"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// Host is what a Controller needs of the engine.
type Host interface {
	// Published returns how many ports lead to a backend through netfilter.
	Published(backend netip.Addr) int
	// BridgeOf returns the bridge that the routing table has a backend on.
	BridgeOf(backend netip.Addr) (index int, ok bool)
	// CanRecord reports whether there is a table that can hold records.
	CanRecord() bool
	// Record changes the records in the table in one transaction.
	Record(removed, added []Record) error
}

// Record says that a bridge port was given hairpin mode for a backend. Ports that had the
// mode before have none.
type Record struct {
	Backend netip.Addr
	Port    string
}

// Controller switches the hairpin mode of the ports that published backends are behind.
type Controller struct {
	host     Host
	log      *slog.Logger
	bridges  Bridges // nil: it is closed, and does nothing
	follower *Follower
	// hooks are those of single bridges, by index, as they were last seen.
	hooks map[int]Hooks
	state
}

// state is all that a controller knows of backends and ports.
type state struct {
	// backends are those that have a record, or that are on a bridge whose frames pass the
	// hooks.
	backends map[netip.Addr]backend
	// ports are those that backends were found behind, by index.
	ports map[int]port
}

type backend struct {
	position
	record string // the port in its record; "": it has none
}

type position struct {
	bridge int          // zero: not known
	mac    HardwareAddr // zero: not known
	port   int          // zero: not known
}

type port struct {
	name   string
	bridge int
	mode   mode
}

type mode int

const (
	modeOurs      mode = iota + 1 // switched on by an engine
	modeOthers                    // was on already
	modeLeftOff                   // was on, and somebody else has switched it off
	modeUntouched                 // not to be switched
)

// New makes a controller. Until Open it does nothing.
func New(host Host, log *slog.Logger) *Controller {
	c := &Controller{host: host, log: log, hooks: map[int]Hooks{}}
	c.state = state{map[netip.Addr]backend{}, map[int]port{}}
	return c
}

// Open opens the bridges of the kernel.
func (c *Controller) Open(s hostnet.Sysctls) error {
	k, err := openKernel(s)
	if err == nil {
		c.Use(k)
	}
	return err
}

// Use has the controller work on these bridges.
func (c *Controller) Use(b Bridges) { c.bridges = b }

// Close closes the bridges, if they are open.
func (c *Controller) Close() (err error) {
	if c.bridges != nil {
		err = c.bridges.Close()
		c.bridges = nil
	}
	return err
}

// Load replaces the records by those of the table.
func (c *Controller) Load(records []Record) {
	for a, b := range c.backends {
		b.record = ""
		c.backends[a] = b
	}
	for _, r := range records {
		b := c.backends[r.Backend]
		b.record = r.Port
		c.backends[r.Backend] = b
	}
	c.prune()
}

// Records returns the records as they are after a draft, which may be nil.
func (c *Controller) Records(d *Draft) []Record {
	if d != nil {
		return d.after.records(state{})
	}
	return c.records(state{})
}

// Diff returns the records that a draft, which may be nil, removes and adds.
func (c *Controller) Diff(d *Draft) (removed, added []Record) {
	if d == nil {
		return nil, nil
	}
	return c.records(d.after), d.after.records(c.state)
}

// Plan decides which bridge ports get hairpin mode, and which lose it. added and removed
// are the numbers of ports that a change publishes and unpublishes for each backend; routes
// lead to the backends of added. Nil: no bridge port changes. Errors are logged, because
// they are no reason to refuse the change.
func (c *Controller) Plan(ctx context.Context, added, removed addrmap.Map[int32], routes hostnet.RouteMap) *Draft {
	if c.bridges == nil {
		return nil
	}
	search := map[netip.Addr]int{}
	for a := range added.Keys {
		// A follower knows when a backend moves.
		bridge, known := routes.Of(a).Bridge, c.follower != nil && c.backends[a].port != 0
		if bridge != 0 && !known {
			search[a] = bridge
		}
	}
	if len(search) == 0 && len(c.backends) == 0 {
		return nil
	}
	d := c.draft()
	maps.DeleteFunc(d.after.backends, func(a netip.Addr, _ backend) bool {
		return c.host.Published(a)-int(removed.Of(a))+int(added.Of(a)) <= 0
	})
	pauses := searchPauses
	if c.follower != nil {
		pauses = searchPausesFollowing
	}
	d.search(ctx, search, pauses)
	return d
}

// Apply switches the ports of a draft, and records them in a transaction of its own. It
// does nothing without a table: the change that creates one makes another plan.
func (c *Controller) Apply(d *Draft) {
	if d == nil || !c.host.CanRecord() {
		return
	}
	undo := d.PutBack()
	if removed, added := c.Diff(d); len(removed)+len(added) != 0 {
		if err := c.host.Record(removed, added); err != nil {
			if undoErr := undo(); undoErr != nil {
				err = fmt.Errorf("%w; and undo: %w", err, undoErr)
			}
			c.log.Warn("hairpin mode of bridge ports could not be recorded, and stays as it was", "error", err)
			return
		}
	}
	d.SwitchOn()
	c.Commit(d)
}

// Commit makes the state after a draft the present one.
func (c *Controller) Commit(d *Draft) {
	if d != nil {
		c.state = d.after
		c.prune()
	}
}

// prune forgets backends without a position and a record, and ports that no backend needs.
func (c *Controller) prune() {
	indices, names := map[int]bool{}, map[string]bool{}
	for a, b := range c.backends {
		if b == (backend{}) {
			delete(c.backends, a)
			continue
		}
		indices[b.port], names[b.record] = true, true
	}
	maps.DeleteFunc(c.ports, func(index int, p port) bool { return !indices[index] && !names[p.name] })
}

// Adopt completes what an engine that was killed has begun: it takes hairpin mode from
// recorded ports that no backend needs, and looks for backends whose port was recorded but
// not switched.
func (c *Controller) Adopt() {
	if c.bridges == nil || len(c.Records(nil)) == 0 {
		return
	}
	ports, err := c.bridges.Ports()
	if err != nil {
		c.log.Warn("recorded bridge ports could not be looked at", "error", err)
		return
	}
	byName := make(map[string]Link, len(ports))
	for _, l := range ports {
		byName[l.Name] = l
	}
	d := c.draft()
	search := map[netip.Addr]int{}
	for a, b := range c.backends {
		if b.record == "" {
			continue
		}
		l, exists := byName[b.record]
		if l.Hairpin {
			c.ports[l.Index] = port{l.Name, l.Bridge, modeOurs} // whether or not the draft can be applied
			d.after.ports[l.Index] = c.ports[l.Index]
		} else if !exists {
			d.renameRecords(b.record, "")
		}
		if c.host.Published(a) == 0 {
			delete(d.after.backends, a)
		} else if bridge, ok := c.host.BridgeOf(a); ok && !l.Hairpin {
			search[a] = bridge
		}
	}
	d.search(context.Background(), search, 0)
	c.Apply(d)
}

// Release takes hairpin mode from ports whose backends have no mappings since some expired.
func (c *Controller) Release() {
	for a := range c.backends {
		if c.host.Published(a) == 0 {
			c.Apply(c.Plan(context.Background(), addrmap.Map[int32]{}, addrmap.Map[int32]{}, hostnet.RouteMap{}))
			return
		}
	}
}

// Purge takes the mode from every recorded port. undo gives it back.
func (c *Controller) Purge() (undo func() error) {
	if c.bridges == nil {
		return func() error { return nil }
	}
	d := c.draft()
	clear(d.after.backends)
	return d.PutBack()
}

// setHairpin sets the mode of those ports that exist.
func (c *Controller) setHairpin(ports []Link, on bool) error {
	var errs []error
	for _, l := range ports {
		if err := c.bridges.SetHairpin(l.Index, on); err != nil && !isGone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
