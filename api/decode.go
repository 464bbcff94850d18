// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nftnat/nftnat/nat"
)

// decoder reads a body more strictly than encoding/json. Errors are [*Problem]: 400 if the
// document is malformed, 422 if a mapping, network or endpoint is invalid. Each is checked as
// it is read, so that a body of anything else takes no memory.
type decoder struct {
	*json.Decoder
	body []byte
	now  time.Time
	// read so far.
	state nat.State
	ports int
}

func newDecoder(body []byte, now time.Time) (*decoder, error) {
	// RFC 8259 section 8.1; encoding/json would put U+FFFD in place of what is not.
	if !utf8.Valid(body) {
		return nil, malformed("it is not UTF-8")
	}
	d := &decoder{Decoder: json.NewDecoder(bytes.NewReader(body)), body: body, now: now}
	d.DisallowUnknownFields()
	return d, nil
}

// decodeRequests reads an array of mappings.
func decodeRequests(body []byte, now time.Time) ([]nat.Mapping, error) {
	d, err := newDecoder(body, now)
	if err != nil {
		return nil, err
	}
	d.state.Mappings = []nat.Mapping{}
	if err := d.mappings(); err != nil {
		return nil, err
	}
	return d.state.Mappings, d.end("array")
}

// decodeState reads the document of a state.
func decodeState(body []byte, now time.Time) (nat.State, error) {
	d, err := newDecoder(body, now)
	if err != nil {
		return nat.State{}, err
	}
	fields, err := d.object("networks, endpoints and mappings", func(name string) error {
		switch name {
		case "networks":
			return d.networks()
		case "endpoints":
			return d.endpoints()
		case "mappings":
			return d.mappings()
		}
		return malformed(fmt.Sprintf("unknown field %q", name))
	})
	if err != nil {
		return nat.State{}, err
	}
	if fields == 0 { // which would unpublish everything
		return nat.State{}, malformed(`it has none of networks, endpoints and mappings; "mappings": [] says that there are none`)
	}
	return d.state, nil
}

// decodeExchange reads the document of an exchange.
func decodeExchange(body []byte, now time.Time) (x nat.Exchange, err error) {
	d, err := newDecoder(body, now)
	if err != nil {
		return x, err
	}
	_, err = d.object("remove and publish", func(name string) error {
		to := &x.Publish
		switch name {
		case "publish":
		case "remove":
			to = &x.Remove
		default:
			return malformed(fmt.Sprintf("unknown field %q", name))
		}
		d.state.Mappings = nil
		err := d.mappings()
		*to = d.state.Mappings
		return err
	})
	return x, err
}

// object reads an object to the end of the document, and returns how many fields it has. read is
// called for each, to read its value.
func (d *decoder) object(of string, read func(name string) error) (fields int, err error) {
	switch begin, err := d.Token(); {
	case err != nil:
		return 0, malformed(describe(err))
	case begin != json.Delim('{'):
		return 0, malformed("it is not an object of " + of)
	}
	seen := map[string]bool{}
	for d.More() {
		start := d.InputOffset()
		if _, err := d.Token(); err != nil {
			return 0, malformed(describe(err))
		}
		// The raw text: a name with escapes is unknown.
		name := strings.Trim(string(d.body[start:d.InputOffset()]), " \t\r\n,\"")
		if seen[name] {
			return 0, malformed(fmt.Sprintf("field %q is given twice", name))
		}
		seen[name] = true
		if err := read(name); err != nil {
			return 0, err
		}
	}
	if _, err := d.Token(); err != nil {
		return 0, malformed(describe(err))
	}
	return len(seen), d.end("object")
}

// decodeOne reads a document that is an object with these fields.
func decodeOne(body []byte, doc any, fields []string) error {
	d, err := newDecoder(body, time.Time{})
	if err != nil {
		return err
	}
	if err := d.Decode(doc); err != nil {
		return malformed(describe(err))
	}
	if fault := exactFields(body[:d.InputOffset()], fields); fault != "" {
		return malformed(fault)
	}
	return d.end("object")
}

func (d *decoder) end(of string) error {
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return malformed("there is more after the " + of)
	}
	return nil
}

func (d *decoder) mappings() error {
	return decodeArray(d, "mapping", requestFields(), func(r *request) error {
		m, err := r.mapping(d.now)
		if err != nil {
			return err
		}
		d.state.Mappings = append(d.state.Mappings, m)
		return d.count(cost(m.Frontend.Port(), m.Backend.Port(), m.More))
	})
}

