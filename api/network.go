// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"net/netip"

	"github.com/nftnat/nftnat/nat"
)

// Network is the document of a network.
type Network struct {
	Name string `json:"name"`
	// Prefix has its addresses; Gateway is the host's.
	Prefix  string `json:"prefix"`
	Gateway string `json:"gateway"`
	// Masquerade is whether packets that leave the host get its address as source, and Guard
	// whether only published ports can be reached from outside.
	Masquerade bool `json:"masquerade"`
	Guard      bool `json:"guard"`
	// Next is the address for the next endpoint, if it is free then.
	Next string `json:"next"`
	// Endpoints is the number of endpoints in it.
	Endpoints int `json:"endpoints"`
}

// Networks are the documents of a state's networks, in its order.
func Networks(s nat.State) []Network {
	inside := map[string]int{}
	for _, a := range s.Endpoints {
		inside[a.Network]++
	}
	docs := make([]Network, len(s.Networks)) // never nil: an empty array, not null
	for i, n := range s.Networks {
		docs[i] = NetworkOf(n, inside[n.Name])
	}
	return docs
}

// NetworkOf is the document of a network with this number of endpoints.
func NetworkOf(n nat.Network, endpoints int) Network {
	return Network{
		Name: n.Name, Prefix: n.Prefix.String(), Gateway: addrText(n.Gateway),
		Masquerade: !n.NoMasquerade, Guard: !n.NoGuard, Next: addrText(n.Next), Endpoints: endpoints,
	}
}

// addrText is an address as text, empty if there is none.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// network returns the network that the document describes.
func (n *Network) network() (nat.Network, error) {
	r := networkRequest{
		Name: n.Name, Prefix: n.Prefix, Gateway: n.Gateway, Masquerade: &n.Masquerade, Guard: &n.Guard, Next: n.Next,
	}
	return r.network()
}

// networkRequest is the document of a network that a client asks for.
type networkRequest struct {
	Name       string `json:"name"`
	Prefix     string `json:"prefix"`
	Gateway    string `json:"gateway,omitempty"`    // the first address
	Masquerade *bool  `json:"masquerade,omitempty"` // nil: true
	Guard      *bool  `json:"guard,omitempty"`      // nil: true
	Next       string `json:"next,omitempty"`       // the first free address
}

func networkFields() []string {
	return []string{"name", "prefix", "gateway", "masquerade", "guard", "next"}
}

func networkRequestOf(n nat.Network) networkRequest {
	r := networkRequest{Name: n.Name, Prefix: n.Prefix.String(), Gateway: addrText(n.Gateway), Next: addrText(n.Next)}
	if n.NoMasquerade {
		r.Masquerade = new(bool)
	}
	if n.NoGuard {
		r.Guard = new(bool)
	}
	return r
}

// network returns the network that the document asks for. It checks the form only, as the
// parsers of package nat do; its errors are nat.ErrInvalid.
func (r *networkRequest) network() (nat.Network, error) {
	n, err := nat.ParseNetwork(r.Name, r.Prefix, r.Gateway)
	if err != nil {
		return nat.Network{}, err
	}
	n.NoMasquerade = r.Masquerade != nil && !*r.Masquerade
	n.NoGuard = r.Guard != nil && !*r.Guard
	if r.Next != "" {
		if n.Next, err = netip.ParseAddr(r.Next); err != nil {
			return nat.Network{}, invalid("next address", r.Next, "it is not an IP address")
		}
	}
	return n, nil
}

func (h *handler) getNetworks(_ http.ResponseWriter, c *call) (any, error) {
	s, err := h.Engine.State(c.ctx)
	return Networks(s), err
}

func (h *handler) postNetworks(w http.ResponseWriter, c *call) (any, error) {
	var r networkRequest
	if err := h.readOne(w, c, &r, networkFields()); err != nil {
		return nil, err
	}
	wanted, err := r.network()
	if err != nil {
		return nil, err
	}
	made, err := change(h, c, Outcome{Operation: OpCreateNetwork, Name: wanted.Name},
		func() (nat.Network, error) { return h.Engine.CreateNetwork(c.ctx, wanted) },
		func(o *Outcome, n nat.Network) { o.Address = n.Prefix.String() })
	if err == nil && c.report.Unchanged { // it may have endpoints
		return h.networkNamed(c, made.Name)
	}
	return NetworkOf(made, 0), err
}

func (h *handler) getNetwork(_ http.ResponseWriter, c *call) (any, error) {
	if err := nat.ValidateNetworkName(c.segments[0]); err != nil {
		return nil, err
	}
	return h.networkNamed(c, c.segments[0])
}

// networkNamed is the document of the network of a name.
func (h *handler) networkNamed(c *call, name string) (any, error) {
	s, err := h.Engine.State(c.ctx)
	if err != nil {
		return nil, err
	}
	for _, doc := range Networks(s) {
		if doc.Name == name {
			return doc, nil
		}
	}
	n, err := h.Engine.Network(c.ctx, name) // for its error, unless it has just been made
	return NetworkOf(n, 0), err
}

func (h *handler) deleteNetwork(w http.ResponseWriter, c *call) (any, error) {
	name := c.segments[0]
	if err := nat.ValidateNetworkName(name); err != nil {
		return nil, err
	}
	_, err := change(h, c, Outcome{Operation: OpRemoveNetwork, Name: name},
		func() (struct{}, error) { return struct{}{}, h.Engine.RemoveNetwork(c.ctx, name) },
		func(*Outcome, struct{}) {})
	if err == nil {
		writeNotes(w.Header(), c.report)
		w.WriteHeader(http.StatusNoContent)
	}
	return nil, err
}
