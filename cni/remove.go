// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// del unpublishes the ports of a container, if it has any (DEL).
func (p *Plugin) del(ctx context.Context, args *skel.CmdArgs) error {
	r, err := parseRemoval(args.StdinData)
	if err != nil {
		return err
	}
	name := OwnerName(r.Name, args.ContainerID, args.IfName)
	client, socket, err := p.daemon(ctx, &r.daemonConfig)
	switch {
	case err == nil:
		err = unpublish(ctx, client, name)
	case errors.Is(err, api.ErrNoServer):
		err = p.unpublishDirectly(ctx, r.Table, func(other string) bool { return other == name })
	}
	if err != nil {
		return err
	}
	return recordsOf(socket).remove(name)
}

// collect unpublishes the ports of containers that the runtime does not know any more (GC).
func (p *Plugin) collect(ctx context.Context, args *skel.CmdArgs) error {
	r, err := parseRemoval(args.StdinData)
	if err != nil {
		return err
	}
	stays, err := r.stays()
	if stays == nil || err != nil {
		return err
	}
	prefix := networkPrefix(r.Name)
	goes := func(name string) bool { return isName(name) && strings.HasPrefix(name, prefix) && !stays[name] }

	client, socket, err := p.daemon(ctx, &r.daemonConfig)
	switch {
	case err == nil:
		err = unpublishAll(ctx, client, goes)
	case errors.Is(err, api.ErrNoServer):
		err = p.unpublishDirectly(ctx, r.Table, goes)
	}
	if err != nil {
		return err
	}
	return recordsOf(socket).removeAll(goes)
}

// unpublishAll removes what is published for some owners.
func unpublishAll(ctx context.Context, client *api.Client, goes func(string) bool) error {
	ms, err := client.Mappings(ctx)
	if err != nil {
		return err
	}
	return unpublishEach(ctx, client, owners(ms, goes))
}

// unpublishDirectly removes what is published for some owners while no daemon runs.
func (p *Plugin) unpublishDirectly(ctx context.Context, table string, goes func(string) bool) error {
	ms, _, err := p.Kernel(ctx, table)
	if err != nil {
		return err
	}
	names := owners(ms, goes)
	if len(names) == 0 {
		return nil
	}
	return p.Direct(ctx, table, func(direct Publisher) error { return unpublishEach(ctx, direct, names) })
}

// owners returns the names that some mappings have, in order.
func owners(ms []nat.Mapping, wanted func(string) bool) []string {
	names := map[string]bool{}
	for _, m := range ms {
		if wanted(m.Name) {
			names[m.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func unpublishEach(ctx context.Context, from Publisher, names []string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, unpublish(ctx, from, name))
	}
	return errors.Join(errs...)
}

// unpublish removes what is published for an owner, if there is anything.
func unpublish(ctx context.Context, from Publisher, name string) error {
	_, err := from.Remove(ctx, nat.Removal{Name: name})
	if errors.Is(err, nat.ErrNotFound) {
		return nil
	}
	return err
}
