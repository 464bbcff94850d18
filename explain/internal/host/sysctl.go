// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// setting is a sysctl that was read, or why it was not.
type setting struct {
	value string
	err   error
}

// Sysctl reads a setting by its path below /proc/sys: "net/ipv4/ip_forward". Those below net/ are
// the namespace's. The error is fs.ErrNotExist if the kernel does not have it.
func (h *Host) Sysctl(name string) (string, error) {
	s, known := h.sysctls[name]
	if !known {
		var b []byte
		err := h.do(func() (err error) {
			// The directory net is that of the thread which opens the file.
			b, err = os.ReadFile("/proc/sys/" + name)
			return err
		})
		if err != nil {
			err = h.note(fmt.Errorf("read sysctl: %w", err))
		}
		s = setting{strings.TrimSpace(string(b)), err}
		h.sysctls[name] = s
	}
	return s.value, s.err
}

// SysctlInt reads a setting that is a number.
func (h *Host) SysctlInt(name string) (int, error) {
	text, err := h.Sysctl(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("read sysctl %s: %w", sysctlName(name), err)
	}
	return n, nil
}

// LocalPorts are the first and the last port that the kernel gives to sockets which ask for none (ip_local_port_range).
func (h *Host) LocalPorts() (first, last uint16, err error) {
	const name = "net/ipv4/ip_local_port_range"
	text, err := h.Sysctl(name)
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(text, &first, &last); err != nil {
		return 0, 0, fmt.Errorf("read sysctl %s: %w", sysctlName(name), err)
	}
	return first, last, nil
}

// sysctlName is a path as sysctl(8) prints it: it swaps the dots of interfaces for slashes.
func sysctlName(path string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '/':
			return '.'
		case '.':
			return '/'
		}
		return r
	}, path)
}

// confPath is the path of a setting of an interface, "all" or "default".
func confPath(is4 bool, link, name string) string {
	if is4 {
		return "net/ipv4/conf/" + link + "/" + name
	}
	return "net/ipv6/conf/" + link + "/" + name
}

// Setting reads a setting of an interface as it takes effect: the kernel combines that of the
// interface with that of "all", the one way or the other (IN_DEV_ORCONF and IN_DEV_MAXCONF in
// include/linux/inetdevice.h). from is the one that decides, as sysctl(8) names it:
// "net.ipv4.conf.all.rp_filter".
func (h *Host) Setting(is4 bool, link int, name string) (value int, from string, err error) {
	l, err := h.Link(link)
	if err != nil {
		return 0, "", err
	}
	own, all := confPath(is4, l.Name, name), confPath(is4, "all", name)
	if value, err = h.SysctlInt(own); err != nil {
		return 0, "", err
	}
	from = own
	if is4 && combined[name] {
		ofAll, err := h.SysctlInt(all)
		if err != nil {
			return 0, "", err
		}
		// Settings that are or-ed are 0 or 1.
		if ofAll > value {
			value, from = ofAll, all
		}
	}
	return value, sysctlName(from), nil
}

// combined are the settings of IPv4 of which the higher one takes effect; the others are the
// interface's alone.
var combined = map[string]bool{
	"rp_filter": true, "arp_ignore": true, "arp_announce": true, "arp_filter": true, "accept_local": true,
	"route_localnet": true, "src_valid_mark": true, "proxy_arp": true, "send_redirects": true, "log_martians": true,
	"ignore_routes_with_linkdown": true,
	"disable_policy":              true, "disable_xfrm": true,
}

// Of include/uapi/linux/netconf.h.
const (
	netconfIfindex    = 1
	netconfForwarding = 2
	netconfAll        = -1
)

// forwards reads a switch for forwarding: that of an interface or, with netconfAll, of "all".
// Unlike /proc/sys it is always there.
func (h *Host) forwards(is4 bool, link int) (on bool, err error) {
	body := appendU32([]byte{family(is4), 0, 0, 0}, netconfIfindex, uint32(int32(link)))
	err = h.ask(unix.NETLINK_ROUTE, unix.RTM_GETNETCONF, 0, body, nil, func(m nlwire.Message) error {
		a := m.Attrs(4)
		for a.Next() {
			if a.Type == netconfForwarding {
				on = u32(a.Payload) != 0
			}
		}
		return a.Err
	})
	if err != nil {
		return false, h.note(fmt.Errorf("read forwarding: %w", err))
	}
	return on, nil
}

// Forwarding reports whether the host forwards packets of the family that come in by an interface.
// If not, fault says which switch is off.
func (h *Host) Forwarding(is4 bool, iif int) (fault *RouteFault, err error) {
	link, all := "net/ipv4/conf/"+h.linkName(iif)+"/forwarding", "net/ipv4/ip_forward"
	switch {
	case is4:
		if on, err := h.forwards(true, iif); on || err != nil {
			return nil, err
		}
	default:
		// Of IPv6 the switch of an interface decides about router advertisements alone, but for
		// force_forwarding, which is of Linux 6.17.
		link, all = "net/ipv6/conf/"+h.linkName(iif)+"/force_forwarding", "net/ipv6/conf/all/forwarding"
		if on, err := h.forwards(false, netconfAll); on || err != nil {
			return nil, err
		}
		force, err := h.SysctlInt(link)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if force != 0 {
			return nil, nil
		}
	}
	name := all
	if is4 {
		on, err := h.forwards(true, netconfAll)
		if err != nil {
			return nil, err
		}
		if on {
			name = link
		}
	}
	name = sysctlName(name)
	return &RouteFault{
		Kind: FaultForwarding, Thing: name + " = 0", What: "the host does not forward what comes in by " + h.linkName(iif),
		Remedy: "sysctl " + name + "=1", Silent: true,
	}, nil
}
