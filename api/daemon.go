// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"net/http"
)

// Daemon is which process serves, and for what.
type Daemon struct {
	// PID is the process, as its own PID namespace numbers it.
	PID int `json:"pid"`
	// Version is that of the program.
	Version string `json:"version"`
	// NetNS is the inode by which the kernel knows the network namespace that the
	// daemon works in (namespaces(7)).
	NetNS uint64 `json:"netns"`
	// Table is the name of the table that holds the mappings, in the inet family.
	Table string `json:"table"`
	// Created is when the table was created, in whole seconds since the machine booted, also those in
	// which it slept (CLOCK_BOOTTIME). It stays while no mapping is lost: whoever serves the table,
	// and whatever others do to it meanwhile. Zero: there is no table yet, or nft(8) or an
	// earlier version made it, which does not write that down.
	Created int64 `json:"created,omitempty"`
}

func (h *handler) getDaemon(http.ResponseWriter, *call) (any, error) { return h.Daemon(), nil }

// Daemon returns which process serves, and for what. Unlike Status it waits for no change, and
// takes as long with many mappings as with none.
func (c *Client) Daemon(ctx context.Context) (Daemon, error) {
	d, err := fetch[Daemon](ctx, c, http.MethodGet, "/v1/daemon", nil)
	if !errors.Is(err, errors.ErrUnsupported) {
		return d, err
	}
	s, err := c.Status(ctx) // an older server says it there alone
	return Daemon{PID: s.PID, Version: s.Version, NetNS: s.NetNS, Table: s.Table.Name}, err
}
