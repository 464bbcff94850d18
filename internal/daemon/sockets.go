// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/handover"
	"github.com/nftnat/nftnat/nat"
)

// Sockets are handed over by name. The first word is the kind; what follows says which one it
// is: a path, an address, or a frontend, as in "tcp :8080" and "udp [::1]:53". Daemons of other
// versions know these names.
const (
	nameLock    = "lock"    // of the table; nothing follows
	nameMade    = "made"    // the API's, whose file a daemon made; its path follows
	nameGiven   = "given"   // the API's, of the service manager; its path follows
	nameMetrics = "metrics" // that of the metrics; its address follows
)

// sockets are all sockets of this daemon, by name. The descriptors stay its own.
func (s *server) sockets(lent engine.Sockets) ([]handover.Socket, error) {
	all := []handover.Socket{{Name: nameLock, FD: lent.Lock}}
	fd, made, err := api.Lend(s.listener)
	if err != nil {
		return nil, err
	}
	name := map[bool]string{true: nameMade, false: nameGiven}[made]
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

// sort keeps the sockets by what they are. After an error all are closed.
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

// closeSockets closes those of an engine that no engine has taken over.
func (i *inheritance) closeSockets() {
	if i.sockets.Lock != 0 {
		closeDescriptor(i.sockets.Lock)
	}
	for _, p := range i.sockets.Ports {
		closeDescriptor(p.FD)
	}
	i.sockets = engine.Sockets{}
}
