// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package igd

import (
	"fmt"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Traffic is what the device of the WAN has carried, and whether it is up.
type Traffic struct {
	BytesSent, BytesReceived     uint64
	PacketsSent, PacketsReceived uint64
	Up                           bool
}

// ReadTraffic asks the kernel about a device.
func ReadTraffic(device string) (Traffic, error) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return Traffic{}, fmt.Errorf("read statistics of %s: %w", device, err)
	}
	a := link.Attrs()
	t := Traffic{Up: a.RawFlags&unix.IFF_LOWER_UP != 0}
	if s := a.Statistics; s != nil {
		t.BytesSent, t.BytesReceived = s.TxBytes, s.RxBytes
		t.PacketsSent, t.PacketsReceived = s.TxPackets, s.RxPackets
	}
	return t, nil
}

// Values of state variables.
const (
	routed          = "IP_Routed"
	connected       = "Connected"
	disconnected    = "Disconnected"
	noError         = "ERROR_NONE"
	linkUp          = "Up"
	linkDown        = "Down"
	linkUnavailable = "Unavailable"
)

// forbidden is an action that would change the WAN.
func forbidden(*call) *fault { return notAuthorized() }

func defaultConnection(c *call) *fault {
	c.out = []string{c.server.defaultConnection()}
	return nil
}

// defaultConnection is the service WANIPConnection as Layer3Forwarding:1, 2.2.1 names it.
func (s *Server) defaultConnection() string {
	d := s.tree[len(s.tree)-1]
	return d.udn + ":" + urn("", d.name, d.version) + ",urn:upnp-org:serviceId:" + d.service.id
}

// linkProperties leaves the rates at zero: they are of a device that may not be what limits the WAN.
func linkProperties(c *call) *fault {
	c.out = []string{"Ethernet", "0", "0", c.server.linkStatus()}
	return nil
}

func (s *Server) linkStatus() string {
	t, err := s.traffic()
	switch {
	case err != nil:
		return linkUnavailable
	case t.Up:
		return linkUp
	default:
		return linkDown
	}
}

// total returns an action that gives a counter, which is of 32 bits and starts again at zero.
func total(counter func(*Traffic) uint64) func(*call) *fault {
	return func(c *call) *fault {
		t, err := c.server.traffic()
		if err != nil {
			return actionFailed()
		}
		c.out = []string{strconv.FormatUint(counter(&t)&0xffffffff, 10)}
		return nil
	}
}

func connectionType(c *call) *fault {
	c.out = []string{routed, routed}
	return nil
}

// requestConnection succeeds if the WAN has an address: there is nothing to dial.
func requestConnection(c *call) *fault {
	if _, ok := c.server.leases.Address(); !ok {
		return connectionFailed()
	}
	return nil
}

func statusInfo(c *call) *fault {
	c.out = []string{c.server.connectionStatus(), noError, strconv.Itoa(int(c.server.uptime() / time.Second))}
	return nil
}

func (s *Server) connectionStatus() string {
	if _, ok := s.leases.Address(); !ok {
		return disconnected
	}
	return connected
}

func natStatus(c *call) *fault {
	c.out = []string{"0", "1"}
	return nil
}

// externalAddress is empty while there is none: a client that takes an error for the end never asks again.
func externalAddress(c *call) *fault {
	c.out = []string{c.server.externalAddress()}
	return nil
}

func (s *Server) externalAddress() string {
	a, ok := s.leases.Address()
	if !ok {
		return ""
	}
	return a.String()
}