func (d *decoder) networks() error {
	return decodeArray(d, "network", networkFields(), func(r *networkRequest) error {
		n, err := r.network()
		if err != nil {
			return err
		}
		d.state.Networks = append(d.state.Networks, n)
		if len(d.state.Networks) > maxNetworks {
			return tooMany(maxNetworks, "networks")
		}
		return nil
	})
}

func (d *decoder) endpoints() error {
	return decodeArray(d, "endpoint", attachFields(), func(r *attachRequest) error {
		a, err := r.spec()
		if err != nil {
			return err
		}
		d.state.Endpoints = append(d.state.Endpoints, a)
		if len(d.state.Endpoints) > maxEndpoints {
			return tooMany(maxEndpoints, "endpoints")
		}
		return d.count(specPorts(a))
	})
}

func (d *decoder) count(ports int) error {
	if d.ports += ports; d.ports > maxPorts {
		return tooMany(maxPorts, "ports")
	}
	return nil
}

// decodeArray reads an array of objects with these fields, and calls take with each.
func decodeArray[R any](d *decoder, what string, fields []string, take func(*R) error) error {
	switch begin, err := d.Token(); {
	case err != nil:
		return malformed(describe(err))
	case begin != json.Delim('['):
		return malformed("it is not an array of " + what + "s")
	}
	for n := 0; d.More(); n++ {
		start := d.InputOffset()
		var r R
		if err := d.Decode(&r); err != nil {
			return malformed(fmt.Sprintf("%s %d: %s", what, n, describe(err)))
		}
		if fault := exactFields(d.body[start:d.InputOffset()], fields); fault != "" {
			return malformed(fmt.Sprintf("%s %d: %s", what, n, fault))
		}
		if err := take(&r); err != nil {
			return problemOf(fmt.Errorf("%s %d: %w", what, n, err))
		}
	}
	if _, err := d.Token(); err != nil {
		return malformed(describe(err))
	}
	return nil
}

// maxPorts bounds the ports of a body. Its size does not: a range of all ports takes 60 bytes,
// and there are millions of loopback addresses.
const maxPorts = 1 << 18

// rangeCost is as how many ports a range of more counts if its ports stay the same: it is kept
// as one.
const rangeCost = 256

// cost returns as how many ports a mapping counts.
func cost(frontend, backend, more uint16) int {
	if frontend != backend {
		return int(more) + 1
	}
	return min(int(more)+1, rangeCost)
}

// maxNetworks and maxEndpoints bound the networks and endpoints of a body, whose size allows
// half a million of them.
const (
	maxNetworks  = 1 << 12
	maxEndpoints = 1 << 16
)

func tooMany(most int, of string) error {
	return problem(http.StatusUnprocessableEntity, CodeInvalid,
		fmt.Sprintf("read body: it is about more than %d %s", most, of))
}

// withinBounds returns an error for a state that is too large.
func withinBounds(s nat.State) error {
	switch {
	case len(s.Networks) > maxNetworks:
		return tooMany(maxNetworks, "networks")
	case len(s.Endpoints) > maxEndpoints:
		return tooMany(maxEndpoints, "endpoints")
	case ports(s) > maxPorts:
		return tooMany(maxPorts, "ports")
	}
	return nil
}

func malformed(detail string) *Problem {
	return problem(http.StatusBadRequest, CodeInvalid, "read body: "+detail)
}

// describe is the text of an error of encoding/json, in terms of the document.
func describe(err error) string {
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Sprintf("a %s where an object belongs", wrong.Value)
	case errors.As(err, &wrong):
		return fmt.Sprintf("%s cannot be a %s", wrong.Field, wrong.Value)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends too early"
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// exactFields finds fields that encoding/json accepts although their case differs, and fields
// that are given twice, whose last value it uses. The text is a document that was decoded
// without error, and separators before it; so it has no objects inside, and only arrays of
// strings.
func exactFields(object []byte, fields []string) (fault string) {
	var seen uint16
	inArray := false
	for i, isName := 0, true; i < len(object); i++ {
		switch object[i] {
		case ',', '{':
			isName = !inArray
		case ':':
			isName = false
		case '[':
			inArray = true
		case ']':
			inArray = false
		case '"':
			start := i + 1
			for i = start; object[i] != '"'; i++ {
				if object[i] == '\\' {
					i++
				}
			}
			if !isName {
				continue
			}
			name := string(object[start:i])
			at := slices.Index(fields, name)
			if at < 0 {
				return fmt.Sprintf("unknown field %q", name)
			}
			if seen&(1<<at) != 0 {
				return fmt.Sprintf("field %q is given twice", name)
			}
			seen |= 1 << at
		}
	}
	return ""
}
