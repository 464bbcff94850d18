// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lan"
	"github.com/nftnat/nftnat/gateway/internal/lease"
	"github.com/nftnat/nftnat/nat"
)

// Options says what a gateway is.
type Options struct {
	// Leases grants ports. Required.
	Leases *lease.Leases
	// LAN is where clients are. Required.
	LAN *lan.LAN
	// WAN is the device whose traffic is counted. Required.
	WAN string
	// Version is that of the device. Zero: [V1].
	Version Version
	// Port is that of the description, by TCP. Zero: 1900.
	Port uint16
	// Presentation is the URL of a page about the gateway. Empty: there is none.
	Presentation string
	// Log gets what operators should know. Nil: nobody does.
	Log *slog.Logger
}

// leases is a [lease.Leases].
type leases interface {
	Grant(context.Context, lease.Request) (lease.Lease, error)
	ReleaseExternal(context.Context, netip.Addr, nat.Proto, uint16) error
	External(nat.Proto, uint16) (lease.Lease, bool)
	At(int) (lease.Lease, bool)
	All() []lease.Lease
	Len() int
	Revision() uint32
	Address() (netip.Addr, bool)
	Changed() <-chan struct{}
	Ready() <-chan struct{}
	Refuse(kind lease.Kind, client netip.Addr, request, reason string)
}

// A Server is an Internet Gateway Device.
type Server struct {
	leases    leases
	lan       network
	traffic   func() (Traffic, error)
	now       func() time.Time
	port      uint16
	tree      []*device
	documents map[string]string // by path
	publisher *publisher
	since     atomic.Int64 // when the WAN got its address, as nanoseconds after started
	started   time.Time
	log       *slog.Logger

	discovery *discovery
	listener  net.Listener
}

// Open opens the sockets. They are closed by [Server.Run].
func Open(o Options) (*Server, error) {
	if o.Port == 0 {
		o.Port = ssdpPort
	}
	name, _ := os.Hostname() // a description without it does as well
	s := newServer(o.Leases, o.LAN, settings{
		version: o.Version, port: o.Port, presentation: o.Presentation, name: name, seed: seed(o.LAN, name),
	})
	s.traffic = func() (Traffic, error) { return ReadTraffic(o.WAN) }
	if o.Log != nil {
		s.log = o.Log
	}
	var addrs []netip.Addr
	for _, g := range groups() {
		addrs = append(addrs, g.Addr())
	}
	udp, err := o.LAN.Listen(ssdpPort, true, addrs...)
	if err != nil {
		return nil, fmt.Errorf("listen for searches: %w", err)
	}
	tcp, err := o.LAN.ListenTCP(o.Port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for requests: %w", err), udp.Close())
	}
	s.discovery.socket, s.listener = udp, tcp
	return s, nil
}

// seed is what UDNs follow from: the same after each start, and another one on another router.
func seed(l *lan.LAN, name string) string {
	for _, d := range l.Devices() {
		if i, err := net.InterfaceByName(d.Name); err == nil && len(i.HardwareAddr) != 0 {
			return i.HardwareAddr.String()
		}
	}
	return name
}

type settings struct {
	version      Version
	port         uint16
	presentation string
	name, seed   string
}

// newServer returns a server without sockets.
func newServer(leases leases, lan network, o settings) *Server {
	if o.version == 0 {
		o.version = V1
	}
	s := &Server{
		leases: leases, lan: lan, now: time.Now, port: o.port, started: time.Now(),
		tree: newTree(o.version, o.seed), documents: make(map[string]string), log: slog.New(slog.DiscardHandler),
	}
	friendly := maker
	if o.name != "" {
		friendly += " on " + o.name
	}
	var config string
	s.documents[rootPath], config = describe(s.tree, friendly, o.presentation)
	for _, d := range s.tree {
		s.documents[d.service.description()] = d.service.describe()
	}
	s.publisher = newPublisher(s.properties)
	s.discovery = &discovery{
		advertiser: advertiser{config: config, port: o.port},
		targets:    targets(s.tree),
		lan:        lan,
	}
	return s
}

// epoch is when BOOTID began. It counts quarters of a second, which have room until 2042 in its 31
// bits.
func epoch() time.Time { return time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC) }

const bootUnit = time.Second / 4

// bootID waits for the next quarter of a second and returns its number: whatever was started
// before has a lower one.
func bootID(ctx context.Context) string {
	n := time.Since(epoch())/bootUnit + 1
	select {
	case <-time.After(time.Until(epoch().Add(n * bootUnit))):
	case <-ctx.Done():
	}
	return strconv.FormatInt(int64(n&0x7fffffff), 10)
}

// Run serves until ctx is done, and says goodbye to the LAN then. It begins when it is known which
// leases there are.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-s.leases.Ready():
	case <-ctx.Done():
		return errors.Join(s.listener.Close(), s.discovery.socket.Close())
	}
	s.discovery.boot = bootID(ctx)
	parts := []func(context.Context) error{
		s.discovery.run,
		s.serve,
		s.followAddress,
		func(ctx context.Context) error { return s.publisher.run(ctx, s.leases.Changed) },
	}
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		wg.Go(func() {
			defer cancel()
			errs[i] = part(ctx)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// followAddress notes when the WAN gets an address.
func (s *Server) followAddress(ctx context.Context) error {
	var last netip.Addr
	for {
		changed := s.leases.Changed()
		a, _ := s.leases.Address()
		if a != last {
			last = a
			s.since.Store(int64(time.Since(s.started)))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// uptime is how long the WAN has had its address, as far as this process knows.
func (s *Server) uptime() time.Duration {
	if _, ok := s.leases.Address(); !ok {
		return 0
	}
	return time.Since(s.started) - time.Duration(s.since.Load())
}

// properties are the evented variables of a service.
func (s *Server) properties(of *service) (all []property) {
	for _, v := range of.variables {
		if v.evented {
			all = append(all, property{v.name, s.value(v.name)})
		}
	}
	return all
}

func (s *Server) value(variable string) string {
	switch variable {
	case "DefaultConnectionService":
		return s.defaultConnection()
	case "PhysicalLinkStatus":
		return s.linkStatus()
	case "PossibleConnectionTypes":
		return routed
	case "ConnectionStatus":
		return s.connectionStatus()
	case "ExternalIPAddress":
		return s.externalAddress()
	case "PortMappingNumberOfEntries":
		return strconv.Itoa(min(s.leases.Len(), 65535))
	case "SystemUpdateID":
		return strconv.FormatUint(uint64(s.leases.Revision()), 10)
	default:
		return ""
	}
}
