// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"errors"
	"net/http"
	"time"

	"github.com/nftnat/nftnat/nat"
)

const (
	typeJSON = "application/json"
	typeYAML = "application/yaml" // RFC 9512
	// The types of answers that are not a document of ours.
	typeProblem = "application/problem+json" // RFC 9457
	typeEvents  = "application/x-ndjson"
)

func (h *handler) getMappings(w http.ResponseWriter, c *call) error {
	if _, err := c.flags(); err != nil {
		return err
	}
	ms, err := h.Engine.Mappings(c.ctx)
	if err != nil {
		return err
	}
	body := append(appendMappings(make([]byte, 0, 100*len(ms)+3), ms), '\n')
	h.send(w, http.StatusOK, typeJSON, bytes.NewBuffer(body))
	return nil
}

func (h *handler) postMappings(w http.ResponseWriter, c *call) error {
	flags, err := c.flags("replace", "kill")
	if err != nil {
		return err
	}
	body, _, err := h.readBody(w, c, h.limits.body, typeJSON)
	if err != nil {
		return err
	}
	var ms []nat.Mapping
	if ms, err = decodeRequests(body, time.Now()); err != nil {
		return err
	}
	how, operation := nat.PublishOptions{Replace: flags["replace"], Kill: flags["kill"]}, OpPublish
	switch {
	case how.Replace:
		operation = OpReplace
	case how.Kill:
		return problem(http.StatusBadRequest, CodeInvalid, `parameter "kill" is for what "replace" replaces`)
	}
	done, err := change(h, c, Outcome{Operation: operation},
		func() ([]nat.Mapping, error) { return h.Engine.Publish(c.ctx, how, ms...) }, tellMappings)
	if err != nil {
		return err
	}
	h.writeJSON(w, c, c.madeStatus(), Mappings(done))
	return nil
}

func (h *handler) putMappings(w http.ResponseWriter, c *call) error {
	return h.apply(w, c, decodeMappings, func(s nat.State, dryRun bool) ([]nat.Change, error) {
		switch {
		case len(s.Networks)+len(s.Endpoints) != 0:
			return nil, problem(http.StatusUnprocessableEntity, CodeInvalid,
				"read body: networks and endpoints are no mappings; PUT /v1/state takes all of them")
		case dryRun:
			return h.Engine.Diff(c.ctx, s.Mappings...)
		}
		return h.Engine.Apply(c.ctx, s.Mappings...)
	})
}

func decodeMappings(body []byte, now time.Time) (nat.State, error) {
	ms, err := decodeRequests(body, now)
	return nat.State{Mappings: ms}, err
}

// apply answers a PUT: it reads what is to be, of which decode reads the JSON form, and
// has it made so.
func (h *handler) apply(w http.ResponseWriter, c *call, decode func([]byte, time.Time) (nat.State, error),
	do func(s nat.State, dryRun bool) ([]nat.Change, error),
) error {
	flags, err := c.flags("dry-run")
	if err != nil {
		return err
	}
	c.told = flags["dry-run"] // there is nothing to tell of
	release, err := h.acquire(c, h.applies, h.limits.bodyTime, "apply")
	if err != nil {
		return err
	}
	defer release()
	wanted, err := h.readWanted(w, c, decode)
	if err != nil {
		return err
	}
	changes, err := change(h, c, Outcome{Operation: OpApply},
		func() ([]nat.Change, error) { return do(wanted, flags["dry-run"]) },
		func(o *Outcome, changes []nat.Change) { o.Changes = changes })
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, Changes(changes))
	return nil
}

// readWanted reads what is to be applied, in either form.
func (h *handler) readWanted(w http.ResponseWriter, c *call, decode func([]byte, time.Time) (nat.State, error)) (nat.State, error) {
	types := []string{typeJSON}
	if h.Decode != nil {
		types = append(types, typeYAML)
	}
	body, mediaType, err := h.readBody(w, c, h.limits.apply, types...)
	if err != nil {
		return nat.State{}, err
	}
	if mediaType == typeJSON {
		return decode(body, time.Now())
	}
	return h.decodeYAML(body)
}

func (h *handler) decodeYAML(body []byte) (nat.State, error) {
	s, err := h.Decode(bytes.NewReader(body))
	switch {
	case errors.Is(err, nat.ErrInvalid):
		return nat.State{}, err
	case err != nil:
		return nat.State{}, malformed(err.Error())
	}
	return s, withinBounds(s)
}

func (h *handler) deleteMapping(w http.ResponseWriter, c *call) error {
	backend, flags, err := c.textAndFlags("backend", "kill")
	if err != nil {
		return err
	}
	proto, err := nat.ParseProto(c.segments[0])
	if err != nil {
		return err
	}
	frontend, more, err := nat.ParseFrontend(c.segments[1])
	if err != nil {
		return err
	}
	m := nat.Mapping{Proto: proto, Frontend: frontend, More: more}
	if backend != nil {
		if m, err = nat.ParseMapping(c.segments[0], c.segments[1], *backend); err != nil {
			return err
		}
	}
	return h.remove(w, c, nat.Removal{Mappings: []nat.Mapping{m}, Exact: backend != nil, Kill: flags["kill"]})
}

func (h *handler) deleteMappings(w http.ResponseWriter, c *call) error {
	name, flags, err := c.textAndFlags("name", "kill")
	switch {
	case err != nil:
		return err
	case name == nil:
		return problem(http.StatusBadRequest, CodeInvalid, `parameter "name" is missing: it says whose mappings go`)
	}
	if err := nat.ValidateName(*name); err != nil {
		return err
	}
	return h.remove(w, c, nat.Removal{Name: *name, Kill: flags["kill"]})
}

// remove has mappings removed, and tells what they were.
func (h *handler) remove(w http.ResponseWriter, c *call, r nat.Removal) error {
	done, err := change(h, c, Outcome{Operation: OpUnpublish},
		func() ([]nat.Mapping, error) { return h.Engine.Remove(c.ctx, r) }, tellMappings)
	if err != nil {
		return err
	}
	h.writeJSON(w, c, http.StatusOK, Mappings(done))
	return nil
}

// acquire takes one of the slots for something of which only so many may be under way, and
// returns how to give it back. The error is a [*Problem].
func (h *handler) acquire(c *call, slots chan struct{}, timeout time.Duration, what string) (release func(), err error) {
	release = func() { <-slots }
	select {
	case slots <- struct{}{}:
		return release, nil
	default:
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case slots <- struct{}{}:
		return release, nil
	case <-timer.C:
	case <-c.Context().Done():
	}
	return nil, problem(http.StatusServiceUnavailable, CodeBusy, what+": the server does as many as it may at once")
}
