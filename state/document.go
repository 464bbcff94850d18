// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// keys are all keys that a file can have somewhere.
var keys = [...]string{
	"version", "networks", "endpoints", "mappings",
	"mapping", "name", "proxy", "proxy_only", "masquerade", "from", "hold", "expires", "prefix", "gateway", "next", "masquerade", "guard",
	"network", "address", "ports",
}

// isSection reports whether a key is that of a list of the file.
func isSection(key string) bool { return key == "networks" || key == "endpoints" || key == "mappings" }

// fileVersion is the version of files that is read and written.
const fileVersion = "1"

// Reasons that a file is refused for.
const (
	noValue = "it has no value"
	// A file may have been cut off there.
	noList = noValue + `; "[]" says that there are none`
	// The file would unpublish everything.
	noLists    = `it lists no networks, endpoints or mappings; "mappings: []" says that there are none`
	notText    = "not a text; quote it"
	noFrontend = "frontend 0 asks for a free port, and a file says which"
)

func fault(line int, what, input, reason string) *LineError {
	return &LineError{Line: line, Err: &nat.InvalidError{What: what, Input: input, Reason: reason}}
}

// value is one value of a file, read from YAML or JSON.
type value struct {
	line   int
	kind   kind
	text   string // of a text; of other kinds what an error quotes
	yes    bool   // of a boolean
	list   []value
	fields []field
}

type kind uint8

const (
	other kind = iota
	null
	text
	boolean
	integer
	list
	object
)

type field struct {
	key   string
	line  int
	value value
}

// document is what was read of a file.
type document struct {
	state nat.State
	lists int // sections so far
	// Lines of the items, and of each endpoint's ports.
	networks, endpoints, mappings []int
	ports                         [][]int
	// size is that of the file in bytes, and texts how many texts of lists were read.
	size, texts int
	// pass takes the mappings in the place of state, until it returns false; nil: they are in state.
	pass func(m *nat.Mapping) bool
	one  nat.Mapping // that is passed: others would be allocated
}

// field reads a key of the file and its value.
func (d *document) field(f *field) *LineError {
	v := &f.value
	switch {
	case f.key == "version" && v.kind != integer:
		return fault(v.line, f.key, v.text, "it must be the number "+fileVersion)
	case f.key == "version" && v.text != fileVersion:
		return fault(v.line, f.key, v.text, "this program reads version "+fileVersion)
	case f.key == "version":
		return nil
	case !isSection(f.key):
		return fault(f.line, "key", f.key, "a file has the keys version, networks, endpoints and mappings")
	case v.kind == null:
		return fault(v.line, "key", f.key, noList)
	case v.kind != list:
		return fault(v.line, f.key, v.text, "not a list")
	}
	d.lists++
	for i := range v.list {
		if err := d.item(f.key, &v.list[i]); err != nil {
			return err
		}
	}
	return nil
}

// end checks the whole file. Its first line, and the beginning of that, are for the error.
func (d *document) end(line int, begin string) *LineError {
	if d.lists == 0 {
		return fault(line, "file", begin, noLists)
	}
	return d.validate()
}

// item reads an item of a section.
func (d *document) item(section string, v *value) *LineError {
	switch section {
	case "networks":
		d.networks = append(d.networks, v.line)
		return d.network(v)
	case "endpoints":
		d.endpoints = append(d.endpoints, v.line)
		return d.endpoint(v)
	}
	if d.pass == nil {
		d.mappings = append(d.mappings, v.line)
	}
	return d.mapping(v)
}

// read stores the fields of an object in the variables of their keys, each a *string,
// *bool or *value.
func (v *value) read(what, keys string, variables map[string]any) *LineError {
	if v.kind != object {
		return fault(v.line, what, v.text, "not an object")
	}
	for i := range v.fields {
		f := &v.fields[i]
		switch to := variables[f.key].(type) {
		case *string:
			if f.value.kind != text {
				return fault(f.value.line, f.key, f.value.text, notText)
			}
			*to = f.value.text
		case *bool:
			if f.value.kind != boolean {
				return fault(f.value.line, f.key, f.value.text, "true or false")
			}
			*to = f.value.yes
		case *value:
			*to = f.value
		default:
			return fault(f.line, "key", f.key, keys)
		}
	}
	return nil
}

func (d *document) network(v *value) *LineError {
	var name, prefix, gateway, next string
	masquerade, guard := true, true
	err := v.read("network", "an item of networks has the keys name, prefix, gateway, next, masquerade and guard", map[string]any{
		"name": &name, "prefix": &prefix, "gateway": &gateway, "next": &next, "masquerade": &masquerade, "guard": &guard,
	})
	if err != nil {
		return err
	}
	n, invalid := nat.ParseNetwork(name, prefix, gateway)
	if invalid == nil && next != "" {
		if n.Next, invalid = netip.ParseAddr(next); invalid != nil {
			invalid = &nat.InvalidError{What: "next address", Input: next, Reason: "it is not an IP address"}
		}
	}
	if invalid != nil {
		return &LineError{Line: v.line, Err: invalid}
	}
	n.NoMasquerade, n.NoGuard = !masquerade, !guard
	d.state.Networks = append(d.state.Networks, n)
	return nil
}

