// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"

	"github.com/nftnat/nftnat/nat"
)

func (h *handler) getNetworks(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	s, err := h.Engine.State(c.ctx)
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, Networks(s))
	return nil
}

func (h *handler) postNetworks(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	body, _, err := h.readBody(w, c, h.limits.body, typeJSON)
	if err != nil {
		return err
	}
	var r networkRequest
	if err := decodeOne(body, &r, networkFields()); err != nil {
		return err
	}
	wanted, err := r.network()
	if err != nil {
		return err
	}
	made, err := change(h, c, Outcome{Operation: OpCreateNetwork, Name: wanted.Name},
		func() (nat.Network, error) { return h.Engine.CreateNetwork(c.ctx, wanted) },
		func(o *Outcome, n nat.Network) { o.Address = n.Prefix.String() })
	if err != nil {
		return err
	}
	doc := NetworkOf(made, 0)
	if c.report.Unchanged { // endpoints may be in it
		if doc, err = h.networkNamed(c, made.Name); err != nil {
			return err
		}
	}
	h.writeJSON(w, c, c.madeStatus(), doc)
	return nil
}

func (h *handler) getNetwork(w http.ResponseWriter, c *call) error {
	name, err := c.name(nat.ValidateNetworkName)
	if err != nil {
		return err
	}
	doc, err := h.networkNamed(c, name)
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, doc)
	return nil
}

// networkNamed is the document of the network of a name.
func (h *handler) networkNamed(c *call, name string) (Network, error) {
	s, err := h.Engine.State(c.ctx)
	if err != nil {
		return Network{}, err
	}
	for _, doc := range Networks(s) {
		if doc.Name == name {
			return doc, nil
		}
	}
	n, err := h.Engine.Network(c.ctx, name) // to say that there is none
	return NetworkOf(n, 0), err             // or it was made at this moment
}

func (h *handler) deleteNetwork(w http.ResponseWriter, c *call) error {
	name, err := c.name(nat.ValidateNetworkName)
	if err != nil {
		return err
	}
	_, err = change(h, c, Outcome{Operation: OpRemoveNetwork, Name: name},
		func() (struct{}, error) { return struct{}{}, h.Engine.RemoveNetwork(c.ctx, name) },
		func(*Outcome, struct{}) {})
	if err != nil {
		return err
	}
	writeNotes(w.Header(), c.report)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
