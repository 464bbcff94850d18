// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"

	"github.com/nftnat/nftnat/engine"
)

func (h *handler) getNetworks(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	s, err := h.Engine.State()
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
	if err := h.decode(c, body, func() error { return decodeOne(body, &r, networkFields()) }); err != nil {
		return err
	}
	wanted, err := r.network()
	if err != nil {
		return err
	}
	made, err := change(h, c, Outcome{Operation: OpCreateNetwork, Name: wanted.Name},
		func() (engine.Network, error) { return h.Engine.CreateNetwork(wanted) },
		func(o *Outcome, n engine.Network) { o.Address = n.Prefix.String() })
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusCreated, NetworkOf(made, 0))
	return nil
}

func (h *handler) getNetwork(w http.ResponseWriter, c *call) error {
	name, err := c.name(engine.ValidateNetworkName)
	if err != nil {
		return err
	}
	s, err := h.Engine.State()
	if err != nil {
		return err
	}
	for _, doc := range Networks(s) {
		if doc.Name == name {
			h.writeJSON(w, c, http.StatusOK, doc)
			return nil
		}
	}
	n, err := h.Engine.Network(name) // to say that there is none
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, NetworkOf(n, 0)) // made at this moment
	return nil
}

func (h *handler) deleteNetwork(w http.ResponseWriter, c *call) error {
	name, err := c.name(engine.ValidateNetworkName)
	if err != nil {
		return err
	}
	_, err = change(h, c, Outcome{Operation: OpRemoveNetwork, Name: name},
		func() (struct{}, error) { return struct{}{}, h.Engine.RemoveNetwork(name) },
		func(*Outcome, struct{}) {})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
