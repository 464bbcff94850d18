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
	// ReadOnly reads the table once and owns nothing: every method that changes
	// something returns ErrReadOnly.
	ReadOnly bool
	// NoOwner leaves the table open to everybody with CAP_NET_ADMIN, as it is in any
	// case where the kernel cannot keep it (Linux before 6.9). What others do to it is
	// put right, or taken over, as Run says.
	NoOwner bool
	// AsFound is for engines that are open for a moment: the table stays one that can be
	// owned, or one that cannot, as it is found; one that is not there is made open to
	// everybody. Zero: it is made what NoOwner says.
	AsFound bool
	// NoSysctl leaves IP forwarding as it is. Without forwarding only clients on
	// this host reach a backend.
	NoSysctl bool
	// NoProxies leaves out the userland proxies: clients on this host's loopback
	// addresses and of another family than the backend's are not served, and other
	// processes can take the ports.
	NoProxies bool
	// FirstPort and LastPort are the range from which frontends of port 0 are
	// chosen. Zero: 49153 and 65535, the dynamic ports (RFC 6335 section 6) but
	// for the first.
	FirstPort, LastPort uint16
	// Sockets are those that a suspended engine has lent, of another process: see
	// Engine.Suspend. Open takes them over, also if it fails, and the proxies serve from
	// when Begin is called. Nil: the ports are bound, and the proxies serve, at once.
	Sockets *Sockets
	// Store, if set, keeps what there is for a reboot, and Open restores from it what the
	// kernel has lost. An engine that is only read does without.
	Store Store
	// Log is told what an error is not returned for: forwarding that was turned
	// on, bridge ports that were switched, a table that was put right, elements that
	// are no mappings. Nil: nobody.
	Log *slog.Logger
	// Progress, if set, is told how far a change is: of each step that Trace is told of,
	// of steps that are taken a port at a time as they go on, and, with the zero
	// Progress, when the change is over, well or not. It must return at once,
	// and must not call the engine.
	Progress func(Progress)
	// Trace, if set, is called with the name of each step of a change before it is
	// taken: "reserve", "bind", "forward", "commit", "save" (with a Store), "flows",
	// "open", "done"; and of taking over what the kernel holds: "adopt", "repair" where
	// the table is made anew, "ended" where it has notes of what ended. It is for following
	// what the engine does and for tests that stop it at any of them; it must not call the
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
	return nil
}
