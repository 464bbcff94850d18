// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// LAN is a switch and any number of machines, each a namespace with the interface
// [MachineLink]. Make one with [NewLAN]. All methods may be called from several goroutines at
// once.
type LAN struct {
	// Switch is the namespace of the switch. It has no address.
	Switch *NS

	mu       sync.Mutex
	machines map[*NS]string // the port of each
}

// NewLAN makes a switch without machines.
func NewLAN() (*LAN, error) {
	t := &Topology{}
	if err := buildSwitch(t); err != nil {
		return nil, fmt.Errorf("build LAN: %w", errors.Join(err, t.Close()))
	}
	return &LAN{Switch: t.Switch, machines: make(map[*NS]string)}, nil
}

// Add makes a machine with the addresses 192.0.2.NUMBER and 2001:db8:1::NUMBER (the last
// byte), which answer when it returns. [LAN.Close] closes it.
func (l *LAN) Add(name string, number byte) (*NS, error) {
	n, err := New(name)
	if err != nil {
		return nil, err
	}
	n.V4, n.V6 = lan4.at(number), lan6.at(number)
	port := fmt.Sprintf("port%d", number)
	if err := l.plug(n, port, lan4.host(number), lan6.host(number)); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.machines[n] = port
	return n, nil
}

func (l *LAN) plug(n *NS, port string, addrs ...netip.Prefix) error {
	err := withHandle(l.Switch, func(h *netlink.Handle) error {
		if err := addVeth(h, port, n, MachineLink); err != nil {
			return err
		}
		return addPort(h, switchBridge, port, false)
	})
	if err != nil {
		return err
	}
	err = withHandle(n, func(h *netlink.Handle) error { return configureLink(h, MachineLink, addrs...) })
	if err != nil {
		return err
	}
	return waitUp([]*NS{n})
}

// Cut sets the switch's end of a machine's link down: the machine loses its carrier.
func (l *LAN) Cut(machine *NS) error { return l.set(machine, (*netlink.Handle).LinkSetDown) }

// Reconnect sets it up again. Frames pass as soon as the kernel has seen the carrier.
func (l *LAN) Reconnect(machine *NS) error { return l.set(machine, (*netlink.Handle).LinkSetUp) }

func (l *LAN) set(machine *NS, set func(*netlink.Handle, netlink.Link) error) error {
	l.mu.Lock()
	port, ok := l.machines[machine]
	l.mu.Unlock()
	if !ok {
		return fmt.Errorf("cut or connect %s: not a machine of this LAN", machine)
	}
	return withHandle(l.Switch, func(h *netlink.Handle) error {
		link, err := h.LinkByName(port)
		if err != nil {
			return fmt.Errorf("find %s: %w", port, err)
		}
		return set(h, link)
	})
}

// Close closes the machines and the switch. It does not stop what runs in them. A second
// Close does nothing.
func (l *LAN) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := []error{l.Switch.Close()}
	for n := range l.machines {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}
