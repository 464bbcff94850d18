// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"slices"
)

// Forwarding turns IP forwarding on, so that the kernel passes on what it has translated.
type Forwarding struct {
	Sysctls Sysctls
	// Interfaces lists the interfaces of the calling thread's namespace, as
	// SystemInterfaces does.
	Interfaces func() ([]Interface, error)
	// on4 and on6 are whether forwarding was found or turned on.
	on4, on6 bool
}

// Interface has the properties of a network interface on which forwarding depends.
type Interface struct {
	Name     string
	Loopback bool
	Global6  bool // it has an IPv6 address that is valid beyond its link
}

const (
	forwarding4 = "net/ipv4/ip_forward"
	forwarding6 = "net/ipv6/conf/all/forwarding"
	conf6       = "net/ipv6/conf"
	force       = "force_forwarding" // below an interface in conf6
)

// Setting is a changed sysctl.
type Setting struct{ Name, Before, After string }

// TurnOn turns forwarding on for the families, and returns what it changed, also with an
// error. links are the interfaces that lead to the IPv6 backends; interfaces at risk
// ignore router advertisements from now on, and with them their default route.
func (f *Forwarding) TurnOn(four, six bool, links []string) ([]Setting, []string, error) {
	if (!four || f.on4) && (!six || f.on6) {
		return nil, nil, nil // entering another namespace takes longer than a transaction
	}
	var changed []Setting
	var atRisk []string
	err := f.Sysctls.Do(func() (err error) {
		if four && !f.on4 {
			err = f.set(&changed, forwarding4)
			f.on4 = err == nil
		}
		if err == nil && six && !f.on6 {
			atRisk, err = f.turnOn6(&changed, links)
		}
		return err
	})
	return changed, atRisk, err
}

// turnOn6 turns IPv6 forwarding on. Forwarding on all interfaces makes those with
// accept_ra=1 ignore router advertisements, and the host may lose its own default route
// by that (Documentation/networking/ip-sysctl.rst, accept_ra and forwarding). Since
// Linux 6.17 force_forwarding switches single interfaces without that effect: those that
// lead to the backends, and those with an address that a client can be routed to.
func (f *Forwarding) turnOn6(changed *[]Setting, links []string) (atRisk []string, err error) {
	all, err := f.Sysctls.Read(forwarding6)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("turn on IPv6 forwarding: the kernel has no IPv6: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	if all == "1" {
		f.on6 = true
		return nil, nil
	}
	interfaces, err := f.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	if f.Sysctls.Exists(path.Join(conf6, "all", force)) {
		for _, i := range interfaces {
			if i.Loopback || !i.Global6 && !slices.Contains(links, i.Name) {
				continue
			}
			err := f.set(changed, path.Join(conf6, i.Name, force))
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // deleted since it was listed
				return nil, err
			}
		}
		return nil, nil // on6 stays false: another mapping may need another interface
	}
	for _, i := range interfaces {
		ra, err := f.Sysctls.Read(path.Join(conf6, i.Name, "accept_ra"))
		if err == nil && ra == "1" && !i.Loopback {
			atRisk = append(atRisk, i.Name)
		}
	}
	if err := f.set(changed, forwarding6); err != nil {
		return nil, err
	}
	f.on6 = true
	return atRisk, nil
}

// set writes "1" if the sysctl has another value, and notes the change.
func (f *Forwarding) set(changed *[]Setting, name string) error {
	before, err := f.Sysctls.Read(name)
	if err != nil || before == "1" {
		return err
	}
	if err := f.Sysctls.Write(name, "1"); err != nil {
		return err
	}
	*changed = append(*changed, Setting{name, before, "1"})
	return nil
}

// Restore undoes changes, the last first.
func (f *Forwarding) Restore(changed []Setting) error {
	if len(changed) == 0 {
		return nil
	}
	f.on4, f.on6 = false, false
	return f.Sysctls.Do(func() error {
		var errs []error
		for _, s := range slices.Backward(changed) {
			errs = append(errs, f.Sysctls.Write(s.Name, s.Before))
		}
		return errors.Join(errs...)
	})
}

// State reads whether the kernel forwards IPv4, IPv6 on all interfaces, and IPv6 on some.
func (f *Forwarding) State() (four, all6, some6 bool, err error) {
	err = f.Sysctls.Do(func() error {
		value, err := f.Sysctls.Read(forwarding4)
		if err != nil {
			return err
		}
		four = value == "1"
		if all, err := f.Sysctls.Read(forwarding6); err == nil && all == "1" {
			all6, some6 = true, true
			return nil
		}
		interfaces, err := f.Interfaces()
		for _, i := range interfaces {
			on, err := f.Sysctls.Read(path.Join(conf6, i.Name, force))
			some6 = some6 || err == nil && on == "1"
		}
		return err
	})
	return four, all6, some6, err
}

// PerInterface reports whether the kernel can forward IPv6 on single interfaces; true
// without IPv6.
func (f *Forwarding) PerInterface() (can bool, err error) {
	err = f.Sysctls.Do(func() error {
		can = !f.Sysctls.Exists(conf6) || f.Sysctls.Exists(path.Join(conf6, "all", force))
		return nil
	})
	return can, err
}

// SystemInterfaces lists the interfaces of the calling thread's namespace.
func SystemInterfaces() ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	is := make([]Interface, len(all))
	for n, i := range all {
		addrs, _ := i.Addrs() // none if the interface was deleted meanwhile
		is[n] = Interface{i.Name, i.Flags&net.FlagLoopback != 0, slices.ContainsFunc(addrs, isGlobal6)}
	}
	return is, nil
}

func isGlobal6(a net.Addr) bool {
	p, err := netip.ParsePrefix(a.String())
	return err == nil && p.Addr().Is6() && p.Addr().IsGlobalUnicast()
}
