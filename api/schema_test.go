// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
)

// description is docs/openapi.yaml.
type description struct{ root map[string]any }

func readDescription(t *testing.T) description {
	t.Helper()
	text, err := os.ReadFile("../docs/openapi.yaml")
	require.NoError(t, err)
	var root map[string]any
	require.NoError(t, yaml.Unmarshal(text, &root))
	require.Equal(t, "3.1.0", root["openapi"])
	return description{root}
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

// check reports what of a value, as a decoder of JSON or YAML gives it, is not as a
// schema says. Of JSON Schema it knows what the description uses, and refuses the rest.
func (d description) check(t *testing.T, schema, v any, where string) (faults []string) {
	t.Helper()
	s := object(schema)
	if s["$ref"] != nil {
		s = d.resolve(t, s)
	}
	fault := func(format string, args ...any) {
		faults = append(faults, where+": "+fmt.Sprintf(format, args...))
	}
	for keyword, arg := range s {
		switch keyword {
		case "description", "default", "examples":
		case "type":
			if !slices.ContainsFunc(list(arg), func(name any) bool { return isType(v, name) }) {
				fault("%v is not of type %v", v, arg)
			}
		case "enum":
			if !slices.Contains(list(arg), v) {
				fault("%v is none of %v", v, arg)
			}
		case "const":
			if v != arg {
				fault("%v is not %v", v, arg)
			}
		case "minimum", "maximum":
			n, isNumber := number64(v)
			limit, _ := number64(arg)
			if isNumber && (keyword == "minimum" && n < limit || keyword == "maximum" && n > limit) {
				fault("%v passes %s %v", v, keyword, arg)
			}
		case "format":
			require.Equal(t, "date-time", arg)
			if text, ok := v.(string); ok {
				if _, err := time.Parse(time.RFC3339, text); err != nil {
					fault("%v", err)
				}
			}
		case "items":
			items, _ := v.([]any)
			for i, item := range items {
				faults = append(faults, d.check(t, arg, item, fmt.Sprintf("%s[%d]", where, i))...)
			}
		case "required":
			for _, name := range list(arg) {
				if m, ok := v.(map[string]any); ok && m[name.(string)] == nil {
					fault("%v is missing", name)
				}
			}
		case "additionalProperties":
			for name, value := range object(v) {
				switch {
				case at(s, "properties", name) != nil:
				case object(arg) != nil:
					faults = append(faults, d.check(t, arg, value, where+"."+name)...)
				default:
					require.Equal(t, false, arg)
					fault("%s is not described", name)
				}
			}
		case "properties":
			for name, sub := range object(arg) {
				if value, ok := object(v)[name]; ok {
					faults = append(faults, d.check(t, sub, value, where+"."+name)...)
				}
			}
		default:
			require.Fail(t, "the test does not know the keyword "+keyword)
		}
	}
	return faults
}

func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

func number64(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case uint64:
		return float64(n), true
	case int64:
		return float64(n), true
	}
	return 0, false
}

func isType(v, name any) bool {
	switch v := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	default:
		n, ok := number64(v)
		return ok && (name == "number" || name == "integer" && n == float64(int64(n)))
	}
}

// The checker finds what it should: on documents that are wrong in one way each.
func TestSchemaChecker(t *testing.T) {
	d := readDescription(t)
	good := func() map[string]any {
		return map[string]any{"proto": "tcp", "host": "", "port": 1.0, "backend": "x", "name": "", "proxy": true}
	}
	schema := map[string]any{"$ref": "#/components/schemas/Mapping"}
	require.Empty(t, d.check(t, schema, good(), "m"))
	for want, change := range map[string]func(map[string]any){
		"m.proto: sctp is none of":        func(m map[string]any) { m["proto"] = "sctp" },
		"m: host is missing":              func(m map[string]any) { delete(m, "host") },
		"m.port: 0 passes minimum":        func(m map[string]any) { m["port"] = 0.0 },
		"m.port: 65536 passes maximum":    func(m map[string]any) { m["port"] = 65536.0 },
		"m.port: 1.5 is not of type":      func(m map[string]any) { m["port"] = 1.5 },
		"m.proxy: yes is not of type":     func(m map[string]any) { m["proxy"] = "yes" },
		"m: more is not described":        func(m map[string]any) { m["more"] = 1.0 },
		"m.expires: parsing time":         func(m map[string]any) { m["expires"] = "soon" },
		"m.backend: [] is not of type":    func(m map[string]any) { m["backend"] = []any{} },
		"m.name: <nil> is not of type st": func(m map[string]any) { m["name"] = nil },
	} {
		m := good()
		change(m)
		faults := strings.Join(d.check(t, schema, m, "m"), "\n")
		require.Regexp(t, regexp.QuoteMeta(want), faults)
	}
	require.NotEmpty(t, d.check(t, schema, []any{}, "m"))
	require.NotEmpty(t, d.check(t, map[string]any{"type": "array", "items": schema}, []any{map[string]any{}}, "m"))
	require.NotEmpty(t, d.check(t, map[string]any{"const": "x"}, "y", "m"))
	ports := map[string]any{"additionalProperties": map[string]any{"type": "string"}}
	require.Empty(t, d.check(t, ports, map[string]any{"80": "8080"}, "m"))
	require.NotEmpty(t, d.check(t, ports, map[string]any{"80": 8080.0}, "m"))
}
