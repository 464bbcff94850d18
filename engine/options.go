// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nat"
)

// Options say what Open opens. The zero value is the table nftnat of the process's
// own network namespace.
type Options struct {
	// Table is the name of the nftables table, of the inet family. Empty:
	// DefaultTable. Engines with different tables do not know of each other.
	Table string
	// NetNS is the path of the network namespace to work in, such as
	// /run/netns/blue or /proc/812/ns/net; the engine's own threads never stay in
	// it. Empty: that of the process.
	NetNS string
	// LockWait is how long Open waits for another engine to close the table. Zero:
	// not at all.
	LockWait time.Duration
	// ReadOnly reads the table once and takes no lock. Methods that change something return
	// ErrReadOnly.
	ReadOnly bool
	// NoOwner lets every program with CAP_NET_ADMIN change the table, as kernels before
	// Linux 6.9 always do. What other programs change is repaired or accepted: see Run.
	NoOwner bool
	// AsFound is for engines that are open for a moment. A table that can be owned stays
	// so, and is owned while the engine is open; one that cannot stays so, and a new table
	// is one that cannot. NoOwner is ignored. Zero: NoOwner decides.
	AsFound bool
	// NoSysctl leaves IP forwarding as it is. Without forwarding only clients on
	// this host reach a backend.
	NoSysctl bool
	// NoProxies leaves out the userland proxies: clients on loopback addresses and clients
	// of another family than the backend's are not served, and other processes can bind the
	// ports.
	NoProxies bool
	// Loopback is how clients on loopback addresses are served. LoopbackBPF: Open fails where the
	// kernel or a missing privilege keeps eBPF from it. It is ignored with NoProxies and ReadOnly,
	// when they are not served. Zero: LoopbackAuto.
	Loopback Loopback
	// FirstPort and LastPort are the range from which frontends of port 0 are
	// chosen. Zero: 49153 and 65535, the dynamic ports (RFC 6335 section 6) but
	// for the first.
	FirstPort, LastPort uint16
	// Sockets are those that a suspended engine of another process has lent: see
	// Engine.Suspend. Open takes them over, and closes them if it fails. The proxies serve
	// once Begin is called. Nil: Open binds the ports, and the proxies serve at once.
	Sockets *Sockets
	// Store, if set, keeps the state for a reboot, and Open restores from it what the
	// kernel has lost. With ReadOnly it is not used.
	Store Store
	// Log gets what no error is returned for: forwarding that was turned on, bridge ports
	// that were switched, a repaired table, elements that are no mappings. Nil: nothing is
	// logged.
	Log *slog.Logger
	// Progress, if set, is called for each step that Trace is called for, repeatedly during
	// steps that take one port at a time, and with the zero Progress at the end of a
	// change, also of one that failed. It must return at once, and must not call the
	// engine.
	Progress func(Progress)
	// Changes, if set, is called with each change that Apply and ApplyState have made, and these
	// return none: many changes in a slice take more memory than all else. It must not call the
	// engine.
	Changes func(nat.Change)
	// Trace, if set, is called with the name of each step before it is taken. The steps of
	// a change are "reserve", "bind", "forward", "commit", "save" (with a Store), "flows",
	// "open" and "done"; "track" follows "commit" if this host may have connections at added ports; if
	// ranges are replaced, "prepare" follows "commit", and "settle" and "clean" follow "open". Those of loading the table are "adopt"; "repair", if it is
	// damaged; and "ended", if it has records of expired mappings. Trace must not call the
	// engine.
	Trace func(step string)
}

// DefaultTable is the name of the table if Options has none.
const DefaultTable = "nftnat"

// The default range of ports that are chosen: Docker's of 2013, with its last.
const (
	defaultFirstPort = schema.LastMasqueradePort + 1
	defaultLastPort  = 65535
)

func (o Options) withDefaults() Options {
	if o.Table == "" {
		o.Table = DefaultTable
	}
	if o.FirstPort == 0 {
		o.FirstPort = defaultFirstPort
	}
	if o.LastPort == 0 {
		o.LastPort = defaultLastPort
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ReadOnly {
		o.Store = nil
	}
	if o.Trace == nil {
		o.Trace = func(string) {}
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	o.Trace = traceProgress(o.Trace, o.Progress)
	return o
}

func (o Options) validate() error {
	if err := ValidateTableName(o.Table); err != nil {
		return err
	}
	if o.FirstPort > o.LastPort {
		return &nat.InvalidError{
			What: "ports to choose from", Input: fmt.Sprintf("%d-%d", o.FirstPort, o.LastPort),
			Reason: "the range ends before it begins",
		}
	}
	_, err := ParseLoopback(o.Loopback.String())
	return err
}
