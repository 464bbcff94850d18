// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/nftnat/nftnat/nat"
)

// Config is what docker-proxy's flags say.
type Config struct {
	// Proto is "tcp", "udp" or "sctp", if Check returns nil.
	Proto string
	// HostIP and HostPort are the frontend, ContainerIP and ContainerPort the backend.
	HostIP        netip.Addr
	HostPort      int
	ContainerIP   netip.Addr
	ContainerPort int
	// ListenFD says that the frontend's socket is descriptor 4.
	ListenFD bool
	// Version says that only the version is asked for.
	Version bool
}

// ParseFlags reads docker-proxy's flags, of version 20.10 and later, as package flag does.
// Usage and errors are written to w. The error is flag.ErrHelp if help was asked for.
func ParseFlags(program string, args []string, w io.Writer) (Config, error) {
	var (
		c                   Config
		hostIP, containerIP net.IP
	)
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.SetOutput(w)
	flags.StringVar(&c.Proto, "proto", "tcp", "proxy protocol")
	flags.TextVar(&hostIP, "host-ip", net.IPv4zero, "host ip")
	flags.IntVar(&c.HostPort, "host-port", -1, "host port")
	flags.TextVar(&containerIP, "container-ip", net.IPv4zero, "container ip")
	flags.IntVar(&c.ContainerPort, "container-port", -1, "container port")
	flags.BoolVar(&c.ListenFD, "use-listen-fd", false, "use a supplied listen fd")
	flags.BoolVar(&c.Version, "v", false, "print version information and quit")
	flags.BoolVar(&c.Version, "version", false, "print version information and quit")
	if err := flags.Parse(args); err != nil {
		return Config{}, err
	}
	c.HostIP, c.ContainerIP = addrOf(hostIP), addrOf(containerIP)
	return c, nil
}

// helpAsked reports whether an error of ParseFlags is that help was asked for.
func helpAsked(err error) bool { return errors.Is(err, flag.ErrHelp) }

// addrOf returns an address as package netip has it; none is any of IPv6, as for docker-proxy.
func addrOf(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.IPv6Unspecified()
	}
	return a.Unmap()
}

// errProto is docker-proxy's word for an unknown protocol.
var errProto = errors.New("unsupported protocol")

// Check refuses what cannot be carried.
func (c *Config) Check() error {
	switch {
	case c.Proto != "tcp" && c.Proto != "udp" && c.Proto != "sctp":
		return fmt.Errorf("%w %s", errProto, c.Proto)
	case c.HostPort < 1 || c.HostPort > 65535:
		return fmt.Errorf("invalid host port %d: it is not 1 to 65535", c.HostPort)
	case c.ContainerPort < 1 || c.ContainerPort > 65535:
		return fmt.Errorf("invalid container port %d: it is not 1 to 65535", c.ContainerPort)
	}
	return nil
}

func (c *Config) frontend() netip.AddrPort { return netip.AddrPortFrom(c.HostIP, uint16(c.HostPort)) }

func (c *Config) backend() netip.AddrPort {
	return netip.AddrPortFrom(c.ContainerIP, uint16(c.ContainerPort))
}

// mapping is what is published. dual says that the socket of [::] is for IPv4 as well.
func (c *Config) mapping(name string, proxyOnly, dual bool) (nat.Mapping, error) {
	proto, err := nat.ParseProto(c.Proto)
	if err != nil {
		return nat.Mapping{}, err
	}
	m := nat.Mapping{Proto: proto, Frontend: c.frontend(), Backend: c.backend(), Name: name, ProxyOnly: proxyOnly}
	if dual {
		m.Frontend = netip.AddrPortFrom(netip.Addr{}, m.Frontend.Port())
	}
	return m, m.Validate()
}
