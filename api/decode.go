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
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nftnat/nftnat/engine"
)

// decodeRequests reads an array of mappings that are asked for, strictly: what
// encoding/json would make something of by guessing is refused. Errors are
// [*Problem], 400 for what is not such a document and 422 for what is no mapping.
//
// Each is checked as it is read, so that memory is taken for mappings and not for
// whatever else fits into the body.
func decodeRequests(body []byte, now time.Time) ([]engine.Mapping, error) {
	// RFC 8259 section 8.1; encoding/json would put U+FFFD in place of what is not.
	if !utf8.Valid(body) {
		return nil, malformed("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	switch begin, err := dec.Token(); {
	case err != nil:
		return nil, malformed(describe(err))
	case begin != json.Delim('['):
		return nil, malformed("it is not an array of mappings")
	}
	ms, ports := []engine.Mapping{}, 0
	for dec.More() {
		start := dec.InputOffset()
		var r request
		if err := dec.Decode(&r); err != nil {
			return nil, malformed(fmt.Sprintf("mapping %d: %s", len(ms), describe(err)))
		}
		if fault := exactFields(body[start:dec.InputOffset()]); fault != "" {
			return nil, malformed(fmt.Sprintf("mapping %d: %s", len(ms), fault))
		}
		m, err := r.mapping(now)
		if err != nil {
			return nil, problemOf(fmt.Errorf("mapping %d: %w", len(ms), err))
		}
		ms = append(ms, m)
		if ports += int(m.More) + 1; ports > maxPorts {
			return nil, tooMany()
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, malformed(describe(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("there is more after the array")
	}
	return ms, nil
}

// maxPorts bounds how many ports a body may be about. Its size does not: a range of
// all ports takes 60 bytes, and there are millions of loopback addresses.
const maxPorts = 1 << 18

func tooMany() error {
	return problem(http.StatusUnprocessableEntity, CodeInvalid,
		fmt.Sprintf("read body: it is about more than %d ports", maxPorts))
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

// exactFields finds what encoding/json takes for a known field although it is
// spelled differently, and fields that are given twice, of which it would take the
// last. The text is a request that was decoded without error, and whatever stands
// before it; so it has no objects or arrays inside.
func exactFields(object []byte) (fault string) {
	var seen uint16
	for i, isName := 0, true; i < len(object); i++ {
		switch object[i] {
		case ',', '{':
			isName = true
		case ':':
			isName = false
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
			b := bit(name)
			if b == 0 {
				return fmt.Sprintf("unknown field %q", name)
			}
			if seen&b != 0 {
				return fmt.Sprintf("field %q is given twice", name)
			}
			seen |= b
		}
	}
	return ""
}
