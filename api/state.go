// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// state is the document of all that an engine keeps: as it is told it can be asked for.
type state struct {
	Networks  []networkRequest `json:"networks"`
	Endpoints []attachRequest  `json:"endpoints"`
	Mappings  []request        `json:"mappings"`
}

// stateOf tells of a state, or asks for it; ranges are one item, with a count.
func stateOf(s nat.State) state {
	// Never nil: empty arrays, not null.
	doc := state{
		Networks: make([]networkRequest, len(s.Networks)), Endpoints: make([]attachRequest, len(s.Endpoints)),
		Mappings: requests(s.Mappings),
	}
	for i, n := range s.Networks {
		doc.Networks[i] = networkRequestOf(n)
	}
	for i, a := range s.Endpoints {
		doc.Endpoints[i] = attachRequestOf(a)
	}
	return doc
}

// state reads the document of a state back.
func (doc *state) state() (s nat.State, err error) {
	for i := range doc.Networks {
		n, err := doc.Networks[i].network()
		if err != nil {
			return nat.State{}, fmt.Errorf("read network: %w", err)
		}
		s.Networks = append(s.Networks, n)
	}
	for i := range doc.Endpoints {
		a, err := doc.Endpoints[i].spec()
		if err != nil {
			return nat.State{}, fmt.Errorf("read endpoint: %w", err)
		}
		s.Endpoints = append(s.Endpoints, a)
	}
	for i := range doc.Mappings {
		m, err := doc.Mappings[i].mapping(time.Time{})
		if err != nil {
			return nat.State{}, fmt.Errorf("read mapping: %w", err)
		}
		s.Mappings = append(s.Mappings, m)
	}
	return s, nil
}

// ports is how many ports a state is about.
func ports(s nat.State) int {
	n := countPorts(s.Mappings)
	for _, a := range s.Endpoints {
		n += specPorts(a)
	}
	return n
}

func countPorts(ms []nat.Mapping) (n int) {
	for _, m := range ms {
		n += int(m.More) + 1
	}
	return n
}

func specPorts(a nat.EndpointSpec) (n int) {
	for _, s := range a.Ports {
		n += int(s.More) + 1
	}
	return n
}

func (h *handler) getState(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	s, err := h.Engine.State(c.ctx)
	if err != nil {
		return err
	}
	if h.Encode == nil || !c.prefersYAML() {
		h.writeJSON(w, c, http.StatusOK, stateOf(s))
		return nil
	}
	var body bytes.Buffer
	if err := h.Encode(&body, s); err != nil {
		return err
	}
	h.send(w, http.StatusOK, typeYAML, &body)
	return nil
}

func (h *handler) putState(w http.ResponseWriter, c *call) error {
	return h.apply(w, c, decodeState, func(s nat.State, dryRun bool) ([]nat.Change, error) {
		if dryRun {
			return h.Engine.DiffState(c.ctx, s)
		}
		return h.Engine.ApplyState(c.ctx, s)
	})
}

// prefersYAML reports whether of the types that a client accepts YAML comes first
// (RFC 9110 section 12.5.1; weights are not looked at). Who says nothing gets JSON.
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
