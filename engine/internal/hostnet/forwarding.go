// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
)

// Forwarding turns IP forwarding on, so that the kernel passes on what it has translated.
type Forwarding struct {
	Sysctls Sysctls
	// Interfaces lists the interfaces of the namespace, as Routes.Interfaces does.
	Interfaces func() ([]Interface, error)
	// met are the needs that were found to be met, or were met, since Forget.
	met ForwardingNeeds
	// notices tells of changes by others. Nil: nothing does.
	notices *notices
}

// Interface is a network interface.
type Interface struct {
	Name     string
	Loopback bool
	// Dummy is whether nothing that is sent by it arrives anywhere (dummy in ip-link(8)).
	Dummy bool
	// Port is whether it is a part of another interface, as a port of a bridge or bond is,
	// which receives its packets.
	Port  bool
	Addrs []netip.Addr
}

func (i *Interface) hasIPv4() bool { return slices.ContainsFunc(i.Addrs, netip.Addr.Is4) }

// routes6 reports whether IPv6 packets that are to be forwarded can come in by it. A
// link-local address is enough for that: uplinks often have no other, as the links of
// containers that have a route each.
func (i *Interface) routes6() bool {
	return slices.ContainsFunc(i.Addrs, func(a netip.Addr) bool {
		return a.Is6() && (a.IsGlobalUnicast() || a.IsLinkLocalUnicast() && !i.Port && !i.Dummy)
	})
}

const (
	forwarding4 = "net/ipv4/ip_forward"
	forwarding6 = "net/ipv6/conf/all/forwarding"
	conf4       = "net/ipv4/conf"
	conf6       = "net/ipv6/conf"
	single4     = "forwarding"       // below an interface in conf4
	single6     = "force_forwarding" // below an interface in conf6
)

// ForwardingNeeds is what forwarding is needed for.
type ForwardingNeeds struct {
	IPv4, IPv6 bool
	// Links4 and Links6 are the interfaces that lead to the backends of each family.
	Links4, Links6 []string
}

// Add adds other needs.
func (n *ForwardingNeeds) Add(other ForwardingNeeds) {
	n.IPv4, n.IPv6 = n.IPv4 || other.IPv4, n.IPv6 || other.IPv6
	n.Links4, n.Links6 = union(n.Links4, other.Links4), union(n.Links6, other.Links6)
}

// AddLink adds the interface that leads to a backend; "": there is none.
func (n *ForwardingNeeds) AddLink(link string, four bool) {
	links, need := &n.Links6, &n.IPv6
	if four {
		links, need = &n.Links4, &n.IPv4
	}
	*need = true
	if link != "" && !slices.Contains(*links, link) {
		*links = append(*links, link)
	}
}

// covers reports whether all of other is in n.
func (n *ForwardingNeeds) covers(other ForwardingNeeds) bool {
	after := ForwardingNeeds{n.IPv4, n.IPv6, n.Links4, n.Links6}
	after.Add(other)
	return after.IPv4 == n.IPv4 && after.IPv6 == n.IPv6 && len(after.Links4) == len(n.Links4) && len(after.Links6) == len(n.Links6)
}

func union(a, b []string) []string {
	for _, link := range b {
		if link != "" && !slices.Contains(a, link) {
			a = append(slices.Clip(a), link)
		}
	}
	return a
}

// Setting is a sysctl that is to be changed, or was.
type Setting struct{ Name, Before, After string }

// String returns the sysctl with its value: "net/ipv4/ip_forward is 0".
func (s Setting) String() string { return s.Name + " is " + s.Before }

// Watch has the kernel say when settings, interfaces or addresses change, so that TurnOn need
// not look at them each time. Close ends that.
func (f *Forwarding) Watch() (err error) {
	f.Forget()
	f.notices, err = watchSettings(f.Sysctls.Namespace)
	return err
}

// Close ends the watch, if there is one.
func (f *Forwarding) Close() error {
	if f.notices == nil {
		return nil
	}
	n := f.notices
	f.notices = nil
	return n.socket.Close()
}

// Forget has the next TurnOn look at the settings.
func (f *Forwarding) Forget() { f.met = ForwardingNeeds{} }

// TurnOn turns forwarding on, and returns what it changed, also with an error. Interfaces at
// risk ignore router advertisements from now on, and with them their default route. It does
// nothing if the needs are known to be met: looking takes longer than a transaction.
func (f *Forwarding) TurnOn(n ForwardingNeeds) (changed []Setting, atRisk []string, err error) {
	if !n.IPv4 && !n.IPv6 {
		return nil, nil, nil
	}
	if f.notices.some() {
		f.Forget()
	}
	if f.met.covers(n) {
		return nil, nil, nil
	}
	err = f.Sysctls.Do(func() error {
		var missing []Setting
		missing, atRisk, err = f.missing(n)
		for _, s := range missing {
			if err != nil {
				break
			}
			err = f.Sysctls.Write(s.Name, s.After)
			switch {
			case err == nil:
				changed = append(changed, s)
			case errors.Is(err, fs.ErrNotExist): // the interface was deleted since it was listed
				err = nil
			}
		}
		return err
	})
	if err == nil {
		f.met.Add(n)
	}
	return changed, atRisk, err
}

