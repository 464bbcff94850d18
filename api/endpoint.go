// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"

	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// Endpoint is a document of GET /v1/endpoints. It has a mapping for each port, unless the
// request has the parameter "ranges".
type Endpoint struct {
	Name     string    `json:"name"`
	Network  string    `json:"network"`
	Address  string    `json:"address"`
	Prefix   string    `json:"prefix"`
	Gateway  string    `json:"gateway"`
	Mappings []Mapping `json:"mappings"`
}

// EndpointOf returns the document of an endpoint, ranges expanded.
func EndpointOf(ep nat.Endpoint) Endpoint { return endpointDoc(ep, false) }

// RangeEndpointOf returns the document of an endpoint, each range as one.
func RangeEndpointOf(ep nat.Endpoint) Endpoint { return endpointDoc(ep, true) }

func endpointDoc(ep nat.Endpoint, ranges bool) Endpoint {
	return Endpoint{
		Name: ep.Name, Network: ep.Network, Address: ep.Address.String(), Prefix: ep.Prefix.String(),
		Gateway: ep.Gateway.String(), Mappings: mappingDocs(ep.Mappings, ranges),
	}
}

// Endpoints returns the documents of endpoints.
func Endpoints(eps []nat.Endpoint) []Endpoint {
	return documents(eps, EndpointOf)
}

// endpoint returns the endpoint that the document describes.
func (doc *Endpoint) endpoint() (ep nat.Endpoint, err error) {
	ep.Name, ep.Network = doc.Name, doc.Network
	var errs [4]error
	ep.Address, errs[0] = netip.ParseAddr(doc.Address)
	ep.Prefix, errs[1] = netip.ParsePrefix(doc.Prefix)
	ep.Gateway, errs[2] = netip.ParseAddr(doc.Gateway)
	ms, err := mappings(doc.Mappings)
	ep.Mappings, errs[3] = nat.Collapse(ms), err
	if err := errors.Join(errs[:]...); err != nil {
		return nat.Endpoint{}, fmt.Errorf("read endpoint: %w", err)
	}
	return ep, nil
}

// attachRequest is the document of an endpoint that a client asks for.
type attachRequest struct {
	Name    string   `json:"name"`
	Network string   `json:"network,omitempty"` // that of the address, or the only one there is
	Address string   `json:"address,omitempty"` // the next free one
	Ports   []string `json:"ports,omitempty"`   // port specs
}

func attachFields() []string { return []string{"name", "network", "address", "ports"} }

func attachRequestOf(a nat.EndpointSpec) attachRequest {
	r := attachRequest{Name: a.Name, Network: a.Network}
	if a.Address.IsValid() {
		r.Address = a.Address.String()
	}
	for _, s := range a.Ports {
		r.Ports = append(r.Ports, s.String())
	}
	return r
}

func (r *attachRequest) spec() (nat.EndpointSpec, error) {
	return nat.ParseEndpointSpec(r.Name, r.Network, r.Address, r.Ports...)
}

// Inspection is the document of `nftnat inspect` and GET /v1/endpoints/{name}. It has the
// fields of `docker inspect` in 2013, for programs that read those.
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
	// Bridge is always empty: it is not known here.
	Bridge      string      `json:"Bridge"`
	PortMapping PortMapping `json:"PortMapping"`
}

// PortMapping has the lowest frontend port of each backend port, both decimal. Neither map is
// nil.
type PortMapping struct {
	TCP map[string]string `json:"Tcp"`
	UDP map[string]string `json:"Udp"`
}

// Inspect makes the document of an endpoint.
func Inspect(ep nat.Endpoint) Inspection {
	var singles []nat.Mapping
	for _, m := range ep.Mappings {
		singles = slices.AppendSeq(singles, nat.Expand(m))
	}
	order.Sort(singles, func(a, b nat.Mapping) int { return cmp.Compare(b.Frontend.Port(), a.Frontend.Port()) })
	ports := PortMapping{TCP: map[string]string{}, UDP: map[string]string{}}
	for _, m := range singles { // of each backend port the lowest frontend port comes last
		of := ports.TCP
		if m.Proto == nat.UDP {
			of = ports.UDP
		}
		of[strconv.Itoa(int(m.Backend.Port()))] = strconv.Itoa(int(m.Frontend.Port()))
	}
	return Inspection{
		Name: ep.Name,
		NetworkSettings: NetworkSettings{
			IPAddress: ep.Address.String(), IPPrefixLen: ep.Prefix.Bits(), Gateway: ep.Gateway.String(), PortMapping: ports,
		},
	}
}

func (h *handler) getEndpoints(_ http.ResponseWriter, c *call) (any, error) {
	s, err := h.Engine.State(c.ctx)
	return documents(nat.EndpointsOf(s), func(ep nat.Endpoint) Endpoint { return endpointDoc(ep, c.flag("ranges")) }), err
}

func (h *handler) postEndpoints(w http.ResponseWriter, c *call) (any, error) {
	var r attachRequest
	if err := h.readOne(w, c, &r, attachFields()); err != nil {
		return nil, err
	}
	spec, err := r.spec()
	if err != nil {
		return nil, err
	}
	if specPorts(spec) > maxPorts {
		return nil, tooMany(maxPorts, "ports")
	}
	ep, err := change(h, c, Outcome{Operation: OpAttach, Name: spec.Name},
		func() (nat.Endpoint, error) { return h.Engine.Attach(c.ctx, spec) },
		func(o *Outcome, ep nat.Endpoint) { o.Address, o.Mappings = ep.Address.String(), ep.Mappings })
	return endpointDoc(ep, c.flag("ranges")), err
}

func (h *handler) getEndpoint(_ http.ResponseWriter, c *call) (any, error) {
	name := c.segments[0]
	if err := nat.ValidateEndpointName(name); err != nil {
		return nil, err
	}
	ep, err := h.Engine.Endpoint(c.ctx, name)
	return Inspect(ep), err
}

func (h *handler) deleteEndpoint(_ http.ResponseWriter, c *call) (any, error) {
	name := c.segments[0]
	if err := nat.ValidateEndpointName(name); err != nil {
		return nil, err
	}
	return h.changeMappings(c, Outcome{Operation: OpDetach, Name: name},
		func() ([]nat.Mapping, error) { return h.Engine.Detach(c.ctx, name) })
}