func (d *document) endpoint(v *value) *LineError {
	var (
		name, network, address string
		ports                  value
	)
	err := v.read("endpoint", "an item of endpoints has the keys name, network, address and ports", map[string]any{
		"name": &name, "network": &network, "address": &address, "ports": &ports,
	})
	switch {
	case err != nil:
		return err
	case ports.kind != list && ports.kind != null && ports.line != 0:
		return fault(ports.line, "ports", ports.text, "not a list")
	}
	a, invalid := nat.ParseEndpointSpec(name, network, address)
	if invalid != nil {
		return &LineError{Line: v.line, Err: invalid}
	}
	// Without aliases there cannot be as many as the file has bytes.
	if d.texts += len(ports.list); d.texts > d.size {
		return fault(ports.line, "ports", "", "aliases make more of it than there can be")
	}
	lines := make([]int, len(ports.list))
	for i, p := range ports.list {
		if p.kind != text {
			return fault(p.line, "ports", p.text, notText)
		}
		spec, err := nat.ParsePortSpec(p.text)
		if err != nil {
			return &LineError{Line: p.line, Err: err}
		}
		a.Ports, lines[i] = append(a.Ports, spec), p.line
	}
	d.state.Endpoints, d.ports = append(d.state.Endpoints, a), append(d.ports, lines)
	return nil
}

// mapping reads a mapping, of which there are many: so it does without value.read.
func (d *document) mapping(v *value) *LineError {
	said, rest := v, nat.Mapping{}
	if v.kind == object {
		said = nil
		for i := range v.fields {
			f := &v.fields[i]
			switch isText := f.value.kind == text; f.key {
			case "mapping":
				said = &f.value
			case "name":
				if !isText {
					return fault(f.value.line, f.key, f.value.text, notText)
				}
				rest.Name = f.value.text
			case "proxy":
				if f.value.kind != boolean {
					return fault(f.value.line, f.key, f.value.text, "true or false")
				}
				rest.NoProxy = !f.value.yes
			case "proxy_only", "masquerade":
				if f.value.kind != boolean {
					return fault(f.value.line, f.key, f.value.text, "true or false")
				}
				if f.key == "masquerade" {
					rest.Masquerade = f.value.yes
				} else {
					rest.ProxyOnly = f.value.yes
				}
			case "from":
				var err *LineError
				if rest.From, err = d.sources(&f.value); err != nil {
					return err
				}
			case "hold":
				var err error
				if rest.Hold, err = nat.ParseHold(f.value.text); err != nil || !isText {
					return fault(f.value.line, f.key, f.value.text, "own or shared")
				}
			case "expires":
				var ok bool
				if rest.Expires, ok = parseExpires(f.value.text); !ok || !isText {
					return fault(f.value.line, f.key, f.value.text, "not a time like 2027-01-01T00:00:00Z")
				}
			default:
				return fault(f.line, "key", f.key, "a mapping has the keys mapping, name, proxy, proxy_only, masquerade, from, hold and expires")
			}
		}
		if said == nil {
			return fault(v.line, "mapping", "", `the object has no key "mapping"`)
		}
	}
	if said.kind != text {
		reason := "neither a text like 8080->172.17.0.2:80 nor an object"
		if said.kind == list {
			reason += "; a text that begins with a bracket is quoted"
		}
		return fault(said.line, "mapping", said.text, reason)
	}
	m, err := nat.ParseMappingText(said.text)
	if err != nil {
		return &LineError{Line: said.line, Err: err}
	}
	rest.Proto, rest.Frontend, rest.Backend, rest.More = m.Proto, m.Frontend, m.Backend, m.More
	if d.pass != nil {
		if d.one = rest; !d.pass(&d.one) {
			return fault(v.line, "mapping", said.text, "no more are wanted")
		}
		return nil
	}
	d.state.Mappings = append(d.state.Mappings, rest)
	return nil
}

// sources reads the clients of a mapping: a list of prefixes and addresses.
func (d *document) sources(v *value) (s nat.Sources, fail *LineError) {
	const form = "not a list like [192.0.2.0/24]"
	if v.kind != list || len(v.list) == 0 {
		return s, fault(v.line, "from", v.text, form)
	}
	// Without aliases there cannot be as many as the file has bytes.
	if d.texts += len(v.list); d.texts > d.size {
		return s, fault(v.line, "from", "", "aliases make more of it than there can be")
	}
	texts := make([]string, len(v.list))
	for i, item := range v.list {
		if item.kind != text {
			return s, fault(item.line, "from", item.text, notText)
		}
		texts[i] = item.text
		if _, err := nat.ParseSources(item.text); err != nil {
			return s, &LineError{Line: item.line, Err: err}
		}
	}
	s, err := nat.ParseSources(texts...)
	if err != nil {
		return s, &LineError{Line: v.line, Err: err}
	}
	return s, nil
}

// parseExpires reads a time of RFC 3339. The zero time is refused, as it would
// mean never.
func parseExpires(s string) (time.Time, bool) {
	var t time.Time
	// Unlike time.Parse, UnmarshalText takes nothing but RFC 3339.
	if err := t.UnmarshalText([]byte(s)); err != nil || t.IsZero() {
		return time.Time{}, false
	}
	return t.UTC(), true
}
