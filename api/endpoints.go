// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"

	"github.com/nftnat/nftnat/nat"
)

func (h *handler) getEndpoints(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	s, err := h.Engine.State(c.ctx)
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, Endpoints(nat.EndpointsOf(s)))
	return nil
}

func (h *handler) postEndpoints(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	body, _, err := h.readBody(w, c, h.limits.body, typeJSON)
	if err != nil {
		return err
	}
	var r attachRequest
	if err := decodeOne(body, &r, attachFields()); err != nil {
		return err
	}
	wanted, err := r.spec()
	if err != nil {
		return err
	}
	if specPorts(wanted) > maxPorts {
		return tooMany(maxPorts, "ports")
	}
	ep, err := change(h, c, Outcome{Operation: OpAttach, Name: wanted.Name},
		func() (nat.Endpoint, error) { return h.Engine.Attach(c.ctx, wanted) },
		func(o *Outcome, ep nat.Endpoint) { o.Address, o.Mappings = ep.Address.String(), ep.Mappings })
	if err != nil {
		return err
	}
	h.writeJSON(w, c, c.madeStatus(), EndpointOf(ep))
	return nil
}

func (h *handler) getEndpoint(w http.ResponseWriter, c *call) error {
	name, err := c.name(nat.ValidateEndpointName)
	if err != nil {
		return err
	}
	ep, err := h.Engine.Endpoint(c.ctx, name)
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, Inspect(ep))
	return nil
}

func (h *handler) deleteEndpoint(w http.ResponseWriter, c *call) error {
	name, err := c.name(nat.ValidateEndpointName)
	if err != nil {
		return err
	}
	gone, err := change(h, c, Outcome{Operation: OpDetach, Name: name},
		func() ([]nat.Mapping, error) { return h.Engine.Detach(c.ctx, name) }, tellMappings)
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, Mappings(gone))
	return nil
}

// name is what a path without parameters ends with, if it can be a name.
func (c *call) name(validate func(string) error) (string, error) {
	if _, err := c.flags(); err != nil {
		return "", err
	}
	return c.segments[0], validate(c.segments[0])
}
