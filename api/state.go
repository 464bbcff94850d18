// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// state is the document of networks, endpoints and mappings, of GET and PUT /v1/state.
type state struct {
	Networks  []networkRequest `json:"networks"`
	Endpoints []attachRequest  `json:"endpoints"`
	Mappings  []request        `json:"mappings"`
}

// stateOf is the document of a state; a range is one item, with a count.
func stateOf(s nat.State) state {
	return state{documents(s.Networks, networkRequestOf), documents(s.Endpoints, attachRequestOf), requests(s.Mappings)}
}

// state returns the state that the document describes.
func (doc *state) state() (nat.State, error) {
	networks, err := parseAll(doc.Networks, (*networkRequest).network)
	if err != nil {
		return nat.State{}, err
	}
	endpoints, err := parseAll(doc.Endpoints, (*attachRequest).spec)
	if err != nil {
		return nat.State{}, err
	}
	mappings, err := parseAll(doc.Mappings, func(r *request) (nat.Mapping, error) { return r.mapping(time.Time{}) })
	return nat.State{Networks: networks, Endpoints: endpoints, Mappings: mappings}, err
}

// ports is the number of ports of a state, as they count for maxPorts.
func ports(s nat.State) int {
	n := 0
	for _, m := range s.Mappings {
		n += cost(m.Frontend.Port(), m.Backend.Port(), m.More)
	}
	for _, a := range s.Endpoints {
		n += specPorts(a)
	}
	return n
}

func specPorts(a nat.EndpointSpec) (n int) {
	for _, s := range a.Ports {
		n += cost(s.Frontend.Port(), s.Backend, s.More)
	}
	return n
}

func (h *handler) getState(w http.ResponseWriter, c *call) (any, error) {
	s, err := h.Engine.State(c.ctx)
	if err != nil || h.Encode == nil || !c.prefersYAML() {
		return stateOf(s), err
	}
	var body bytes.Buffer
	if err := h.Encode(&body, s); err != nil {
		return nil, err
	}
	h.send(w, http.StatusOK, typeYAML, &body)
	return nil, nil
}

func (h *handler) putState(w http.ResponseWriter, c *call) (any, error) {
	return h.apply(w, c, true, decodeState, func(s nat.State) ([]nat.Change, error) {
		if c.flag("dry-run") {
			return h.Engine.DiffState(c.ctx, s)
		}
		return h.Engine.ApplyState(c.ctx, s)
	})
}

// prefersYAML reports whether the client accepts YAML, and names it before JSON (RFC 9110
// section 12.5.1; weights are ignored).
func (c *call) prefersYAML() bool {
	for accept := range strings.SplitSeq(strings.Join(c.Header.Values("Accept"), ","), ",") {
		switch mediaType, _, err := mime.ParseMediaType(accept); {
		case err != nil:
		case mediaType == typeYAML:
			return true
		case mediaType == typeJSON, strings.HasSuffix(mediaType, "/*"):
			return false
		}
	}
	return false
}
