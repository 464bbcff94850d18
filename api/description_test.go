// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	faults "github.com/pb33f/libopenapi-validator/errors"
	"github.com/stretchr/testify/require"
)

// description is docs/openapi.yaml: root is the file as it is, for comparisons with the
// code; whether documents are as it says is for the validator.
type description struct {
	root      map[string]any
	validator validator.Validator
}

func readDescription(t *testing.T) description {
	t.Helper()
	text, err := os.ReadFile("../docs/openapi.yaml")
	require.NoError(t, err)
	var root map[string]any
	require.NoError(t, yaml.Unmarshal(text, &root))
	doc, err := libopenapi.NewDocument(text)
	require.NoError(t, err)
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions())
	require.Empty(t, errs)
	return description{root, v}
}

// at returns what is at a path of keys; nil: nothing.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// resolve follows a reference, if v is one.
func (d description) resolve(t *testing.T, v any) map[string]any {
	t.Helper()
	m := object(v)
	ref, ok := m["$ref"].(string)
	if !ok {
		return m
	}
	path, ok := strings.CutPrefix(ref, "#/")
	require.True(t, ok, ref)
	target := at(d.root, strings.Split(path, "/")...)
	require.NotNil(t, target, "%s leads nowhere", ref)
	return d.resolve(t, target)
}

// operation is an entry of the description.
type operation struct {
	method, path string
	def          map[string]any
}

func (d description) operations() []operation {
	var ops []operation
	for path, methods := range object(d.root["paths"]) {
		for method, def := range object(methods) {
			ops = append(ops, operation{strings.ToUpper(method), path, object(def)})
		}
	}
	return ops
}

// properties are those of an object's schema, with what it takes over from others.
func (d description) properties(t *testing.T, schema any) map[string]any {
	t.Helper()
	s := d.resolve(t, schema)
	all := map[string]any{}
	for _, base := range list(s["allOf"]) {
		maps.Copy(all, d.properties(t, base))
	}
	maps.Copy(all, object(s["properties"]))
	return all
}

// httpRequest is a request as the validator takes it.
func httpRequest(t *testing.T, method, target, contentType, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://nftnat"+target, strings.NewReader(body))
	require.NoError(t, err)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

// faultsOf returns what is wrong with an exchange, a line each. Without a status the request
// alone is looked at, otherwise the answer alone.
func (d description) faultsOf(r *http.Request, status int, header http.Header, body string) []string {
	var errs []*faults.ValidationError
	if status == 0 {
		_, errs = d.validator.ValidateHttpRequestSync(r)
	} else {
		_, errs = d.validator.ValidateHttpResponse(r, &http.Response{
			StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)),
		})
	}
	var lines []string
	for _, e := range errs {
		lines = append(lines, e.Error())
		for _, s := range e.SchemaValidationErrors {
			lines = append(lines, s.Error())
		}
	}
	return lines
}

// The description is one of OpenAPI 3.1, by the schema of that.
func TestContractDocument(t *testing.T) {
	d := readDescription(t)
	require.Equal(t, "3.1.0", d.root["openapi"])
	ok, errs := d.validator.ValidateDocument()
	require.True(t, ok, errs)
}

// Requests are closed and answers are open, down to the last object in them.
func TestContractOpenAndClosed(t *testing.T) {
	d := readDescription(t)
	var walk func(where string, schema any, closed bool)
	walk = func(where string, schema any, closed bool) {
		s := d.resolve(t, schema)
		if s["items"] != nil {
			walk(where+"[]", s["items"], closed)
		}
		for _, base := range list(s["allOf"]) {
			walk(where, base, false) // it is the whole that is closed
		}
		properties := d.properties(t, s)
		for name, p := range properties {
			walk(where+"."+name, p, closed)
		}
		if len(properties) == 0 {
			return
		}
		if closed {
			require.True(t, s["additionalProperties"] == false || s["unevaluatedProperties"] == false, "%s is open", where)
		} else {
			require.Nil(t, s["additionalProperties"], "%s is not open", where)
			require.Nil(t, s["unevaluatedProperties"], "%s is not open", where)
		}
	}
	walked := 0
	for _, op := range d.operations() {
		for mediaType, media := range object(at(op.def, "requestBody", "content")) {
			walk(op.method+" "+op.path+" "+mediaType, at(media, "schema"), true)
			walked++
		}
		for status, response := range object(op.def["responses"]) {
			for mediaType, media := range object(d.resolve(t, response)["content"]) {
				walk(fmt.Sprint(op.method, " ", op.path, " ", status, " ", mediaType), at(media, "schema"), false)
				walked++
			}
		}
	}
	require.Greater(t, walked, 100)
}

// The validator, as it is set up here, refuses what is wrong in one way, and takes answers
// that have grown.
func TestContractValidator(t *testing.T) {
	d := readDescription(t)
	good := func() map[string]any {
		return map[string]any{"proto": "tcp", "host": "", "port": 1, "backend": "x", "name": "", "proxy": true}
	}
	text := func(v any) string {
		b, err := json.Marshal([]any{v})
		require.NoError(t, err)
		return string(b)
	}
	ask := httpRequest(t, "GET", "/v1/mappings", "", "")
	header := http.Header{"Content-Type": {typeJSON}}
	grown := good()
	grown["more"] = 1
	require.Empty(t, d.faultsOf(ask, 200, header, text(good())))
	require.Empty(t, d.faultsOf(ask, 200, header, text(grown)))
	for what, change := range map[string]func(map[string]any){
		"enum":     func(m map[string]any) { m["proto"] = "sctp" },
		"required": func(m map[string]any) { delete(m, "host") },
		"minimum":  func(m map[string]any) { m["port"] = 0 },
		"maximum":  func(m map[string]any) { m["port"] = 65536 },
		"integer":  func(m map[string]any) { m["port"] = 1.5 },
		"boolean":  func(m map[string]any) { m["proxy"] = "yes" },
		"format":   func(m map[string]any) { m["expires"] = "soon" },
		"null":     func(m map[string]any) { m["name"] = nil },
	} {
		m := good()
		change(m)
		require.NotEmpty(t, d.faultsOf(ask, 200, header, text(m)), what)
	}
	require.NotEmpty(t, d.faultsOf(ask, 200, http.Header{"Content-Type": {"text/html"}}, text(good())))

	require.Empty(t, d.faultsOf(httpRequest(t, "POST", "/v1/mappings?replace=true", typeJSON, text(good())), 0, nil, ""))
	for _, r := range []*http.Request{
		httpRequest(t, "POST", "/v1/mappings", typeJSON, text(grown)),
		httpRequest(t, "POST", "/v1/mappings?replace=maybe", typeJSON, text(good())),
		httpRequest(t, "POST", "/v1/networks", typeJSON, `{"name":"a","prefix":"b","more":1}`),
		httpRequest(t, "POST", "/v1/endpoints", typeJSON, `{"name":"a","more":1}`),
		httpRequest(t, "PUT", "/v1/state", typeJSON, `{"more":1}`),
		httpRequest(t, "DELETE", "/v1/mappings/sctp/80", "", ""),
	} {
		require.NotEmpty(t, d.faultsOf(r, 0, nil, ""), r.URL)
	}
}
