// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/nftnat/nftnat/nat"
)

// portMapping is a port that the runtime wants published. Runtimes write the keys in lower and in
// upper case.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// daemonConfig says which daemon publishes.
type daemonConfig struct {
	// Socket is that of the daemon, and Table its table; empty: the default ones.
	Socket string `json:"socket"`
	Table  string `json:"table"`
	// StartDaemon starts a daemon if none answers.
	StartDaemon bool `json:"startDaemon"`
}

// config is the configuration of a network, with what the runtime adds to it.
type config struct {
	types.PluginConf
	daemonConfig
	// OnConflict is what happens to a port that somebody else has published: onConflictRefuse or
	// onConflictReplace.
	OnConflict string `json:"onConflict"`
	// Hold is whether the ports are held against other programs: holdAuto, holdOwn or holdShared.
	Hold string `json:"hold"`

	// What portmap has. These say nothing here:
	Backend     *string `json:"backend"`
	MarkMasqBit *int    `json:"markMasqBit"`
	// These would say what cannot be done here:
	SNAT                 *bool    `json:"snat"`
	MasqAll              bool     `json:"masqAll"`
	ExternalSetMarkChain *string  `json:"externalSetMarkChain"`
	ConditionsV4         []string `json:"conditionsV4"`
	ConditionsV6         []string `json:"conditionsV6"`

	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// The values of onConflict and hold.
const (
	onConflictRefuse  = "refuse"
	onConflictReplace = "replace"

	holdAuto   = "auto"
	holdOwn    = "own"
	holdShared = "shared"
)

// parseConfig reads a configuration and the result of the plugin before. Its errors are those of
// portmap, as far as that has them.
func parseConfig(text []byte) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("failed to parse config: failed to parse network configuration: %w", err)
	}
	if c.RawPrevResult != nil {
		if err := version.ParsePrevResult(&c.PluginConf); err != nil {
			return nil, fmt.Errorf("failed to parse config: could not parse prevResult: %w", err)
		}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	for _, p := range c.RuntimeConfig.PortMappings {
		switch {
		case p.ContainerPort <= 0:
			return nil, fmt.Errorf("failed to parse config: Invalid container port number: %d", p.ContainerPort)
		case p.HostPort <= 0:
			return nil, fmt.Errorf("failed to parse config: Invalid host port number: %d", p.HostPort)
		case p.ContainerPort > math.MaxUint16:
			return nil, invalid("containerPort", strconv.Itoa(p.ContainerPort))
		case p.HostPort > math.MaxUint16:
			return nil, invalid("hostPort", strconv.Itoa(p.HostPort))
		}
	}
	return c, nil
}

// check checks the keys that do not depend on the container.
func (c *config) check() error {
	switch {
	case c.MarkMasqBit != nil && c.ExternalSetMarkChain != nil:
		return errors.New("failed to parse config: Cannot specify externalSetMarkChain and markMasqBit")
	case c.MarkMasqBit != nil && (*c.MarkMasqBit < 0 || *c.MarkMasqBit > 31):
		return errors.New("failed to parse config: MasqMarkBit must be between 0 and 31")
	case c.Backend != nil && *c.Backend != "iptables" && *c.Backend != "nftables":
		return fmt.Errorf("failed to parse config: unrecognized backend %q", *c.Backend)
	case c.SNAT != nil && !*c.SNAT:
		return unsupported("snat", "false")
	case c.MasqAll:
		return unsupported("masqAll", "true")
	case c.ExternalSetMarkChain != nil && *c.ExternalSetMarkChain != "":
		return unsupported("externalSetMarkChain", strconv.Quote(*c.ExternalSetMarkChain))
	case !blank(c.ConditionsV4):
		return unsupported("conditionsV4", fmt.Sprintf("%q", c.ConditionsV4))
	case !blank(c.ConditionsV6):
		return unsupported("conditionsV6", fmt.Sprintf("%q", c.ConditionsV6))
	case !slices.Contains([]string{"", onConflictRefuse, onConflictReplace}, c.OnConflict):
		return invalid("onConflict", strconv.Quote(c.OnConflict))
	case !slices.Contains([]string{"", holdAuto, holdOwn, holdShared}, c.Hold):
		return invalid("hold", strconv.Quote(c.Hold))
	}
	return nil
}

// blank reports whether all of the texts are empty.
func blank(texts []string) bool {
	return !slices.ContainsFunc(texts, func(text string) bool { return text != "" })
}

// invalid is the error of a key whose value means nothing.
func invalid(key, value string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("invalid %s: %s", key, value), "")
}

// unsupported is the error of a key whose value means what cannot be done here.
func unsupported(key, value string) error {
	return types.NewError(types.ErrUnsupportedField, fmt.Sprintf("%s %s is not supported", key, value), "")
}

