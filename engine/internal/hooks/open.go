// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// Programs are those of package bpf that are in force for a network namespace. Each is nil if it is not to
// be had.
type Programs struct {
	local *bpf.Local
	// Localhost leads sockets on localhost; NoLocalhost is why it is nil.
	Localhost   *Localhost
	NoLocalhost error
	// Hold keeps other programs from ports; NoHold is why it is nil.
	Hold     *bpf.Hold
	NoHold   error
	tookHold bool // from another process
	// Former lets sockets bind what the process that has lent its programs still holds, unless Hold has been taken over from it.
	Former *bpf.Exemption
	// Lookup leads many ports to one socket.
	Lookup *bpf.Lookup
}

// Descriptor is a file of programs on its way to another process. Those of one name stay in order.
type Descriptor struct {
	Name string
	File *os.File
}

// The first word of a name; the second is the version.
const (
	nameLocal  = "local"
	nameHold   = "hold"
	nameLookup = "lookup"
)

// Open puts programs in force for a namespace, or takes them over that another process has lent, where
// they are of this version. The others go when that process closes them. It closes what was lent. Without
// localhost only the Lookup is opened.
//
// It needs CAP_BPF and CAP_NET_ADMIN, and CAP_SYS_ADMIN where the control groups of version 2 are not
// mounted. What it returns needs no privilege.
func Open(ns *hostnet.Namespace, localhost bool, lent []Descriptor) *Programs {
	handed := sortHanded(lent)
	p := &Programs{}
	if localhost {
		p.NoLocalhost = p.openHooks(ns, handed)
		if p.Hold == nil && p.NoHold == nil {
			p.NoHold = p.NoLocalhost
		}
	}
	var err error
	if !p.tookHold && len(handed[nameHold].Files) != 0 {
		if p.Former, err = bpf.TakeExemption(handed[nameHold]); err != nil {
			p.Former = nil // ports that are refused are tried again
		}
	}
	if p.Lookup, err = bpf.TakeLookup(handed[nameLookup]); err != nil {
		p.Lookup = openLookup(ns)
	}
	for _, h := range handed {
		_ = h.Close() // nothing was written
	}
	return p
}

// openHooks opens the programs at the root of the control groups.
func (p *Programs) openHooks(ns *hostnet.Namespace, handed map[string]bpf.Handed) (err error) {
	cookie, err := ns.Cookie()
	if err != nil {
		return err
	}
	group, err := bpf.RootGroup()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, group.Close()) }()
	holdOptions := bpf.HoldOptions{Group: int(group.Fd()), NetNS: cookie}
	p.Hold, err = bpf.TakeHold(holdOptions, handed[nameHold])
	if p.tookHold = err == nil; !p.tookHold {
		if p.Hold, err = bpf.OpenHold(holdOptions); err != nil {
			p.Hold, p.NoHold = nil, err // ranges have sockets, as far as they are not too wide
		}
	}
	localOptions := bpf.LocalOptions{Group: int(group.Fd()), NetNS: cookie}
	if p.local, err = bpf.TakeLocal(localOptions, handed[nameLocal]); err != nil {
		if p.local, err = bpf.OpenLocal(localOptions); err != nil {
			p.local = nil
			return err
		}
	}
	p.Localhost = NewLocalhost(p.local)
	return nil
}

// openLookup returns nil if it is not to be had.
func openLookup(ns *hostnet.Namespace) *bpf.Lookup {
	fd := ns.FD()
	if fd == 0 {
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return nil
		}
		defer func() { _ = own.Close() }() // it was only read
		fd = int(own.Fd())
	}
	l, err := bpf.OpenLookup(fd)
	if err != nil {
		return nil
	}
	return l
}

// sortHanded sorts descriptors by what they are of.
func sortHanded(lent []Descriptor) map[string]bpf.Handed {
	handed := map[string]bpf.Handed{}
	for _, d := range lent {
		name, text, _ := strings.Cut(d.Name, " ")
		version, err := strconv.Atoi(text)
		if err != nil {
			version = 0 // none that there is
		}
		h := handed[name]
		h.Version = version
		h.Files = append(h.Files, d.File)
		handed[name] = h
	}
	return handed
}

// Hand returns descriptors by which another process can take the programs over; the caller closes them.
// They are in force until both have closed them.
func (p *Programs) Hand() (lent []Descriptor, err error) {
	add := func(name string, hand func() (bpf.Handed, error)) {
		h, handErr := hand()
		if handErr != nil {
			err = errors.Join(err, handErr)
			return
		}
		for _, f := range h.Files {
			lent = append(lent, Descriptor{fmt.Sprintf("%s %d", name, h.Version), f})
		}
	}
	if p.local != nil {
		add(nameLocal, p.local.Hand)
	}
	if p.Hold != nil {
		add(nameHold, p.Hold.Hand)
	}
	if p.Lookup != nil {
		add(nameLookup, p.Lookup.Hand)
	}
	return lent, err
}

// CloseFormer is to be called when the other process has closed its programs.
func (p *Programs) CloseFormer() error {
	if p.Former == nil {
		return nil
	}
	err := p.Former.Close()
	p.Former = nil
	return err
}

// Close ends the programs, unless another process has taken them over.
func (p *Programs) Close() error {
	errs := []error{p.CloseFormer()}
	if p.local != nil {
		errs = append(errs, p.local.Close())
	}
	if p.Hold != nil {
		errs = append(errs, p.Hold.Close())
	}
	if p.Lookup != nil {
		errs = append(errs, p.Lookup.Close())
	}
	*p = Programs{}
	return errors.Join(errs...)
}
