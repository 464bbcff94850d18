// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"strconv"

	"github.com/nftnat/nftnat/nat"
)

// Inspection is the document of `nftnat inspect` and GET /v1/endpoints/{name}. Its shape
// is that of `docker inspect` in 2013, for those who read that.
type Inspection struct {
	Name            string          `json:"Name"`
	NetworkSettings NetworkSettings `json:"NetworkSettings"`
}

// NetworkSettings are an endpoint's addresses and ports.
type NetworkSettings struct {
	IPAddress string `json:"IPAddress"`
	// IPPrefixLen is the length of the network's prefix.
	IPPrefixLen int    `json:"IPPrefixLen"`
	Gateway     string `json:"Gateway"`
	// Bridge is always empty: what carries the network is not known here.
	Bridge      string      `json:"Bridge"`
	PortMapping PortMapping `json:"PortMapping"`
}

// PortMapping has the frontend's port by the backend's, both decimal; the lowest one,
// where several lead to the same backend port. Neither part is ever nil.
type PortMapping struct {
	TCP map[string]string `json:"Tcp"`
	UDP map[string]string `json:"Udp"`
}

// Inspect makes the document of an endpoint.
func Inspect(ep nat.Endpoint) Inspection {
	type backend struct {
		proto nat.Proto
		port  uint16
	}
	lowest := map[backend]uint16{}
	for _, m := range ep.Mappings {
		for single := range nat.Expand(m) {
			at, port := backend{single.Proto, single.Backend.Port()}, single.Frontend.Port()
			if have, ok := lowest[at]; !ok || port < have {
				lowest[at] = port
			}
		}
	}
	ports := PortMapping{TCP: map[string]string{}, UDP: map[string]string{}}
	for at, port := range lowest {
		of := ports.TCP
		if at.proto == nat.UDP {
			of = ports.UDP
		}
		of[strconv.Itoa(int(at.port))] = strconv.Itoa(int(port))
	}
	return Inspection{
		Name: ep.Name,
		NetworkSettings: NetworkSettings{
			IPAddress: ep.Address.String(), IPPrefixLen: ep.Prefix.Bits(), Gateway: ep.Gateway.String(), PortMapping: ports,
		},
	}
}
