// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
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

func (h *handler) getMappings(_ http.ResponseWriter, c *call) (any, error) {
	ms, err := h.Engine.Mappings(c.ctx)
	if err != nil {
		return nil, err
	}
	if c.flag("ranges") {
		return &mappingList{nat.Join(slices.Values(ms)), true}, nil
	}
	return &mappingList{slices.Values(ms), false}, nil
}

func (h *handler) postMappings(w http.ResponseWriter, c *call) (any, error) {
	body, _, err := h.readBody(w, c, h.limits.body, typeJSON)
	if err != nil {
		return nil, err
	}
	ms, err := decodeRequests(body, time.Now())
	if err != nil {
		return nil, err
	}
	name, named := c.query["if-name"]
	how, operation := nat.PublishOptions{Replace: c.flag("replace"), Kill: c.flag("kill"), IfName: name}, OpPublish
	switch {
	case how.Replace:
		operation = OpReplace
	case how.Kill:
		return nil, problem(http.StatusBadRequest, CodeInvalid, `parameter "kill" is for what "replace" replaces`)
	case named:
		return nil, problem(http.StatusBadRequest, CodeInvalid, `parameter "if-name" is for what "replace" replaces`)
	}
	if named {
		if err := nat.ValidateName(name); err != nil {
			return nil, err
		}
	}
	return h.changeMappings(c, Outcome{Operation: operation},
		func() ([]nat.Mapping, error) { return h.Engine.Publish(c.ctx, how, ms...) })
}

func (h *handler) putMappings(w http.ResponseWriter, c *call) (any, error) {
	return h.apply(w, c, true, decodeMappings, func(s nat.State) ([]nat.Change, error) {
		switch {
		case len(s.Networks)+len(s.Endpoints) != 0:
			return nil, problem(http.StatusUnprocessableEntity, CodeInvalid,
				"read body: networks and endpoints are no mappings; PUT /v1/state takes all of them")
		case c.flag("dry-run"):
			return h.Engine.Diff(c.ctx, s.Mappings...)
		}
		return h.Engine.Apply(c.ctx, s.Mappings...)
	})
}

func decodeMappings(body []byte, now time.Time) (nat.State, error) {
	ms, err := decodeRequests(body, now)
	return nat.State{Mappings: ms}, err
}

func (h *handler) patchMappings(w http.ResponseWriter, c *call) (any, error) {
	var x nat.Exchange
	return h.apply(w, c, false, func(body []byte, now time.Time) (s nat.State, err error) {
		x, err = decodeExchange(body, now)
		return s, err
	}, func(nat.State) ([]nat.Change, error) { return h.Engine.Exchange(c.ctx, x) })
}

// apply answers a PUT: it reads the body, of which decode reads the JSON form, and calls do. yaml
// says whether it has another form.
func (h *handler) apply(w http.ResponseWriter, c *call, yaml bool, decode func([]byte, time.Time) (nat.State, error),
	do func(nat.State) ([]nat.Change, error),
) (any, error) {
	c.reported = c.flag("dry-run") // it has no outcome
	release, err := h.acquire(c, h.applies, h.limits.bodyTime, "apply")
	if err != nil {
		return nil, err
	}
	defer release()
	types := []string{typeJSON}
	if yaml && h.Decode != nil {
		types = append(types, typeYAML)
	}
	body, mediaType, err := h.readBody(w, c, h.limits.apply, types...)
	if err != nil {
		return nil, err
	}
	var wanted nat.State
	if mediaType == typeJSON {
		wanted, err = decode(body, time.Now())
	} else {
		wanted, err = h.decodeYAML(body)
	}
	if err != nil {
		return nil, err
	}
	changes, err := change(h, c, Outcome{Operation: OpApply},
		func() ([]nat.Change, error) { return do(wanted) },
		func(o *Outcome, changes []nat.Change) { o.Changes = changes })
	return changeDocs(changes, c.flag("ranges")), err
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

func (h *handler) deleteMapping(_ http.ResponseWriter, c *call) (any, error) {
	proto, err := nat.ParseProto(c.segments[0])
	if err != nil {
		return nil, err
	}
	frontend, more, err := nat.ParseFrontend(c.segments[1])
	if err != nil {
		return nil, err
	}
	m := nat.Mapping{Proto: proto, Frontend: frontend, More: more}
	backend, exact := c.query["backend"]
	if exact {
		if m, err = nat.ParseMapping(c.segments[0], c.segments[1], backend); err != nil {
			return nil, err
		}
	}
	name, named := c.query["name"]
	if named {
		if err := nat.ValidateName(name); err != nil {
			return nil, err
		}
	}
	return h.remove(c, nat.Removal{Mappings: []nat.Mapping{m}, Exact: exact, Name: name, Kill: c.flag("kill")})
}

func (h *handler) deleteMappings(_ http.ResponseWriter, c *call) (any, error) {
	name, ok := c.query["name"]
	if !ok {
		return nil, problem(http.StatusBadRequest, CodeInvalid, `parameter "name" is missing: it says whose mappings go`)
	}
	if err := nat.ValidateName(name); err != nil {
		return nil, err
	}
	return h.remove(c, nat.Removal{Name: name, Kill: c.flag("kill")})
}

func (h *handler) remove(c *call, r nat.Removal) (any, error) {
	return h.changeMappings(c, Outcome{Operation: OpUnpublish},
		func() ([]nat.Mapping, error) { return h.Engine.Remove(c.ctx, r) })
}

// changeMappings is change for what changes mappings; the answer has them.
func (h *handler) changeMappings(c *call, o Outcome, f func() ([]nat.Mapping, error)) (any, error) {
	ms, err := change(h, c, o, f, func(o *Outcome, ms []nat.Mapping) { o.Mappings = ms })
	return &mappingList{slices.Values(ms), c.flag("ranges")}, err
}

// acquire takes one of the slots, and returns a function that gives it back. The error is a
// [*Problem].
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
