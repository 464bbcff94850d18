// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// FloatRequest is the key of the host that an address is to be handed over to.
func FloatRequest(a netip.Addr) string { return FloatRequests + a.String() }

// FloatItem is the item of a floating address, whose value is [FormatDevice]. Its name is the
// address with dashes for colons: 192.0.2.100, 2001-db8--100.
func FloatItem(s Scope, a netip.Addr) Item {
	return Item{Scope: s, Kind: KindFloat, Name: strings.ReplaceAll(a.String(), ":", "-")}
}

// FloatAddr is the address of an item of that kind.
func FloatAddr(i Item) (netip.Addr, error) {
	text := i.Name
	if strings.Contains(text, "-") {
		text = strings.ReplaceAll(text, "-", ":")
	}
	return ParseFloat(text)
}

// ParseFloat reads an address that can float: one of a host on a network, without a zone.
func ParseFloat(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	reason := ""
	switch {
	case err != nil:
		reason = "it is not an address"
	case a.Zone() != "" || a.IsLinkLocalUnicast():
		reason = "it is local to a link"
	case a.Is4In6():
		return a.Unmap(), nil
	case a.IsLoopback(), a.IsMulticast(), a.IsUnspecified(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		reason = "no host of a network has it"
	}
	if reason != "" {
		return netip.Addr{}, &nat.InvalidError{What: "floating address", Input: text, Reason: reason}
	}
	return a, nil
}

// devicePrefix is the one key of the YAML that is the value of a floating address.
const devicePrefix = "dev: "

// FormatDevice is the value of a floating address: the interface that the holder has it on.
func FormatDevice(dev string) string { return devicePrefix + dev + "\n" }

// ParseDevice is the inverse of [FormatDevice].
func ParseDevice(value string) (string, error) {
	dev, ok := strings.CutPrefix(strings.TrimSuffix(value, "\n"), devicePrefix)
	if !ok {
		return "", &nat.InvalidError{What: "float", Input: value, Reason: "it is not written like dev: eth0"}
	}
	return dev, ValidateDevice(dev)
}

// ValidateDevice reports whether an interface can have the name (dev_valid_name in the kernel).
func ValidateDevice(dev string) error {
	if dev == "" || len(dev) > 15 || dev == "." || dev == ".." || strings.ContainsAny(dev, "/: \t\n\v\f\r\"'#") {
		return &nat.InvalidError{What: "interface", Input: dev, Reason: "no interface can have that name"}
	}
	return nil
}

// Holder is who has a floating address: the value of [Float], whose lease is the holder's.
type Holder struct {
	Host string
	// Serving: the host has the address on its interface. Before that it is taking it.
	Serving bool
}

// String returns `web1 serving` or `web1 taking`.
func (h Holder) String() string {
	if h.Serving {
		return h.Host + " serving"
	}
	return h.Host + " taking"
}

// ParseHolder is the inverse of String.
func ParseHolder(value string) (Holder, error) {
	host, state, _ := strings.Cut(value, " ")
	if state != "serving" && state != "taking" {
		return Holder{}, &nat.InvalidError{What: "holder", Input: value, Reason: "it is not written like web1 serving"}
	}
	return Holder{Host: host, Serving: state == "serving"}, ValidateName("host", host)
}

// Epoch counts how often an address was taken: the value of [FloatEpoch]. A later holder has a
// greater one.
type Epoch struct {
	Number uint64
	Host   string // the last who took it
	Since  time.Time
}

// String returns `7 web1 2026-11-30T16:00:00Z`.
func (e Epoch) String() string {
	return fmt.Sprintf("%d %s %s", e.Number, e.Host, e.Since.UTC().Format(time.RFC3339))
}

// ParseEpoch is the inverse of String.
func ParseEpoch(value string) (Epoch, error) {
	f := strings.Fields(value)
	bad := &nat.InvalidError{What: "epoch", Input: value, Reason: "it is not written like 7 web1 2026-11-30T16:00:00Z"}
	if len(f) != 3 {
		return Epoch{}, bad
	}
	n, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return Epoch{}, bad
	}
	since, err := time.Parse(time.RFC3339, f[2])
	if err != nil {
		return Epoch{}, bad
	}
	return Epoch{Number: n, Host: f[1], Since: since}, nil
}
