// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// check looks whether the kernel has every mapping of a container (CHECK).
func (p *Plugin) check(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if c.PrevResult == nil {
		return errors.New("Required prevResult missing") //nolint:staticcheck // portmap's text
	}
	want, err := c.mappings(args)
	if err != nil || len(want) == 0 {
		return err
	}
	have, _, err := p.Kernel(ctx, c.Table)
	if err != nil {
		return err
	}
	_, socket, err := p.Daemon(ctx, c.Socket, c.Table, false)
	if err != nil && !errors.Is(err, api.ErrNoServer) {
		return err
	}
	kept := recordsOf(socket)
	for i := range want {
		if err := checkMapping(have, &want[i], args.ContainerID, kept); err != nil {
			return err
		}
	}
	return nil
}

// checkMapping looks for the mapping of one port.
func checkMapping(have []nat.Mapping, want *nat.Mapping, containerID string, kept records) error {
	what := nat.DescribeFrontend(*want)
	for i := range have {
		m := &have[i]
		if !overlap(m, want) {
			continue
		}
		if m.Name != want.Name {
			if other, ok := kept.read(m.Name); ok && other.ContainerID == containerID {
				return nil // another network of the container has had it first
			}
			return fmt.Errorf("%s is published as %s by %q", what, *m, m.Name)
		}
		port := m.Backend.Port() + want.Frontend.Port() - m.Frontend.Port()
		if m.Frontend.Addr() != want.Frontend.Addr() || netip.AddrPortFrom(m.Backend.Addr(), port) != want.Backend {
			return fmt.Errorf("%s is published as %s, and not as %s", what, *m, *want)
		}
		return nil
	}
	return errors.New(what + " is not published")
}

// status says whether ADD would find a daemon that works (STATUS).
func (p *Plugin) status(ctx context.Context, args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	client, socket, err := p.daemon(ctx, &c.daemonConfig)
	if err == nil {
		err = client.Health(ctx)
	}
	if err == nil {
		return nil
	}
	code := types.ErrPluginNotAvailable
	if _, present, kernelErr := p.Kernel(ctx, c.Table); kernelErr == nil && !present && used(socket) {
		code = types.ErrLimitedConnectivity // the table has gone
	}
	return types.NewError(code, err.Error(), "")
}

// used reports whether there has been a daemon at a socket: that may be there still, or records of owners.
func used(socket string) bool {
	_, err := os.Lstat(socket)
	if err == nil {
		return true
	}
	names, err := recordsOf(socket).names(namePrefix)
	return err == nil && len(names) != 0
}
