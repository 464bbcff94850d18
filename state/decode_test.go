// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// mapped parses text that the test knows to be good.
func mapped(tb testing.TB, text string) nat.Mapping {
	tb.Helper()
	m, err := nat.ParseMappingText(text)
	require.NoError(tb, err)
	return m
}

// named has everything there is to say of a mapping.
func named(tb testing.TB) nat.Mapping {
	tb.Helper()
	m := mapped(tb, "53->172.17.0.2:53/udp")
	m.Name, m.NoProxy, m.Expires = "dns", true, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	return m
}

func TestDecode(t *testing.T) {
	web, dns := mapped(t, "8080->172.17.0.2:80"), named(t)
	six := mapped(t, "[2001:db8::1]:8000-8009->[fd00::2]:9000-9009/udp")
	dressed := func(change func(*nat.Mapping)) nat.Mapping {
		m := web
		change(&m)
		return m
	}
	for _, tt := range []struct {
		name, text string
		want       []nat.Mapping
	}{
		{"an empty list", "mappings: []\n", nil},
		{"a version", "version: 1\nmappings: []\n", nil},
		{"a version behind, and an end", "mappings: [8080->172.17.0.2:80]\nversion: 1\n...\n", []nat.Mapping{web}},
		{"the file of the package comment", "mappings:\n  - 8080->172.17.0.2:80\n  - {mapping: \"53->172.17.0.2:53/udp\", name: dns, proxy: false, expires: 2027-01-01T00:00:00Z}\n",
			[]nat.Mapping{web, dns}},
		{"byte order mark", "\ufeffmappings:\n- 8080->172.17.0.2:80", []nat.Mapping{web}},
		{"order is kept", "mappings:\n- 53->1.2.3.4/udp\n- 53->1.2.3.4\n", []nat.Mapping{mapped(t, "53->1.2.3.4/udp"), mapped(t, "53->1.2.3.4")}},
		{"quoted", "mappings:\n- \"[2001:db8::1]:8000-8009->[fd00::2]:9000-9009/udp\"\n- '8080->172.17.0.2:80'\n", []nat.Mapping{six, web}},
		{"brackets inside", "mappings:\n- 8080->[fd00::2]:80\n", []nat.Mapping{mapped(t, "8080->[fd00::2]:80")}},
		{"backend without ports", "mappings:\n- 8080->172.17.0.2\n", []nat.Mapping{mapped(t, "8080->172.17.0.2:8080")}},
		{"a colon at the end, quoted", "mappings:\n- \"8080->fd00::\"\n", []nat.Mapping{mapped(t, "8080->[fd00::]:8080")}},
		{"flow list", "mappings: [8080->172.17.0.2:80, {name: dns, expires: \"2027-01-01T02:00:00+02:00\", proxy: false, mapping: 53->172.17.0.2:53/udp}]",
			[]nat.Mapping{web, dns}},
		{"JSON", `{"mappings":["8080->172.17.0.2:80",{"mapping":"53->172.17.0.2:53/udp","name":"dns","proxy":false,"expires":"2027-01-01T00:00:00Z"}]}`,
			[]nat.Mapping{web, dns}},
		{"block object", "mappings:\n  - mapping: 53->172.17.0.2:53/udp\n    name: 'dns' # ours\n    proxy: false\n    expires: 2027-01-01T00:00:00Z\n", []nat.Mapping{dns}},
		{"block scalars", "mappings:\n- >-\n  8080->172.17.0.2:80\n- mapping: |-\n    53->172.17.0.2:53/udp\n  name: |-\n    dns\n  proxy: false\n  expires: 2027-01-01T00:00:00Z\n", []nat.Mapping{web, dns}},
		{"values on their own lines", "mappings:\n-\n  mapping:\n    80->1.2.3.4\n- {mapping:\n\"81->1.2.3.4\",\n}\n", []nat.Mapping{mapped(t, "80->1.2.3.4"), mapped(t, "81->1.2.3.4")}},
		{"windows line ends", "mappings:\r\n  - 8080->172.17.0.2:80\r\n", []nat.Mapping{web}},
		{"trailing comment", "mappings: # all\n- 8080->172.17.0.2:80 # web\n", []nat.Mapping{web}},
		{"document marks", "---\nmappings:\n- 8080->172.17.0.2:80\n...\n", []nat.Mapping{web}},
		{"proxy said", "mappings:\n- {mapping: 8080->172.17.0.2:80, proxy: true}\n", []nat.Mapping{web}},
		{"aliases", "mappings:\n- &a {mapping: 8080->172.17.0.2:80, name: &n web}\n- {mapping: &m 80->1.2.3.4, name: *n}\n",
			[]nat.Mapping{dressed(func(m *nat.Mapping) { m.Name = "web" }), func() nat.Mapping {
				m := mapped(t, "80->1.2.3.4")
				m.Name = "web"
				return m
			}()}},
		{"escapes", `mappings: [{mapping: 8080->172.17.0.2:80, name: "a\u2028\\\U0001F600"}]`,
			[]nat.Mapping{dressed(func(m *nat.Mapping) { m.Name = "a\u2028\\😀" })}},
		{"a fraction of a second", `mappings: [{mapping: 8080->172.17.0.2:80, expires: 2027-01-01T00:00:00.000000001Z}]`,
			[]nat.Mapping{dressed(func(m *nat.Mapping) { m.Expires = time.Date(2027, 1, 1, 0, 0, 0, 1, time.UTC) })}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Decode(strings.NewReader(tt.text), "f")
			require.NoError(t, err)
			require.Equal(t, tt.want, f.Mappings)
			for _, m := range f.Mappings { // equal by ==, as map keys are
				require.Equal(t, m.Expires.UTC(), m.Expires)
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	const unequal = "ranges of unequal length: frontend 8000-8009 has 10 ports, the backend 1"
	for _, tt := range []struct{ text, want string }{
		// The contents.
		{"mappings:\n\n# x\n- 80->1.2.3.4\n\n- 81->1.2.3.4\n- 8080-8000->1.2.3.4", `f:7: invalid frontend "8080-8000": the range ends before it begins`},
		{"mappings:\n- 8000-8009->1.2.3.4:80", `f:2: invalid backend "1.2.3.4:80": ` + unequal},
		{"mappings:\n- 80->127.0.0.1", `f:2: invalid mapping "80->127.0.0.1:80": the backend is a loopback address, which packets from outside cannot be sent to`},
		{"mappings:\n- 8080", `f:2: invalid mapping "8080": neither a text like 8080->172.17.0.2:80 nor an object`},
		{"mappings:\n- \"8080\"", `f:2: invalid mapping "8080": no "->" between frontend and backend`},
		{"mappings:\n- 80->1.2.3.4:80/sctp", `f:2: invalid mapping "80->1.2.3.4:80/sctp": unknown protocol "sctp": tcp or udp`},
		{"mappings:\n- 80->1.2.3.4\n-\n", `f:3: invalid item "-": it has no value`},
		{"mappings:\n- [a]\n", `f:2: invalid mapping "[": neither a text like 8080->172.17.0.2:80 nor an object; a text that begins with a bracket is quoted`},
		{"mappings:\n- 0->1.2.3.4:80", `f:2: invalid mapping "0->1.2.3.4:80": frontend 0 asks for a free port, and a file says which`},
		{"mappings:\n- {mapping: \"192.0.2.1:0->1.2.3.4:80\"}", `f:2: invalid mapping "192.0.2.1:0->1.2.3.4:80": frontend 0 asks for a free port, and a file says which`},
		{"mappings:\n- 80->1.2.3.4\n- 81->1.2.3.4\n\n- 192.0.2.1:80->1.2.3.5", `f:5: mappings 80->1.2.3.4:80 and 192.0.2.1:80->1.2.3.5:80 overlap: both claim tcp port 80 (the first is in line 2)`},
		{"mappings:\n- mapping: 80-89->1.2.3.4\n  name: a\n- 85->1.2.3.4", `f:4: mappings 80-89->1.2.3.4:80-89 and 85->1.2.3.4:85 overlap: both claim tcp port 85 (the first is in line 2)`},
		{"mappings:\n- &a 80->1.2.3.4\n- *a\n", `f:3: mappings 80->1.2.3.4:80 and 80->1.2.3.4:80 overlap: both claim tcp port 80 (the first is in line 2)`},
		// The objects.
		{"mappings:\n- {name: web}", `f:2: invalid mapping "": the object has no key "mapping"`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  name: 5\n", `f:3: invalid name "5": not a text; quote it`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  name:\n", `f:3: invalid key "name": it has no value`},
		{"mappings:\n- {mapping: 80->1.2.3.4, name: \"a [one-family]\"}", `f:2: invalid mapping "80->1.2.3.4:80": name ends in [one-family], which says how a mapping is published`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  proxy: \"false\"\n", `f:3: invalid proxy "false": true or false`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  proxy: no\n", `f:3: invalid proxy "no": true or false`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  expires: 2027-01-01\n", `f:3: invalid expires "2027-01-01": not a time like 2027-01-01T00:00:00Z`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  expires: 2027\n", `f:3: invalid expires "2027": not a time like 2027-01-01T00:00:00Z`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  expires: 0001-01-01T00:00:00Z\n", `f:3: invalid expires "0001-01-01T00:00:00Z": not a time like 2027-01-01T00:00:00Z`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  host: a\n", `f:3: invalid key "host": not known`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  mappings: a\n", `f:3: invalid key "mappings": a mapping has the keys mapping, name, proxy, proxy_only, masquerade, from, hold and expires`},
		{"mappings:\n- {mapping: 80->1.2.3.4, host}", `f:2: invalid key "host": it has no value`},
		{"mappings:\n- {mapping: [80->1.2.3.4]}", `f:2: invalid mapping "[": neither a text like 8080->172.17.0.2:80 nor an object; a text that begins with a bracket is quoted`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  mapping: 81->1.2.3.4\n", `f:3: invalid YAML "  mapping: 81->1.2.3.4": mapping key "mapping" already defined at [2:3]`},
		// The file.
		{"mappings:\n- 80->1.2.3.4\nmappings:\n- 81->1.2.3.4\n", `f:3: invalid YAML "mappings:": mapping key "mappings" already defined at [1:1]`},
		{"\nmapings: []\n", `f:2: invalid key "mapings": not known`},
		{"name: x\n", `f:1: invalid key "name": a file has the keys version, networks, endpoints and mappings`},
		{"mappings: 5\n", `f:1: invalid mappings "5": not a list`},
		{"mappings:\n  name: a\n", `f:2: invalid mappings "name:": not a list`},
		{"mappings: {}\n", `f:1: invalid mappings "{": not a list`},
		{"- 80->1.2.3.4\n", `f:1: invalid file "-": it does not begin with a key such as "mappings"`},
		{"hello\n", `f:1: invalid file "hello": it does not begin with a key such as "mappings"`},
		{"mappings: []\n---\nmappings: []\n", `f:3: invalid file "---": a second document`},
		{"mappings:\n- *a\n- &a 80->1.2.3.4\n", `f:2: invalid alias "a": no anchor of that name before it`},
		{"mappings: *a\n", `f:1: invalid alias "a": no anchor of that name before it`},
		{"*a", `f:1: invalid alias "a": no anchor of that name before it`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  name: *a\n", `f:3: invalid alias "a": no anchor of that name before it`},
		{"*mappings : []\n", `f:1: invalid key "*": a file has the keys version, networks, endpoints and mappings`},
		// The YAML.
		{"mappings:\n- 80->1.2.3.4\n\t- 81->1.2.3.4\n", `f:3: invalid YAML "\t- 81->1.2.3.4": found character ' ' that cannot start any token`},
		{"mappings: [\n", `f:1: invalid YAML "mappings: [": sequence end token ']' not found`},
		{"mappings:\n- 80->1.2.3.4:\n", `f:2: invalid key "80->1.2.3.4": not known`},
		{"mappings:\n- 80->1.2.3.4\n  81->1.2.3.4\n", `f:2: invalid backend "1.2.3.4 81->1.2.3.4": "1.2.3.4 81->1.2.3.4" is not an IP address`},
		{"mappings:\n- !!str 80->1.2.3.4\n", `f:2: invalid YAML "!!str": tags, directives and explicit keys are not supported`},
		{"%YAML 1.2\n---\nmappings: []\n", `f:1: invalid YAML "%": tags, directives and explicit keys are not supported`},
		{"? mappings\n: []\n", `f:1: invalid YAML "?": tags, directives and explicit keys are not supported`},
		{"mappings:\n- <<: {name: a}\n", `f:2: invalid key "<<": not known`},
		{"mappings:\n- - 80->1.2.3.4\n", `f:2: invalid YAML "- -": a list in a list`},
		{"mappings: [[[[[[", `f:1: invalid YAML "[": nested too deeply`},
		{"mappings:\n- 80->1.2.3.4\n- ~\n", `f:3: invalid mapping "~": neither a text like 8080->172.17.0.2:80 nor an object`},
		{"mappings:\n- mapping: 80->1.2.3.4\n  name: null\n", `f:3: invalid name "null": not a text; quote it`},
		{"mappings:\n- # c\n- 80->1.2.3.4\n", `f:2: invalid item "-": it has no value`},
		{"mappings:\n- mapping: # c\n  name: a\n", `f:2: invalid key "mapping": it has no value`},
		{"mappings:\n- \"mapping\":\n  name: a\n", `f:2: invalid key "mapping": it has no value`},
		{"mappings:\n- mapping:\n- 80->1.2.3.4\n", `f:2: invalid key "mapping": it has no value`},
		{"mappings: [{mapping: , name: a}]", `f:1: invalid key "mapping": it has no value`},
		{"mappings: [{mapping: }]", `f:1: invalid key "mapping": it has no value`},
		{"mappings: [{name}]", `f:1: invalid key "name": it has no value`},
		{"name:", `f:1: invalid key "name": it has no value`},
		{"", `f:1: invalid file "": ` + noLists},
		{"\ufeff", `f:1: invalid file "": ` + noLists},
		{"# nothing\n", `f:1: invalid file "": ` + noLists},
		{"---\n", `f:1: invalid file "": ` + noLists},
		{"{}", `f:1: invalid file "{": ` + noLists},
		{"# c\nversion: 1\n", `f:2: invalid file "version:": ` + noLists},
		{"version: 2\nmappings: []\n", `f:1: invalid version "2": this program reads version 1`},
		{"version: \"1\"\nmappings: []\n", `f:1: invalid version "1": it must be the number 1`},
		{"mappings: []\nversion: 1.0\n", `f:2: invalid version "1.0": it must be the number 1`},
		{"version:\nmappings: []\n", `f:1: invalid key "version": it has no value`},
		{"version: 1\nversion: 1\nmappings: []\n", `f:2: invalid YAML "version: 1": mapping key "version" already defined at [1:1]`},
		{"mappings:\n", `f:1: invalid key "mappings": it has no value; "[]" says that there are none`},
		{"mappings: ~\n", `f:1: invalid key "mappings": it has no value; "[]" says that there are none`},
		{"{mappings: }", `f:1: invalid key "mappings": it has no value; "[]" says that there are none`},
		{"networks:\nmappings: []\n", `f:1: invalid key "networks": it has no value; "[]" says that there are none`},
		{"mappings:\n- {}\n", `f:2: invalid mapping "": the object has no key "mapping"`},
		{"mappings:\n- &a &b 80->1.2.3.4\n", `f:2: invalid YAML "&": two anchors at once`},
	} {
		f, err := Decode(strings.NewReader(tt.text), "f")
		require.EqualError(t, err, tt.want, "%q", tt.text)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.Zero(t, f)
		var typed *LineError
		require.ErrorAs(t, err, &typed)
		require.Equal(t, "f", typed.File)
	}
}

func TestDecodeReader(t *testing.T) {
	const text = "mappings:\n  - 8080->172.17.0.2:80\n"
	want := []nat.Mapping{mapped(t, "8080->172.17.0.2:80")}
	path := filepath.Join(t.TempDir(), "mappings.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	for _, r := range []io.Reader{file, bytes.NewBufferString(text), iotest.OneByteReader(strings.NewReader(text))} {
		f, err := Decode(r, "f")
		require.NoError(t, err)
		require.Equal(t, want, f.Mappings)
	}

	broken := errors.New("broken")
	_, err = Decode(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)), "f")
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "read f: broken")
	require.NotErrorIs(t, err, nat.ErrInvalid)

	directory, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer func() { require.NoError(t, directory.Close()) }()
	_, err = Decode(directory, "f")
	require.EqualError(t, err, "read f: is a directory")
}

func TestDecodeSize(t *testing.T) {
	// endless is never held: only what is read of it is.
	endless := io.MultiReader(strings.NewReader("mappings:\n"), spaces{})
	_, err := Decode(endless, "f")
	require.EqualError(t, err, `invalid file "f": it is larger than 64 MiB`)
	require.ErrorIs(t, err, nat.ErrInvalid)

	comment := "# " + strings.Repeat("x", maxYAML) + "\n"
	f, err := Decode(strings.NewReader(endPromise+"\n"+comment+"mappings:\n  - 8080->172.17.0.2:80\n...\n"), "f")
	require.NoError(t, err, "large, but from Encode")
	require.Len(t, f.Mappings, 1)
	f, err = Decode(strings.NewReader(`{"mappings":[`+strings.Repeat(" ", maxYAML)+`"8080->172.17.0.2:80"]}`), "f")
	require.NoError(t, err, "large, but JSON")
	require.Len(t, f.Mappings, 1)
	_, err = Decode(strings.NewReader(comment+"mappings: [8080->172.17.0.2:80]\n"), "f")
	require.EqualError(t, err, `invalid file "f": it is larger than 8 MiB`)
	require.ErrorIs(t, err, nat.ErrInvalid)
}

// Without screen, each of these keeps the parser busy for minutes.
func TestDecodeHostile(t *testing.T) {
	for _, s := range []string{"[", "{", "{mapping: ", "- ", "-\n", "- # c\n", "&a ", "name: ", "mappings:\n  name: ", "mappings: [{a,", "!t ", "? ", "networks:\n", "ports: ", "ports:\n", "- ports: [", "- &a\n  - *a\n", "endpoints: {"} {
		for _, head := range []string{"", "mappings:\n", "mappings: [{", "endpoints: [{ports: ["} {
			_, err := Decode(strings.NewReader(head+strings.Repeat(s, 1<<16/len(s))), "f")
			require.ErrorIs(t, err, nat.ErrInvalid, "%q", s)
		}
	}
	var keys strings.Builder
	for i := range 1 << 16 {
		fmt.Fprintf(&keys, "k%d: v\n", i)
	}
	_, err := Decode(strings.NewReader(keys.String()), "f")
	require.EqualError(t, err, `f:1: invalid key "k0": not known`)
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestDecodeJSON(t *testing.T) {
	stored, err := decodeFile(" {\"version\": 1, \"table\": \"7 of x\",\n\"networks\": [{\"guard\": true, \"name\": \"\\u0061\", \"prefix\": \"10.0.0.0/8\"}], \"endpoints\": [], \"mappings\":\n[\"80->1.2.3.4:80\" , {\"mapping\": \"81->1.2.3.4:81\", \"proxy\": true}]\t}\r\n", "f")
	require.NoError(t, err)
	require.Empty(t, stored.Table, "a table counts with a checksum only")
	require.Equal(t, nat.State{
		Networks: []nat.Network{{Name: "a", Prefix: netip.MustParsePrefix("10.0.0.0/8")}},
		Mappings: []nat.Mapping{mapped(t, "80->1.2.3.4:80"), mapped(t, "81->1.2.3.4:81")},
	}, stored.State)

	for _, tt := range []struct{ text, want string }{
		{`{"version": 1}`, `f:1: invalid file "{": ` + noLists},
		{`{"version": 2, "mappings": []}`, `f:1: invalid version "2": this program reads version 1`},
		{`{"version": "1", "mappings": []}`, `f:1: invalid version "1": it must be the number 1`},
		{`{"version": 1.0, "mappings": []}`, `f:1: invalid version "1.0": it must be the number 1`},
		{"{\n\"mappings\": null}", `f:2: invalid key "mappings": ` + noList},
		{"{\"mappings\":\n5}", `f:2: invalid mappings "5": not a list`},
		{`{"mappings": [], "mappings": []}`, `f:1: invalid key "mappings": it is given twice`},
		{`{"Mappings": []}`, `f:1: invalid key "Mappings": a file has the keys version, networks, endpoints and mappings`},
		{"{\"mappings\": [\n\n{\"mapping\": \"80->1.2.3.4\", \"host\": 1}]}", `f:3: invalid key "host": a mapping has the keys mapping, name, proxy, proxy_only, masquerade, from, hold and expires`},
		{`{"mappings": [{"mapping": "80->1.2.3.4", "name": "a", "name": "b"}]}`, `f:1: invalid key "name": it is given twice`},
		{`{"mappings": [{"mapping": "80->1.2.3.4", "proxy": "false"}]}`, `f:1: invalid proxy "false": true or false`},
		{`{"mappings": [["80->1.2.3.4"]]}`, `f:1: invalid mapping "[": neither a text like 8080->172.17.0.2:80 nor an object; a text that begins with a bracket is quoted`},
		{"{\"mappings\": [\"80->1.2.3.4\",\n\"80->1.2.3.4\"]}", `f:2: mappings 80->1.2.3.4:80 and 80->1.2.3.4:80 overlap: both claim tcp port 80 (the first is in line 1)`},
		{`{"networks": [{"name": "a", "prefix": 5}]}`, `f:1: invalid prefix "5": not a text; quote it`},
		{"{\"networks\": [{\"name\": \"a\", \"prefix\": \"10.0.0.0/8\"}], \"endpoints\": [{\"name\": \"web\", \"address\": \"10.0.0.2\",\n\"ports\": [80]}]}", `f:2: invalid ports "80": not a text; quote it`},
		// With a checksum it is no YAML, whatever it is.
		{"{\"checksum\": \"\"}", `f:1: invalid checksum "": what follows has `},
		{`{"checksum": 5, "mappings": []}`, `f:1: invalid key "checksum": a file has the keys `},
		{`{"checksum": "dda2f1e38ee9d2ebb9e9bd64ff46a1bc2c93f6a4ae2b9d63e8ac6aac5f3fb03b", `, `f:1: invalid checksum "`},
		// Neither JSON nor YAML.
		{"{\"mappings\": [\"80->1.2.3.4\"]} x", `f:1: invalid YAML "`},
		{"{\"mappings\": [\"80->1.2.3.4\"", `f:1: invalid YAML "`},
	} {
		_, err := decodeFile(tt.text, "f")
		require.ErrorIs(t, err, nat.ErrInvalid, "%q", tt.text)
		require.True(t, strings.HasPrefix(err.Error(), tt.want), "%q: %s", tt.text, err)
	}
	for _, bad := range []string{"{", `{"a"`, `{"a":`, `{"mappings":[`, `{"mappings":["` + "\x01" + `"]}`, "{\"mappings\":[\"\xff\"]}", `{"mappings":["\q"]}`, `{"mappings":[]}` + "\x00", `{"mappings":[tru]}`, `{"mappings":[01]}`, "{\"mappings\":[\"80->1.2.3.4\"]\x00}"} {
		_, ok, err := decodeJSON(bad)
		require.False(t, ok, "%q", bad)
		require.NotNil(t, err, "%q", bad)
	}
}

// What the scanner takes for JSON is JSON.
func TestDecodeJSONIsStrict(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	const bytes = "{}[]\":,\\ \n\t09-.eu\x00\xff"
	taken := 0
	for range 300 {
		_, good, _ := strings.Cut(written(t, nat.StoredState{State: randomState(r)}), "\",\n")
		good = "{" + good
		_, ok, fault := decodeJSON(good)
		require.True(t, ok)
		require.Nil(t, fault)
		for range 100 {
			text, at := []byte(good), r.IntN(len(good))
			switch c := bytes[r.IntN(len(bytes))]; r.IntN(3) {
			case 0:
				text[at] = c
			case 1:
				text = slices.Insert(text, at, c)
			case 2:
				text = slices.Delete(text, at, at+1)
			}
			if _, ok, fault := decodeJSON(string(text)); ok && fault == nil {
				require.True(t, json.Valid(text), "%s", text)
				taken++
			}
		}
	}
	require.Greater(t, taken, 1000)
}
