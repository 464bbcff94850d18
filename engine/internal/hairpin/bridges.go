// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hairpin

import (
	"errors"
	"io/fs"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// Bridges are the bridges of a host. Tests use a fake.
type Bridges interface {
	// Link looks up an interface. The error is fs.ErrNotExist if there is none.
	Link(index int) (Link, error)
	// Ports lists the ports of all bridges, without their kinds.
	Ports() ([]Link, error)
	// Hooks are those that the frames of every bridge pass. The error is fs.ErrNotExist
	// without br_netfilter.
	Hooks() (Hooks, error)
	// Neighbour looks up the link layer address of a host on an interface. The error is
	// fs.ErrNotExist while the kernel does not know it.
	Neighbour(link int, a netip.Addr) (HardwareAddr, error)
	// Neighbours lists all that the kernel knows, on all interfaces.
	Neighbours() ([]Neighbour, error)
	// Solicit asks a host on an interface for its link layer address, or, if that is
	// known, whether it is still there: the bridge sees the answer and learns the port.
	// Solicit does not wait for it.
	Solicit(link int, a netip.Addr, known bool) error
	// FDB looks link layer addresses, and perhaps others, up in the forwarding database of a
	// bridge, and returns the ports that they are behind.
	FDB(bridge Link, macs []HardwareAddr) (map[HardwareAddr]int, error)
	// SetHairpin sets the hairpin mode of a port.
	SetHairpin(port int, on bool) error
	Close() error
}

// HardwareAddr is an Ethernet address: a bridge has no ports of another type (br_add_if
// in net/bridge/br_if.c).
type HardwareAddr [6]byte

// Hooks are the IP families whose netfilter hooks bridged frames pass.
type Hooks struct{ IPv4, IPv6 bool }

// include reports whether the hooks of an address's family are among these.
func (h Hooks) include(a netip.Addr) bool { return a.Is4() && h.IPv4 || a.Is6() && h.IPv6 }

func (h Hooks) or(o Hooks) Hooks { return Hooks{h.IPv4 || o.IPv4, h.IPv6 || o.IPv6} }

// Link is a network interface.
type Link struct {
	Index int
	Name  string
	// Kind is the name of its driver; "" is a device that is not virtual.
	Kind string
	// Bridge is the index of the bridge that it is a port of; zero if it is none.
	Bridge int
	// Hairpin is whether the port has hairpin mode.
	Hairpin bool
	// Hooks are those that the frames of this one bridge pass, besides those of every
	// bridge (nf_call_iptables and nf_call_ip6tables of ip-link(8)).
	Hooks Hooks
	// VLANs is whether a bridge has a forwarding database for each VLAN.
	VLANs bool
}

// Neighbour is a host on a link.
type Neighbour struct {
	Link int
	Addr netip.Addr
	MAC  HardwareAddr
}

const kindBridge = "bridge"

// The sysctls that send the frames of all bridges through the hooks. They exist only
// where the kernel has br_netfilter; without it the bridges' own switches do nothing.
const (
	bridgeHooks4 = "net/bridge/bridge-nf-call-iptables"
	bridgeHooks6 = "net/bridge/bridge-nf-call-ip6tables"
)

// readHooks reads the sysctls. The error is fs.ErrNotExist without br_netfilter.
func readHooks(s hostnet.Sysctls) (h Hooks, err error) {
	err = s.Do(func() error {
		four, err4 := s.Read(bridgeHooks4)
		six, err6 := s.Read(bridgeHooks6) // there without IPv6 too
		h = Hooks{four != "0", six != "0"}
		return errors.Join(err4, err6)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return Hooks{}, fs.ErrNotExist
	}
	return h, err
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// isGone reports whether an interface was deleted or is not a bridge port any more.
func isGone(err error) bool {
	return isNotExist(err) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP)
}
