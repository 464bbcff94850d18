// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/hooks"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Loopback is the way in which clients on loopback addresses of the host are served.
type Loopback int

// The ways.
const (
	// LoopbackAuto is eBPF where it can be had, else userland proxies.
	LoopbackAuto Loopback = iota
	// LoopbackBPF is eBPF: programs of the kernel connect local sockets straight to the
	// backend. Sockets that cannot be, such as those bound to a loopback address, are served by
	// proxies.
	LoopbackBPF
	// LoopbackProxy is userland proxies.
	LoopbackProxy
	// LoopbackNone is no way, of an engine that has no proxies. It is none of Options.
	LoopbackNone
)

// String is as ParseLoopback reads it.
func (l Loopback) String() string {
	switch l {
	case LoopbackAuto:
		return "auto"
	case LoopbackBPF:
		return "bpf"
	case LoopbackProxy:
		return "proxy"
	case LoopbackNone:
		return "none"
	}
	return fmt.Sprintf("Loopback(%d)", int(l))
}

// ParseLoopback reads what Options can have: auto, bpf or proxy.
func ParseLoopback(text string) (Loopback, error) {
	for _, l := range []Loopback{LoopbackAuto, LoopbackBPF, LoopbackProxy} {
		if text == l.String() {
			return l, nil
		}
	}
	return 0, &nat.InvalidError{What: "way to serve localhost", Input: text, Reason: "it is auto, bpf or proxy"}
}

// ErrLoopback says that localhost cannot be served by eBPF, as [LoopbackBPF] demands. With [ErrNoGroup] the control groups of version 2
// cannot be opened: where they are not mounted at /sys/fs/cgroup, that takes CAP_SYS_ADMIN.
var (
	ErrLoopback = errors.New("serve localhost by eBPF")
	ErrNoGroup  = bpf.ErrNoGroup
)

// openPrograms puts the eBPF programs in force that serve localhost and ranges, or takes over those that
// were lent.
func (e *core) openPrograms(lent []Program) error {
	if e.opts.ReadOnly || e.opts.NoProxies {
		return closePrograms(lent)
	}
	ds := make([]hooks.Descriptor, len(lent))
	for i, p := range lent {
		ds[i] = hooks.Descriptor(p)
	}
	e.programs = *hooks.Open(e.namespace, e.opts.Loopback != LoopbackProxy, ds)
	err := e.programs.NoLocalhost
	if err == nil {
		err = e.programs.NoHold
	}
	switch {
	case err == nil:
		return nil
	case e.opts.Loopback == LoopbackBPF:
		return fmt.Errorf("%w: %w", ErrLoopback, err)
	case e.programs.NoLocalhost == nil:
		e.log.Warn("ports of wide ranges are not held", "reason", err)
		return nil
	}
	e.log.Info("localhost is served by proxies", "reason", err)
	return nil
}

// loopback returns how localhost is served, and why not by eBPF.
func (e *core) loopback() (way Loopback, reason string) {
	switch {
	case e.programs.Localhost != nil:
		if left := e.programs.Localhost.Left(); left != nil {
			reason = "some ports are left to proxies: " + left.Error()
		}
		return LoopbackBPF, reason
	case e.opts.ReadOnly || e.opts.NoProxies:
		return LoopbackNone, ""
	case e.programs.NoLocalhost != nil:
		reason = e.programs.NoLocalhost.Error()
	}
	return LoopbackProxy, reason
}

// withdraw keeps new connections on localhost from the backends that a change takes away.
func (e *core) withdraw(c *portset.Change, undo *undoList) error {
	if e.programs.Localhost == nil {
		return nil
	}
	undo.add(func() error { return e.retrySync(e.programs.Localhost.UndoWithdraw(c)) })
	return e.programs.Localhost.Withdraw(c)
}

// lead leads new connections on localhost to the backends that a change adds.
func (e *core) lead(c *portset.Change, undo *undoList) error {
	if e.programs.Localhost == nil {
		return nil
	}
	undo.add(func() error { return e.retrySync(e.programs.Localhost.UndoLead(c)) })
	return e.programs.Localhost.Lead(c)
}