// Missing returns the settings that keep the kernel from forwarding what is needed.
func (f *Forwarding) Missing(n ForwardingNeeds) (missing []Setting, err error) {
	err = f.Sysctls.Do(func() error {
		missing, _, err = f.missing(n)
		return err
	})
	return missing, err
}

// missing returns the settings to change, also with an error: those that were found by then.
func (f *Forwarding) missing(n ForwardingNeeds) (missing []Setting, atRisk []string, err error) {
	if !n.IPv4 && !n.IPv6 {
		return nil, nil, nil
	}
	interfaces, err := f.Interfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	if n.IPv4 {
		if missing, err = f.missing4(interfaces, n.Links4); err != nil {
			return missing, nil, err
		}
	}
	if n.IPv6 {
		var six []Setting
		six, atRisk, err = f.missing6(interfaces, n.Links6)
		missing = append(missing, six...)
	}
	return missing, atRisk, err
}

// missing4 looks at IPv4. The kernel asks the interface by which a packet came in
// (ip_route_input_slow in net/ipv4/route.c). Writing ip_forward sets all of them; each can
// be changed again.
func (f *Forwarding) missing4(interfaces []Interface, links []string) (missing []Setting, err error) {
	all, err := f.Sysctls.Read(forwarding4)
	switch {
	case err != nil:
		return nil, err
	case all != "1":
		return []Setting{{forwarding4, all, "1"}}, nil
	}
	for _, i := range interfaces {
		if i.Loopback || !i.hasIPv4() && !slices.Contains(links, i.Name) {
			continue
		}
		name := path.Join(conf4, i.Name, single4)
		if value, err := f.Sysctls.Read(name); err == nil && value == "0" {
			missing = append(missing, Setting{name, value, "1"})
		}
	}
	return missing, nil
}

// missing6 looks at IPv6. Forwarding on all interfaces makes those with accept_ra=1 ignore
// router advertisements, and the host may lose its own default route by that
// (Documentation/networking/ip-sysctl.rst, accept_ra and forwarding). Since Linux 6.17
// force_forwarding switches single interfaces without that effect: those that lead to the
// backends, and those by which clients can come.
func (f *Forwarding) missing6(interfaces []Interface, links []string) (missing []Setting, atRisk []string, err error) {
	all, err := f.Sysctls.Read(forwarding6)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("turn on IPv6 forwarding: the kernel has no IPv6: %w", errors.ErrUnsupported)
	case err != nil, all == "1":
		return nil, nil, err
	}
	if !f.Sysctls.Exists(path.Join(conf6, "all", single6)) {
		for _, i := range interfaces {
			ra, err := f.Sysctls.Read(path.Join(conf6, i.Name, "accept_ra"))
			if err == nil && ra == "1" && !i.Loopback {
				atRisk = append(atRisk, i.Name)
			}
		}
		return []Setting{{forwarding6, all, "1"}}, atRisk, nil
	}
	for _, i := range interfaces {
		if i.Loopback || !i.routes6() && !slices.Contains(links, i.Name) {
			continue
		}
		name := path.Join(conf6, i.Name, single6)
		value, err := f.Sysctls.Read(name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // the interface was deleted since it was listed
		case err != nil:
			return missing, nil, err
		case value != "1":
			missing = append(missing, Setting{name, value, "1"})
		}
	}
	return missing, nil, nil
}

// Restore undoes changes, the last first.
func (f *Forwarding) Restore(changed []Setting) error {
	if len(changed) == 0 {
		return nil
	}
	f.Forget()
	return f.Sysctls.Do(func() error {
		var errs []error
		for _, s := range slices.Backward(changed) {
			errs = append(errs, f.Sysctls.Write(s.Name, s.Before))
		}
		return errors.Join(errs...)
	})
}

// State reads whether the kernel forwards each family: on no interface, on all that Missing
// would look at, or on some.
func (f *Forwarding) State() (four, six ForwardingState, err error) {
	err = f.Sysctls.Do(func() error {
		interfaces, err := f.Interfaces()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		missing, err := f.missing4(interfaces, nil)
		switch {
		case err != nil:
			return err
		case len(missing) == 0:
			four = ForwardingOn
		case missing[0].Name != forwarding4:
			four = ForwardingPartly
		}
		if all, err := f.Sysctls.Read(forwarding6); err == nil && all == "1" {
			six = ForwardingOn
			return nil
		}
		for _, i := range interfaces {
			if on, err := f.Sysctls.Read(path.Join(conf6, i.Name, single6)); err == nil && on == "1" {
				six = ForwardingPartly
			}
		}
		return nil
	})
	return four, six, err
}

// ForwardingState says on which interfaces the kernel forwards.
type ForwardingState int

// The states of forwarding.
const (
	ForwardingOff ForwardingState = iota
	ForwardingPartly
	ForwardingOn
)

// String returns "off", "partly" or "on".
func (s ForwardingState) String() string {
	names := [...]string{ForwardingOff: "off", ForwardingPartly: "partly", ForwardingOn: "on"}
	if s < 0 || int(s) >= len(names) {
		return "invalid"
	}
	return names[s]
}

// PerInterface reports whether the kernel can forward IPv6 on single interfaces; true
// without IPv6.
func (f *Forwarding) PerInterface() (can bool, err error) {
	err = f.Sysctls.Do(func() error {
		can = !f.Sysctls.Exists(conf6) || f.Sysctls.Exists(path.Join(conf6, "all", single6))
		return nil
	})
	return can, err
}