// backends returns the container's addresses: of each family the first that the plugins before gave to
// this interface, or that they do not say the interface of. Zero: it has none.
func backends(r *current.Result, ifName string) (v4, v6 netip.Addr) {
	for _, ip := range r.IPs {
		if ip == nil {
			continue
		}
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(r.Interfaces) && r.Interfaces[*i] != nil {
			if at := r.Interfaces[*i]; at.Name != ifName || at.Sandbox == "" {
				continue
			}
		}
		switch a := address(ip.Address.IP); {
		case a.Is4() && !v4.IsValid():
			v4 = a
		case a.Is6() && !v6.IsValid():
			v6 = a
		}
	}
	return v4, v6
}

func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// convert returns a result in the form of the latest version. The library fails at elements that are null.
func convert(result types.Result) (r *current.Result, err error) {
	const failed = "failed to parse config: could not convert result to current version: "
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf(failed+"%v", cause)
		}
	}()
	if r, err = current.NewResultFromResult(result); err != nil {
		err = fmt.Errorf(failed+"%w", err)
	}
	return r, err
}

// mappings returns the mappings that the runtime wants for a container, one a port.
func (c *config) mappings(args *skel.CmdArgs) ([]nat.Mapping, error) {
	result, err := convert(c.PrevResult)
	if err != nil {
		return nil, err
	}
	v4, v6 := backends(result, args.IfName)
	m := nat.Mapping{Name: OwnerName(c.Name, args.ContainerID, args.IfName)}
	if c.Hold == holdShared {
		m.Hold = nat.HoldShared
	}
	var ms []nat.Mapping
	for i := range c.RuntimeConfig.PortMappings {
		p := &c.RuntimeConfig.PortMappings[i]
		if m.Proto, err = p.proto(); err != nil {
			return nil, err
		}
		hosts, err := p.hosts(v4.IsValid() && v6.IsValid())
		if err != nil {
			return nil, err
		}
		for _, host := range hosts {
			backend := v4
			if host.Is6() || !host.IsValid() && !v4.IsValid() {
				backend = v6
			}
			if !backend.IsValid() {
				continue // a host address of a family that the container does not have
			}
			m.Frontend = netip.AddrPortFrom(host, uint16(p.HostPort))
			m.Backend = netip.AddrPortFrom(backend, uint16(p.ContainerPort))
			ms = append(ms, m)
		}
	}
	return distinct(ms)
}

// proto returns the protocol of a port.
func (p *portMapping) proto() (nat.Proto, error) {
	switch strings.ToLower(p.Protocol) {
	case "tcp":
		return nat.TCP, nil
	case "udp":
		return nat.UDP, nil
	case "sctp":
		return 0, unsupported("protocol", strconv.Quote(p.Protocol))
	}
	return 0, invalid("protocol", strconv.Quote(p.Protocol))
}

// hosts returns the host addresses of a port. The zero address is any of both families, for a container
// that has one of them; clients of the other are served by a proxy.
func (p *portMapping) hosts(both bool) ([]netip.Addr, error) {
	switch {
	case p.HostIP == "" && both:
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
	case p.HostIP == "":
		return []netip.Addr{{}}, nil
	}
	host, err := netip.ParseAddr(p.HostIP)
	if err != nil || host.Zone() != "" {
		return nil, invalid("hostIP", strconv.Quote(p.HostIP))
	}
	return []netip.Addr{host.Unmap()}, nil
}

// distinct leaves out mappings that say the same as others: their twins, and those of one address where
// another leads all addresses to the same place. Other mappings of one port and address are refused.
func distinct(ms []nat.Mapping) ([]nat.Mapping, error) {
	var kept []nat.Mapping
	at := map[uint32][]int{} // which are kept, by protocol and port
	for breadth := range 3 { // first those for any address, so that they are kept
		for i := range ms {
			m := &ms[i]
			if breadthOf(m.Frontend.Addr()) != breadth {
				continue
			}
			port := uint32(m.Proto)<<16 | uint32(m.Frontend.Port())
			other := slices.IndexFunc(at[port], func(k int) bool { return overlap(&kept[k], m) })
			if other < 0 {
				at[port] = append(at[port], len(kept))
				kept = append(kept, *m)
			} else if k := &kept[at[port][other]]; k.Backend != m.Backend {
				return nil, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(
					"invalid portMappings: %s leads to %s and to %s", nat.DescribeFrontend(*m), k.Backend, m.Backend), "")
			}
		}
	}
	return kept, nil
}

// breadthOf is 0 for any address, 1 for any of a family, and 2 for a single one.
func breadthOf(host netip.Addr) int {
	switch {
	case !host.IsValid():
		return 0
	case host.IsUnspecified():
		return 1
	}
	return 2
}

// overlap reports whether a packet could match the frontends of two mappings.
func overlap(a, b *nat.Mapping) bool {
	firstA, firstB := int(a.Frontend.Port()), int(b.Frontend.Port())
	return a.Proto == b.Proto && firstA <= firstB+int(b.More) && firstB <= firstA+int(a.More) &&
		addressesOverlap(a.Frontend.Addr(), b.Frontend.Addr())
}

func addressesOverlap(a, b netip.Addr) bool {
	if !a.IsValid() || !b.IsValid() || a == b {
		return true
	}
	return a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}
