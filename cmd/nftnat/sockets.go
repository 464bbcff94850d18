// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/handover"
	"github.com/nftnat/nftnat/nat"
)

// The names that sockets are handed over by: the first word says what one is, and the
// rest which.
const (
	nameLock    = "lock"    // of the table; nothing follows
	nameMade    = "made"    // the API's, whose file a daemon made; its path follows
	nameGiven   = "given"   // the API's, of the service manager; its path follows
	nameMetrics = "metrics" // that of the metrics; its address follows
	// "tcp" and "udp" are frontends: "tcp :8080", "udp [::1]:53"
)

// sockets are all that this daemon has, by name. The descriptors stay its own.
func (s *server) sockets(lent engine.Sockets) ([]handover.Socket, error) {
	all := []handover.Socket{{Name: nameLock, FD: lent.Lock}}
	fd, made, err := api.Lend(s.listener)
	if err != nil {
		return nil, err
	}
	name := nameGiven
	if made {
		name = nameMade
	}
	all = append(all, handover.Socket{Name: name + " " + s.listener.Addr().String(), FD: fd})
	if s.scraped != nil {
		fd, _, err := api.Lend(s.scraped.TCPListener)
		if err != nil {
			return nil, err
		}
		all = append(all, handover.Socket{Name: nameMetrics + " " + s.scraped.Addr().String(), FD: fd})
	}
	for _, p := range lent.Ports {
		all = append(all, handover.Socket{Name: p.Proto.String() + " " + frontendText(p.Frontend), FD: p.FD})
	}
	return all, nil
}

// frontendText is a frontend as net.Listen has it: without an address for any.
func frontendText(ap netip.AddrPort) string {
	if !ap.Addr().IsValid() {
		return ":" + strconv.Itoa(int(ap.Port()))
	}
	return ap.String()
}

func parseFrontend(text string) (netip.AddrPort, error) {
	if port, ok := strings.CutPrefix(text, ":"); ok {
		n, err := strconv.ParseUint(port, 10, 16)
		return netip.AddrPortFrom(netip.Addr{}, uint16(n)), err
	}
	return netip.ParseAddrPort(text)
}

// sort finds out what the sockets are. All of them are the inheritance's, or closed.
func (i *inheritance) sort(sockets []handover.Socket) error {
	var errs []error
	for _, s := range sockets {
		kind, rest, _ := strings.Cut(s.Name, " ")
		listener := &lentListener{fd: s.FD, address: rest, made: kind == nameMade}
		switch {
		case kind == nameLock && i.sockets.Lock == 0:
			i.sockets.Lock = s.FD
		case (kind == nameMade || kind == nameGiven) && i.api == nil:
			i.api = listener
		case kind == nameMetrics && i.scraped == nil:
			i.scraped = listener
		default:
			if err := i.sortPort(kind, rest, s.FD); err != nil {
				listener.close()
				errs = append(errs, fmt.Errorf("%w: socket %q: %w", handover.ErrMalformed, s.Name, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		i.closeSockets()
		return err
	}
	return nil
}

func (i *inheritance) sortPort(kind, rest string, fd int) error {
	proto, err := nat.ParseProto(kind)
	if err != nil {
		return err
	}
	frontend, err := parseFrontend(rest)
	if err != nil {
		return err
	}
	i.sockets.Ports = append(i.sockets.Ports, engine.PortSocket{Proto: proto, Frontend: frontend, FD: fd})
	return nil
}

// closeSockets closes those that were meant for an engine.
func (i *inheritance) closeSockets() {
	if i.sockets.Lock != 0 {
		_ = unix.Close(i.sockets.Lock) // frees it whatever it returns (close(2))
	}
	for _, p := range i.sockets.Ports {
		_ = unix.Close(p.FD)
	}
	i.sockets = engine.Sockets{}
}
