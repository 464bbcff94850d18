// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"io/fs"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// bridges is what the engine asks of the kernel's bridges, and the one thing that it
// changes of them: the seam at which tests put bridges of their own.
type bridges interface {
	// link tells of an interface. The error is fs.ErrNotExist if there is none.
	link(index int) (bridgeLink, error)
	linkNamed(name string) (bridgeLink, error)
	// ports are all ports of all bridges, their kinds left out.
	ports() ([]bridgeLink, error)
	// portsNamed are those of them that have one of the names, by name.
	portsNamed(names []string) (map[string]bridgeLink, error)
	// hooked reports whether the frames of every bridge pass netfilter's hooks.
	hooked() (hooks, error)
	// neighbour is the link layer address of a host on an interface. The error is
	// fs.ErrNotExist while it is not known.
	neighbour(link int, a netip.Addr) (hardwareAddr, error)
	// neighbours are all that are known, on all interfaces.
	neighbours() ([]neighbour, error)
	// solicit asks a host on an interface for its link layer address, so that it
	// sends something, or, if that is known, whether it is still there. It does not
	// wait for the answer.
	solicit(link int, a netip.Addr, known bool) error
	// stations tells behind which ports of a bridge link layer addresses were seen, of
	// those that it is asked for.
	stations(bridge bridgeLink, macs []hardwareAddr) (map[hardwareAddr]int, error)
	// setHairpin sets the hairpin mode of a port.
	setHairpin(port int, on bool) error
	close()
}

// hardwareAddr is an address of Ethernet: a bridge has no ports of another type
// (br_add_if in net/bridge/br_if.c).
type hardwareAddr [6]byte

// hooks are the IP families whose hooks bridged frames pass.
type hooks struct{ four, six bool }

// of is for the family of an address.
func (h hooks) of(a netip.Addr) bool { return a.Is4() && h.four || a.Is6() && h.six }

func (h hooks) or(o hooks) hooks { return hooks{h.four || o.four, h.six || o.six} }

// bridgeLink is what matters here of an interface.
type bridgeLink struct {
	index int
	name  string
	// kind is its driver's name; empty: that of a device which is not virtual.
	kind string
	// bridge is the index of the bridge that it is a port of; zero: it is none.
	bridge int
	// hairpin is whether the port has hairpin mode.
	hairpin bool
	// hooks are those that the frames of this one bridge pass whatever holds for all
	// (nf_call_iptables and nf_call_ip6tables of ip-link(8)).
	hooks hooks
	// vlans is whether a bridge has a table of stations for each VLAN.
	vlans bool
}

// neighbour is a host on a link.
type neighbour struct {
	link int
	addr netip.Addr
	mac  hardwareAddr
}

// The sysctls that send the frames of all bridges through the hooks. They are there
// only where the kernel has br_netfilter, and without it the bridges' own switches do
// nothing.
const (
	bridgeHooks4 = "net/bridge/bridge-nf-call-iptables"
	bridgeHooks6 = "net/bridge/bridge-nf-call-ip6tables"
)

// readBridgeHooks reads them. The error is fs.ErrNotExist without br_netfilter.
func readBridgeHooks(s hostnet.Sysctls) (h hooks, err error) {
	err = s.Do(func() error {
		four, err4 := s.Read(bridgeHooks4)
		six, err6 := s.Read(bridgeHooks6)
		h = hooks{four != "0", six != "0"}
		// A kernel without IPv6 has the one for it all the same.
		return errors.Join(err4, err6)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return hooks{}, fs.ErrNotExist
	}
	return h, err
}
