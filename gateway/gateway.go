// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/gateway/internal/igd"
	"github.com/nftnat/nftnat/gateway/internal/lan"
	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/gateway/internal/pcp"
	"github.com/nftnat/nftnat/internal/confine"
	"github.com/nftnat/nftnat/internal/startmemory"
)

// server is a gateway that runs.
type server struct {
	Options
	log      *slog.Logger
	started  time.Time
	lan      *lan.LAN
	leases   *lease.Leases
	listener net.Listener // nil: none
	parts    []part
	atStart  startmemory.Memory
	asked    atomic.Uint64 // how often its own socket was
}

// part is what a gateway consists of.
type part interface{ Run(context.Context) error }

// Run serves until ctx is done, and returns nil then. The error is an [*OptionError] if an option is wrong.
func Run(ctx context.Context, o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	s := &server{Options: o, log: o.Log, started: time.Now()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.open(); err != nil {
		return errors.Join(err, s.close(ctx))
	}
	if o.Confine {
		startmemory.CollectSooner()
		s.atStart = startmemory.Find() // while files can be read
		s.confine()
	}
	if o.Ready != nil {
		o.Ready()
	}
	return s.run(ctx)
}

// open opens all sockets.
func (s *server) open() (err error) {
	rules, err := s.rules()
	if err != nil {
		return err
	}
	client := api.NewClient(s.Daemon).As(api.GatewayAgent)
	s.leases = lease.New(lease.Options{
		Daemon: client, Rules: rules, Log: s.log,
		Created: func(ctx context.Context) (int64, error) {
			d, err := client.Daemon(ctx)
			return d.Created, err
		},
		Limits: lease.Limits{Min: s.MinLifetime, Max: s.MaxLifetime, Quota: s.Quota},
	})
	quota := s.leases.Limits().Quota
	s.lan, err = lan.Open(lan.Options{
		Devices: s.LAN, WAN: s.WAN, Log: s.log,
		// A client may renew all that it has, over each protocol, at once.
		Rate: lan.Rate{PerSecond: max(64, quota), Burst: max(256, 4*quota)},
	})
	if err != nil {
		return err
	}
	s.parts = append(s.parts, s.lan)
	if !s.NoPCP {
		p, err := pcp.Open(pcp.Options{Leases: s.leases, LAN: s.lan, Log: s.log})
		if err != nil {
			return err
		}
		s.parts = append(s.parts, p)
	}
	if s.IGD != IGDOff {
		version := igd.V1
		if s.IGD == IGDv2 {
			version = igd.V2
		}
		d, err := igd.Open(igd.Options{Leases: s.leases, LAN: s.lan, WAN: s.WAN, Version: version, Presentation: s.Presentation, Log: s.log})
		if err != nil {
			return err
		}
		s.parts = append(s.parts, d)
	}
	s.parts = append(s.parts, s.leases)
	return s.listen()
}

// listen opens the gateway's own socket, or takes that of the service manager.
func (s *server) listen() error {
	handed, err := activation.Listeners()
	switch {
	case err != nil:
		return fmt.Errorf("take sockets of the service manager: %w", err)
	case len(handed) == 1 && handed[0] != nil:
		s.listener = handed[0]
		return nil
	case len(handed) != 0:
		return fmt.Errorf("take sockets of the service manager: it hands over %d descriptors, and not one listening socket", len(handed))
	case s.Socket == "":
		return nil
	}
	s.listener, err = api.Listen(s.Socket, -1)
	return err
}

// close closes what open has opened before it failed.
func (s *server) close(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	var errs []error
	for _, p := range s.parts {
		errs = append(errs, p.Run(ctx)) // closes its sockets
	}
	if s.listener != nil {
		errs = append(errs, s.listener.Close())
	}
	return errors.Join(errs...)
}

// confine leaves the process what its work takes: no capability, and no file but its own socket's.
func (s *server) confine() {
	var o confine.Options
	if s.listener != nil && s.Socket != "" {
		if _, handed := s.listener.(*net.UnixListener); !handed { // it is removed at the end
			o.Files = []confine.PathRule{{Path: filepath.Dir(s.listener.Addr().String()), Access: confine.List | confine.Remove}}
		}
	}
	for _, err := range confine.Apply(o).Missing {
		s.log.Warn("the gateway keeps more than it needs", "error", err)
	}
}

func (s *server) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	run := func(f func(context.Context) error) {
		running.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	for _, p := range s.parts {
		run(p.Run)
	}
	run(s.followAddress)
	if s.listener != nil {
		run(s.serve)
	}
	if s.Confine { // else the process is not the gateway's alone
		run(s.release)
	}
	<-ctx.Done()
	running.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

const (
	// quietTime is how long nobody must have asked before memory is given back, and busyTime how long it is kept where
	// somebody asks again and again: a page that is open does, and so do hosts that search by SSDP.
	quietTime = 20 * time.Second
	busyTime  = time.Minute
)

// release gives memory back after the start, and when nobody asks any more after some have.
func (s *server) release(ctx context.Context) error {
	s.atStart.Release(ctx)
	tick := time.NewTicker(quietTime)
	defer tick.Stop()
	released, last := false, time.Now()
	for before := s.requests(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := s.requests()
		quiet := now == before
		before = now
		if released = released && quiet; !released && (quiet || time.Since(last) >= busyTime) {
			s.atStart.GiveBack()
			released, last = quiet, time.Now()
		}
	}
}

// requests is how many there have been.
func (s *server) requests() uint64 { return s.lan.Received() + s.asked.Load() }

// followAddress tells the leases of the WAN's address.
func (s *server) followAddress(ctx context.Context) error {
	for {
		changed := s.lan.Changed()
		a, since := s.address()
		s.leases.SetAddress(a, since)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// address returns the address of the WAN, and since when it has it.
func (s *server) address() (a netip.Addr, since int64) {
	wan, ok := s.lan.WAN()
	if !ok || !wan.Up {
		return a, 0
	}
	if s.ExternalIP.IsValid() {
		return s.ExternalIP, 0
	}
	for i, p := range wan.Addrs {
		if a := p.Addr(); a.Is4() && !a.IsLinkLocalUnicast() && !a.IsLoopback() {
			return a, wan.Since[i]
		}
	}
	return a, 0
}
