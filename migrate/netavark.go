// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// setup is what netavark is given to set a container up.
type setup struct {
	ContainerID   string `json:"container_id"`
	ContainerName string `json:"container_name"`
	PortMappings  []struct {
		ContainerPort uint16 `json:"container_port"`
		HostIP        string `json:"host_ip"`
		HostPort      uint16 `json:"host_port"`
		Protocol      string `json:"protocol"`
		Range         uint16 `json:"range"` // how many ports
	} `json:"port_mappings"`
	Networks map[string]struct {
		StaticIPs []string `json:"static_ips"`
	} `json:"networks"`
}

// netavark imports its rules, from the kernel or as text, or what it was given.
func (im *Import) netavark(ctx context.Context, o Options, h *host) error {
	if o.File == "" || !bytes.HasPrefix(bytes.TrimSpace(o.Data), []byte("{")) {
		return im.rules(ctx, o, h)
	}
	im.From = o.File
	var s setup
	if err := decodeJSON(o.Data, &s); err != nil {
		return o.badFile("it is neither what netavark is given nor text of iptables-save: " + err.Error())
	}
	if s.Networks == nil {
		return o.badFile("it is not what netavark is given: it has no networks")
	}
	return im.setup(&s, o)
}

func (im *Import) setup(s *setup, o Options) error {
	var four, six []netip.Addr
	var names []string
	for n := range s.Networks {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		for _, text := range s.Networks[n].StaticIPs {
			a, err := netip.ParseAddr(text)
			switch {
			case err != nil:
				return o.badFile(fmt.Sprintf("%q is no address", text))
			case a.Is4():
				four = append(four, a)
			default:
				six = append(six, a)
			}
		}
	}
	name := s.ContainerName
	if nat.ValidateName(name) != nil {
		name = ""
	}
	for _, p := range s.PortMappings {
		for word := range strings.SplitSeq(p.Protocol, ",") {
			here := fmt.Sprintf("container %s: %s:%d+%d->%d/%s", s.ContainerName, p.HostIP, p.HostPort, max(p.Range, 1), p.ContainerPort, word)
			proto, err := nat.ParseProto(strings.TrimSpace(word))
			if err != nil {
				im.leaveOut(here, otherProtocol)
				continue
			}
			front := netip.Addr{}
			if p.HostIP != "" {
				if front, err = netip.ParseAddr(p.HostIP); err != nil {
					return o.badFile(fmt.Sprintf("%q is no address", p.HostIP))
				}
			}
			found := false
			for _, of := range [][]netip.Addr{four, six} {
				if len(of) == 0 || front.IsValid() && front.Is4() != of[0].Is4() {
					continue
				}
				found = true
				host := front
				if !host.IsValid() {
					if host = netip.IPv4Unspecified(); of[0].Is6() {
						host = netip.IPv6Unspecified()
					}
				}
				im.add(Entry{Origins: []string{here}, Mapping: nat.Mapping{
					Proto: proto, Frontend: netip.AddrPortFrom(host, p.HostPort), Backend: netip.AddrPortFrom(of[0], p.ContainerPort), More: max(p.Range, 1) - 1, Name: name,
				}})
			}
			if !found {
				im.leaveOut(here, "the container has no address of that family")
			}
		}
	}
	return nil
}
