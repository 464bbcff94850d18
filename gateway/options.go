// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/gateway/internal/lease"
)

// IGD is a version of UPnP's Internet Gateway Device, or none.
type IGD int

// The versions. Clients of version 1 often do not take version 2.
const (
	IGDOff IGD = iota
	IGDv1
	IGDv2
)

// String returns the word that [ParseIGD] reads.
func (v IGD) String() string {
	switch v {
	case IGDOff:
		return "off"
	case IGDv1:
		return "v1"
	case IGDv2:
		return "v2"
	default:
		return "invalid"
	}
}

// ParseIGD reads off, v1 or v2.
func ParseIGD(s string) (IGD, error) {
	for _, v := range []IGD{IGDOff, IGDv1, IGDv2} {
		if s == v.String() {
			return v, nil
		}
	}
	return 0, fmt.Errorf("%q is not off, v1 or v2", s)
}

// DefaultQuota, DefaultMin and DefaultMax are the limits if none are given.
const (
	DefaultQuota = lease.DefaultQuota
	DefaultMin   = lease.DefaultMin
	DefaultMax   = lease.DefaultMax
)

// Options say what a gateway serves.
type Options struct {
	// Daemon is the path of the daemon's socket; required.
	Daemon string
	// LAN are the devices whose hosts are served, at least one, and WAN is the device of the
	// ports; required.
	LAN []string
	WAN string
	// NoPCP leaves out NAT-PMP and PCP. IGD is the version of UPnP's device; zero: none.
	NoPCP bool
	IGD   IGD
	// Rules say who may have which ports, a line each as in miniupnpd's configuration: allow
	// 1024-65535 192.168.1.0/24 1024-65535. The first one that is about a client and both
	// ports decides, and the answer is no if none is. Nil: everybody on the LAN may have ports from 1024 on.
	Rules []string
	// Quota is the most leases of a client. Zero: DefaultQuota.
	Quota int
	// MinLifetime and MaxLifetime bound the time of a lease, MaxLifetime not of IGD. Zero: DefaultMin and DefaultMax.
	MinLifetime, MaxLifetime time.Duration
	// ExternalIP is the address that clients are told. Zero: that of WAN.
	ExternalIP netip.Addr
	// Presentation is the URL of a page about the gateway, for clients of UPnP. Empty: there is none.
	Presentation string
	// Socket is the path at which the gateway answers GET /v1/gateway, of the group of the process. Empty:
	// nowhere, unless the service manager hands over a socket.
	Socket string
	// Confine has the process give up what it does not need once the sockets are open. It holds
	// for all of the process.
	Confine bool
	// Ready is called when the gateway serves. Nil: nothing is.
	Ready func()
	// Log gets what operators should know. Nil: nothing is logged.
	Log *slog.Logger
}

// OptionError says which option is wrong.
type OptionError struct{ Err error }

func (e *OptionError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *OptionError) Unwrap() error { return e.Err }

// Validate checks the options as far as that depends on them alone. The error is an [*OptionError].
func (o *Options) Validate() error {
	if err := o.fault(); err != nil {
		return &OptionError{err}
	}
	return nil
}

// maxDevice is the most bytes of the name of a device (IFNAMSIZ in include/uapi/linux/if.h, less the NUL).
const maxDevice = 15

func (o *Options) fault() error {
	switch {
	case len(o.LAN) == 0:
		return errors.New("no device of the LAN is given")
	case o.WAN == "":
		return errors.New("no device of the WAN is given")
	case slices.Contains(o.LAN, o.WAN):
		return fmt.Errorf("%s cannot be of the LAN and of the WAN", o.WAN)
	case o.NoPCP && o.IGD == IGDOff:
		return errors.New("neither PCP nor IGD is to be served")
	case o.Quota < 0:
		return fmt.Errorf("a quota of %d is less than nothing", o.Quota)
	case o.MinLifetime < 0 || o.MaxLifetime < 0 || o.MaxLifetime != 0 && max(o.MinLifetime, time.Second) > o.MaxLifetime:
		return fmt.Errorf("there is no lifetime from %s to %s", o.MinLifetime, o.MaxLifetime)
	case o.ExternalIP.IsValid() && (!o.ExternalIP.Is4() || o.ExternalIP.IsUnspecified() || o.ExternalIP.IsMulticast() || o.ExternalIP.IsLoopback()):
		return fmt.Errorf("%s is no IPv4 address of a host", o.ExternalIP)
	}
	for i, name := range append([]string{o.WAN}, o.LAN...) {
		if name == "" || len(name) > maxDevice || strings.ContainsAny(name, "/ \t\n") || name == "." || name == ".." {
			return fmt.Errorf("%q is no name of a device", name)
		}
		if i > 0 && slices.Contains(o.LAN[:i-1], name) {
			return fmt.Errorf("%s is given twice", name)
		}
	}
	if err := checkPage(o.Presentation); err != nil {
		return err
	}
	_, err := o.rules()
	return err
}

// checkPage checks Options.Presentation.
func checkPage(text string) error {
	if text == "" {
		return nil
	}
	if u, err := url.Parse(text); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q is no URL of a page", text)
	}
	return nil
}

func (o *Options) rules() (lease.Rules, error) {
	if o.Rules == nil {
		return lease.DefaultRules(), nil
	}
	return lease.ParseRules(strings.NewReader(strings.Join(o.Rules, "\n")))
}

// CheckRules checks Options.Rules.
func CheckRules(rules []string) error {
	_, err := (&Options{Rules: rules}).rules()
	return err
}

// CheckRule checks a rule of Options.Rules.
func CheckRule(text string) error {
	_, err := lease.ParseRule(text)
	return err
}
