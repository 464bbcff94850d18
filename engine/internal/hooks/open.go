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

// Programs are those of package bpf that are in force for a network namespace.
type Programs struct {
	local *bpf.Local
	// Hold keeps other programs from ports; nil: it is not to be had, and NoHold says why.
	Hold   *bpf.Hold
	NoHold error
	// Localhost leads sockets on localhost.
	Localhost *Localhost
}

// Descriptor is a file of programs on its way to another process. Those of one name stay in order.
type Descriptor struct {
	Name string
	File *os.File
}

// The first word of a name; the second is the version.
const (
	nameLocal = "local"
	nameHold  = "hold"
)

// Open puts programs in force for a namespace, or takes them over that another process has lent, where
// they are of this version. The others go when that process closes them. It closes what was lent.
//
// It needs CAP_BPF and CAP_NET_ADMIN, and CAP_SYS_ADMIN where the control groups of version 2 are not
// mounted. What it returns needs no privilege.
func Open(ns *hostnet.Namespace, lent []Descriptor) (_ *Programs, err error) {
	handed := sortHanded(lent)
	defer func() {
		for _, h := range handed {
			_ = h.Close() // nothing was written
		}
	}()
	cookie, err := ns.Cookie()
	if err != nil {
		return nil, describe(err)
	}
	group, err := bpf.RootGroup()
	if err != nil {
		return nil, describe(err)
	}
	defer func() { err = errors.Join(err, group.Close()) }()
	p := &Programs{}
	localOptions := bpf.LocalOptions{Group: int(group.Fd()), NetNS: cookie}
	if p.local, err = bpf.TakeLocal(localOptions, handed[nameLocal]); err != nil {
		p.local, err = bpf.OpenLocal(localOptions)
	}
	if err != nil {
		return nil, describe(err)
	}
	holdOptions := bpf.HoldOptions{Group: int(group.Fd()), NetNS: cookie}
	if p.Hold, err = bpf.TakeHold(holdOptions, handed[nameHold]); err != nil {
		p.Hold, p.NoHold = bpf.OpenHold(holdOptions)
	}
	p.Localhost = NewLocalhost(p.local)
	return p, nil
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
	if p == nil {
		return nil, nil
	}
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
	add(nameLocal, p.local.Hand)
	if p.Hold != nil {
		add(nameHold, p.Hold.Hand)
	}
	return lent, err
}

// Close ends the programs, unless another process has taken them over.
func (p *Programs) Close() error {
	if p == nil {
		return nil
	}
	errs := []error{p.local.Close()}
	if p.Hold != nil {
		errs = append(errs, p.Hold.Close())
	}
	return errors.Join(errs...)
}
