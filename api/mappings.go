// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine"
)

const (
	typeJSON = "application/json"
	typeYAML = "application/yaml" // RFC 9512
	// The types of answers that are not a document of ours.
	typeProblem = "application/problem+json" // RFC 9457
	typeEvents  = "application/x-ndjson"
)

// errGone ends a request whose connection was closed to make room before anything
// was done; nobody is there to be told.
var errGone = errors.New("the client is gone")

func (h *handler) getMappings(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, Mappings(h.Engine.Mappings()))
	return nil
}

func (h *handler) postMappings(w http.ResponseWriter, c *call) error {
	flags, err := c.flags("replace")
	if err != nil {
		return err
	}
	body, _, err := h.readBody(w, c, h.limits.body, typeJSON)
	if err != nil {
		return err
	}
	ms, err := decodeRequests(body, time.Now())
	if err != nil {
		return err
	}
	publish := h.Engine.Publish
	if flags["replace"] {
		publish = h.Engine.Retarget
	}
	done, err := change(c, publish, ms)
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusCreated, Mappings(slices.Values(done)))
	return nil
}

func (h *handler) putMappings(w http.ResponseWriter, c *call) error {
	flags, err := c.flags("dry-run")
	if err != nil {
		return err
	}
	release, err := h.place(c, h.applies, h.limits.bodyTime, "apply")
	if err != nil {
		return err
	}
	defer release()
	ms, err := h.readWanted(w, c)
	if err != nil {
		return err
	}
	apply := h.Engine.Apply
	if flags["dry-run"] {
		apply = h.Engine.Diff
	}
	changes, err := change(c, apply, ms)
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, Changes(changes))
	return nil
}

// readWanted reads what is to be applied, in either form.
func (h *handler) readWanted(w http.ResponseWriter, c *call) ([]engine.Mapping, error) {
	types := []string{typeJSON}
	if h.Decode != nil {
		types = append(types, typeYAML)
	}
	body, mediaType, err := h.readBody(w, c, h.limits.apply, types...)
	if err != nil {
		return nil, err
	}
	if mediaType == typeJSON {
		return decodeRequests(body, time.Now())
	}
	ms, err := h.Decode(bytes.NewReader(body))
	switch {
	case errors.Is(err, engine.ErrInvalid):
		return nil, err
	case err != nil:
		return nil, malformed(err.Error())
	}
	ports := 0
	for _, m := range ms {
		if ports += int(m.More) + 1; ports > maxPorts {
			return nil, tooMany()
		}
	}
	return ms, nil
}

func (h *handler) deleteMapping(w http.ResponseWriter, c *call) error {
	flags, err := c.flags("kill")
	if err != nil {
		return err
	}
	proto, err := engine.ParseProto(c.segments[0])
	if err != nil {
		return err
	}
	frontend, more, err := engine.ParseFrontend(c.segments[1])
	if err != nil {
		return err
	}
	unpublish := h.Engine.Unpublish
	if flags["kill"] {
		unpublish = h.Engine.Kill
	}
	done, err := change(c, unpublish, []engine.Mapping{{Proto: proto, Frontend: frontend, More: more}})
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, Mappings(slices.Values(done)))
	return nil
}

// change lets the engine work, while the connection is not closed to make room. It
// does not begin for a client that is gone.
func change[T any](c *call, f func(...engine.Mapping) ([]T, error), ms []engine.Mapping) ([]T, error) {
	if !c.conn.work() {
		return nil, errGone
	}
	defer c.conn.rest()
	return f(ms...)
}

// place takes one of the places for something of which only so many may be under
// way, and returns how to give it back. The error is a [*Problem].
func (h *handler) place(c *call, places chan struct{}, patience time.Duration, what string) (release func(), err error) {
	release = func() { <-places }
	select {
	case places <- struct{}{}:
		return release, nil
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case places <- struct{}{}:
		return release, nil
	case <-timer.C:
	case <-c.Context().Done():
	}
	return nil, problem(http.StatusServiceUnavailable, CodeBusy, what+": the server does as many as it may at once")
}
