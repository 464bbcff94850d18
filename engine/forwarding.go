// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"slices"
)

// forwarding is the part of /proc/sys/net that the engine changes, and the only
// one: whether the kernel passes on what it has translated.
type forwarding struct {
	sysctls sysctls
	// interfaces lists those of the namespace, for within sysctls.do.
	interfaces func() ([]networkInterface, error)
	// on remembers what was seen or turned on, by family.
	on4, on6 bool
}

// networkInterface is what forwarding asks of an interface.
type networkInterface struct {
	name     string
	loopback bool
	global6  bool // it has an IPv6 address that is valid beyond its link
}

const (
	forwarding4 = "net/ipv4/ip_forward"
	forwarding6 = "net/ipv6/conf/all/forwarding"
	conf6       = "net/ipv6/conf"
	forceAll    = "all/force_forwarding" // below conf6
)

// setting is a change of one sysctl that can be undone.
type setting struct{ name, was, is string }

// turnOn sees to it that packets to the mappings' backends are forwarded, and
// returns what it changed for that. links are the interfaces that the IPv6 backends
// are behind.
func (f *forwarding) turnOn(four, six bool, links []string) (changed []setting, atRisk []string, err error) {
	if (!four || f.on4) && (!six || f.on6) {
		return nil, nil, nil // entering another namespace takes longer than a transaction
	}
	return f.enable(four, six, links)
}

func (f *forwarding) enable(four, six bool, links []string) (changed []setting, atRisk []string, err error) {
	err = f.sysctls.do(func() error {
		if four && !f.on4 {
			if changed, err = f.set(changed, forwarding4, "1"); err != nil {
				return err
			}
			f.on4 = true
		}
		if six && !f.on6 {
			changed, atRisk, err = f.turnOn6(changed, links)
		}
		return err
	})
	return changed, atRisk, err
}

// turnOn6 does so for IPv6. Forwarding on all interfaces makes those with
// accept_ra=1 ignore router advertisements, and the host may lose its own default
// route by that (Documentation/networking/ip-sysctl.rst, accept_ra and forwarding).
// Since Linux 6.17 force_forwarding switches single interfaces without that effect:
// those that the backends are behind, and those with an address that a client can
// be routed to.
func (f *forwarding) turnOn6(changed []setting, links []string) (_ []setting, atRisk []string, err error) {
	all, err := f.sysctls.read(forwarding6)
	if errors.Is(err, fs.ErrNotExist) {
		return changed, nil, fmt.Errorf("turn on IPv6 forwarding: the kernel has no IPv6: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return changed, nil, err
	}
	if all == "1" {
		f.on6 = true
		return changed, nil, nil
	}
	interfaces, err := f.interfaces()
	if err != nil {
		return changed, nil, fmt.Errorf("list interfaces: %w", err)
	}
	if f.sysctls.exists(path.Join(conf6, forceAll)) {
		for _, i := range interfaces {
			if i.loopback || !i.global6 && !slices.Contains(links, i.name) {
				continue
			}
			changed, err = f.set(changed, path.Join(conf6, i.name, "force_forwarding"), "1")
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone since it was listed
				return changed, nil, err
			}
		}
		return changed, nil, nil // another mapping may need another interface
	}
	for _, i := range interfaces {
		ra, err := f.sysctls.read(path.Join(conf6, i.name, "accept_ra"))
		if err == nil && ra == "1" && !i.loopback {
			atRisk = append(atRisk, i.name)
		}
	}
	if changed, err = f.set(changed, forwarding6, "1"); err != nil {
		return changed, nil, err
	}
	f.on6 = true
	return changed, atRisk, nil
}

// systemInterfaces lists the interfaces of the namespace of the calling thread.
func systemInterfaces() ([]networkInterface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	is := make([]networkInterface, len(all))
	for n, i := range all {
		is[n] = networkInterface{name: i.Name, loopback: i.Flags&net.FlagLoopback != 0, global6: hasGlobal6(i)}
	}
	return is, nil
}

// hasGlobal6 reports whether the interface has an IPv6 address that is valid beyond
// its link.
func hasGlobal6(i net.Interface) bool {
	addrs, err := i.Addrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsGlobalUnicast() {
			return true
		}
	}
	return false
}

// restore undoes changes, the last first.
func (f *forwarding) restore(changed []setting) error {
	if len(changed) == 0 {
		return nil
	}
	f.on4, f.on6 = false, false
	return f.sysctls.do(func() error {
		var errs []error
		for _, s := range slices.Backward(changed) {
			errs = append(errs, f.sysctls.write(s.name, s.was))
		}
		return errors.Join(errs...)
	})
}

// set writes the value if the sysctl has another, and remembers the other.
func (f *forwarding) set(changed []setting, name, value string) ([]setting, error) {
	was, err := f.sysctls.read(name)
	if err != nil || was == value {
		return changed, err
	}
	if err := f.sysctls.write(name, value); err != nil {
		return changed, err
	}
	return append(changed, setting{name, was, value}), nil
}
