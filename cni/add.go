// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/nftnat/nftnat/nat"
)

// add publishes the ports of a container, all or none, and prints the result of the plugin before.
func (p *Plugin) add(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if c.PrevResult == nil {
		return errors.New("must be called as chained plugin")
	}
	ms, err := c.mappings(args)
	if err != nil {
		return err
	}
	if len(ms) != 0 {
		if err := p.publish(ctx, c, args, ms); err != nil {
			return err
		}
	}
	return types.PrintResult(c.PrevResult, c.CNIVersion)
}

// publish records the owner and publishes its mappings.
func (p *Plugin) publish(ctx context.Context, c *config, args *skel.CmdArgs, ms []nat.Mapping) error {
	client, socket, err := p.daemon(ctx, &c.daemonConfig)
	if err != nil {
		return err
	}
	name, kept := ms[0].Name, recordsOf(socket)
	self := newOwner(c.Name, args.ContainerID, args.IfName, args.Netns)
	fresh := !kept.exists(name)
	// The record is there before anything is published, so that everything that is published can be
	// taken over, and removed.
	if err := kept.write(name, self); err != nil {
		return types.NewError(types.ErrIOFailure, fmt.Sprintf("record the container: %v", err), "")
	}
	var report nat.Report
	pub := publication{
		publisher: client, records: kept, self: self, name: name, mappings: ms,
		replace: c.OnConflict == onConflictReplace, reserved: c.Hold == "" || c.Hold == holdAuto, nameHolder: p.NameHolder,
	}
	err = pub.run(nat.WithReport(ctx, &report))
	printNotes(&report)
	if err != nil && fresh && !unanswered(err) {
		// Nothing is published. If it is not known whether, a DEL removes both.
		err = errors.Join(err, kept.remove(name))
	}
	return err
}

// publication publishes the mappings of an owner.
type publication struct {
	publisher  Publisher
	records    records
	self       owner
	name       string
	mappings   []nat.Mapping // single ports
	replace    bool          // take ports from anybody
	reserved   bool          // share ports that a process reserves for the container
	nameHolder func(*nat.HeldError)

	how     nat.PublishOptions
	gone    string // whose ports are replaced because it has gone; empty: nobody's
	cleared bool   // what the owner had has been removed
}

// run publishes. What stands in the way and need not is taken out of the way, or left out, and then it
// tries again: each time there is one port, or one owner, less.
func (p *publication) run(ctx context.Context) (err error) {
	for range len(p.mappings) + 16 {
		if len(p.mappings) == 0 {
			return nil
		}
		_, err = p.publisher.Publish(ctx, p.how, nat.Collapse(p.mappings)...)
		if err == nil {
			break
		}
		if err := p.resolve(ctx, err); err != nil {
			return err
		}
	}
	if err != nil || p.gone == "" {
		return err
	}
	return p.clear(ctx, p.gone) // the rest of what led to a container that has gone
}

// resolve does something about an error, or returns why nothing can be done.
func (p *publication) resolve(ctx context.Context, err error) error {
	var (
		conflict *nat.ConflictError
		held     *nat.HeldError
	)
	switch {
	case errors.As(err, &conflict):
		return p.resolveConflict(ctx, &conflict.Have, err)
	case errors.As(err, &held):
		return p.resolveHeld(held, err)
	}
	return err
}

// resolveConflict does something about a mapping in the way.
func (p *publication) resolveConflict(ctx context.Context, have *nat.Mapping, err error) error {
	switch {
	case p.replace && !p.how.Replace:
		p.how.Replace = true
		return nil
	case have.Name == p.name && p.how.IfName != p.name:
		p.how = nat.PublishOptions{Replace: true, IfName: p.name} // the container has another address now
		return nil
	case have.Name == p.name && !p.cleared:
		p.cleared = true // it has another frontend, which cannot be replaced
		return unpublish(ctx, p.publisher, p.name)
	}
	other, known := p.records.read(have.Name)
	refused := types.NewError(types.ErrTryAgainLater, err.Error(), "")
	switch {
	case !known || have.Name == p.name:
		return refused
	case other.ContainerID == p.self.ContainerID:
		// Another network of this container has it, and leads there as well.
		count := len(p.mappings)
		p.mappings = slices.DeleteFunc(p.mappings, func(m nat.Mapping) bool { return overlap(&m, have) })
		if len(p.mappings) < count {
			return nil
		}
		return refused
	case !other.gone():
		refused.Details = "by " + other.String()
		return refused
	case p.how.IfName == "":
		// The next try replaces what has this name, and nothing else.
		p.gone, p.how = have.Name, nat.PublishOptions{Replace: true, IfName: have.Name}
		return nil
	}
	return p.clear(ctx, have.Name) // a second one that has gone, or one with another frontend
}

// resolveHeld shares a port if the process that has it only reserves it for the container.
func (p *publication) resolveHeld(held *nat.HeldError, err error) error {
	refused := types.NewError(types.ErrTryAgainLater, err.Error(), "")
	p.nameHolder(held)
	if held.PID != 0 {
		refused.Details = fmt.Sprintf("by %s (pid %d)", held.Command, held.PID)
	}
	if !p.reserved || !reserves(held) {
		return refused
	}
	shared := false
	for i := range p.mappings {
		if m := &p.mappings[i]; m.Hold == nat.HoldOwn && m.Proto == held.Want.Proto && m.Frontend.Port() == held.Address.Port() &&
			addressesOverlap(m.Frontend.Addr(), held.Address.Addr().Unmap()) {
			m.Hold, shared = nat.HoldShared, true
		}
	}
	if !shared {
		return refused
	}
	return nil
}

// reserves reports whether a process has ports and never serves them: from nerdctl 2.1.6 on, the nerdctl
// that executes the plugin and the "sleep" to which it has given its sockets, and the conmon of podman.
func reserves(held *nat.HeldError) bool {
	return held.PID != 0 && !held.Peer.IsValid() && slices.Contains([]string{"sleep", "nerdctl", "conmon"}, held.Command)
}

// clear removes what is published for an owner that has gone, and its record.
func (p *publication) clear(ctx context.Context, name string) error {
	if err := unpublish(ctx, p.publisher, name); err != nil {
		return err
	}
	return p.records.remove(name)
}