// retrySync leads localhost to what is published, if that has failed for a change.
func (e *core) retrySync(err error) error {
	if err == nil {
		return nil
	}
	syncErr := e.programs.Localhost.Sync(&e.mappings)
	if e.localhostStale = syncErr != nil; e.localhostStale {
		e.wakeRun()
		return errors.Join(err, syncErr)
	}
	return nil
}

// localhostPause is how long Run waits before it tries again to lead localhost to what is published.
const localhostPause = time.Second

// syncLocalhost leads localhost to what is published. What fails is tried again, by the next call and by Run.
func (e *core) syncLocalhost() {
	if e.programs.Localhost == nil {
		return
	}
	known := e.localhostStale
	err := e.programs.Localhost.Sync(&e.mappings)
	if e.localhostStale = err != nil; e.localhostStale && !known {
		e.log.Warn("localhost could not be led to what is published, which will be tried again", "error", err)
		e.wakeRun()
	}
}

// retryLocalhost is syncLocalhost if that has failed, and reports whether it still does.
func (e *core) retryLocalhost() bool {
	if e.localhostStale {
		e.syncLocalhost()
	}
	return e.localhostStale
}

// removeLocalhost keeps new connections on localhost from the backends of ports that have expired.
func (e *core) removeLocalhost(ended []portset.Port) {
	if e.programs.Localhost == nil {
		return
	}
	if err := e.retrySync(e.programs.Localhost.Withdraw(&portset.Change{Removed: ended})); err != nil {
		e.log.Warn("localhost could not be led to what is published", "error", err)
	}
}

// endLed ends sockets on localhost that are led from the ports of a change elsewhere than to what is
// published: those of UDP, and of TCP that nobody has answered or that are to be killed. Released ports end
// in any case.
func (e *core) endLed(c *portset.Change, killTCP bool, released []portset.Port) {
	if e.programs.Localhost == nil {
		return
	}
	nothing := portset.NewSet()
	for _, of := range []struct {
		proto     nat.Proto
		ports     iter.Seq[portset.Port]
		published *portset.Set
		opening   bool
	}{
		{nat.UDP, c.Before, &e.mappings, false},
		{nat.TCP, c.Before, &e.mappings, !killTCP},
		{nat.TCP, slices.Values(released), &nothing, false},
	} {
		peers, any := peersOf(of.proto, of.ports)
		if !any {
			continue
		}
		contradicts := e.programs.Localhost.Contradicts(of.proto, of.ports, of.published)
		if contradicts == nil {
			return
		}
		_, err := hostnet.DestroySockets(e.namespace, of.proto, of.opening, peers, contradicts)
		if errors.Is(err, errors.ErrUnsupported) {
			e.noDestroy = true
			continue
		}
		e.warnOfFlows(err)
	}
}

// fewPeers is for how many backends sockets are looked for one after the other; for more, all are looked at.
const fewPeers = 8

// peersOf returns the backends of ports of a protocol, nil if they are many, and whether there are any.
func peersOf(proto nat.Proto, ports iter.Seq[portset.Port]) (peers []hostnet.Peers, any bool) {
	for p := range ports {
		if p.Proto != proto || p.NoProxy || p.ProxyOnly {
			continue
		}
		if len(peers) == fewPeers {
			return nil, true
		}
		first := p.Backend.Port()
		peers = append(peers, hostnet.Peers{Addr: p.Backend.Addr(), First: first, Last: first + p.More})
	}
	return peers, len(peers) != 0
}

// Program is a file of an eBPF program, or of a map of it, that an engine lends.
type Program struct {
	// Name says what it is of. Those of one name are in order.
	Name string
	File *os.File
}

func closePrograms(lent []Program) error {
	var errs []error
	for _, p := range lent {
		errs = append(errs, p.File.Close())
	}
	return errors.Join(errs...)
}
