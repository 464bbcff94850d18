// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// A list as containerd's documentation has it, with keys that nobody knows.
const containerdList = `{
  "cniVersion": "1.0.0",
  "name": "containerd-net",
  "x-mine": [1, {"b": 2, "a": null}],
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0"
    },
    {
      "type": "portmap",
      "capabilities": {"portMappings": true},
      "snat": true
    },
    {"type": "tuning"}
  ]
}
`

// requireText compares texts byte by byte.
func requireText(t *testing.T, want string, got []byte) {
	t.Helper()
	require.Equal(t, want, string(got))
}

// Install changes the entry of portmap and nothing else, once; Uninstall returns the same bytes.
func TestInstallReplaces(t *testing.T) {
	after, err := Install([]byte(containerdList), Key{"hold", `"shared"`})
	require.NoError(t, err)
	const want = `{
  "cniVersion": "1.0.0",
  "name": "containerd-net",
  "x-mine": [1, {"b": 2, "a": null}],
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0"
    },
    {
      "type": "nftnat-cni", "replaces": "portmap", "hold": "shared",
      "capabilities": {"portMappings": true},
      "snat": true
    },
    {"type": "tuning"}
  ]
}
`
	requireText(t, want, after)
	again, err := Install(after, Key{"hold", `"shared"`})
	require.NoError(t, err)
	requireText(t, want, again)
	other, err := Install(after, Key{"hold", `"own"`}, Key{"startDaemon", "true"})
	require.NoError(t, err)
	require.Contains(t, string(other), `"type": "nftnat-cni", "startDaemon": true, "replaces": "portmap", "hold": "own",`)
	for _, text := range [][]byte{after, other} {
		before, err := Uninstall(text)
		require.NoError(t, err)
		requireText(t, containerdList, before)
	}
	_, err = Install([]byte(containerdList), Key{"hold", `"tight"`})
	require.EqualError(t, err, `the entry: invalid hold: "tight"`)
	same, err := Uninstall([]byte(containerdList))
	require.NoError(t, err)
	requireText(t, containerdList, same)
}

// Where there is no portmap, the plugin is the last one.
func TestInstallAppends(t *testing.T) {
	for before, want := range map[string]string{
		`{"plugins":[{"type":"ptp"}]}`: `{"plugins":[{"type":"ptp"},{"type": "nftnat-cni", "capabilities": {"portMappings": true}}]}`,
		"{\"Plugins\": [\n\t{\"type\": \"ptp\"}\n]}": "{\"Plugins\": [\n\t{\"type\": \"ptp\"},\n\t" +
			`{"type": "nftnat-cni", "capabilities": {"portMappings": true}}` + "\n]}",
	} {
		after, err := Install([]byte(before))
		require.NoError(t, err)
		requireText(t, want, after)
		again, err := Uninstall(after)
		require.NoError(t, err)
		requireText(t, before, again)
	}
}

// Uninstall takes out the keys of this plugin wherever they stand.
func TestUninstallKeys(t *testing.T) {
	for before, want := range map[string]string{
		`{"plugins":[{"hold":"own","replaces":"portmap","type":"nftnat-cni"}]}`:                `{"plugins":[{"type":"portmap"}]}`,
		`{"plugins":[{"type":"nftnat-cni" , "a":1,"replaces":"portmap","b":2,"socket":"/x"}]}`: `{"plugins":[{"type":"portmap" , "a":1,"b":2}]}`,
		`{"plugins":[{"type":"nftnat-cni"},{"type":"x"}]}`:                                     `{"plugins":[{"type":"x"}]}`,
		`{"plugins":[{"type":"nftnat-cni"}]}`:                                                  `{"plugins":[]}`,
	} {
		after, err := Uninstall([]byte(before))
		require.NoError(t, err)
		requireText(t, want, after)
	}
}

// What cannot be edited is refused.
func TestInstallRefuses(t *testing.T) {
	for text, reason := range map[string]string{
		``:                        "it is not JSON",
		`{"plugins":[{]}`:         "it is not JSON",
		`[]`:                      "it is not an object",
		`{"type":"portmap"}`:      `it has no "plugins"`,
		`{"plugins":{}}`:          `it has no "plugins"`,
		`{"plugins":[]}`:          `its "plugins" are none: this one needs another before it`,
		`{"plugins":["portmap"]}`: `one of its "plugins" is not an object`,
		`{"plugins":[{"type":"portmap"},{"type":"portmap"}]}`:                                             "it has more than one entry of type portmap or nftnat-cni",
		`{"plugins":[{"type":"portmap"}]}`:                                                                `the entry has no "capabilities": {"portMappings": true}, so that runtimes send no ports`,
		`{"plugins":[{"type":"portmap","capabilities":{"portMappings":true},"masqAll":true}]}`:            "the entry: masqAll true is not supported",
		`{"plugins":[{"type":"portmap","capabilities":{"portMappings":true},"conditionsV4":["-s","x"]}]}`: `the entry: conditionsV4 ["-s" "x"] is not supported`,
	} {
		_, err := Install([]byte(text))
		require.EqualError(t, err, reason)
		require.ErrorIs(t, err, nat.ErrInvalid)
	}
}

// Whatever the list, an edited one is JSON, is not edited again, and becomes what it was.
func FuzzInstall(f *testing.F) {
	f.Add([]byte(containerdList))
	f.Add([]byte(`{"plugins":[{"type":"ptp"}]}`))
	f.Add([]byte(` { "plugins" : [ { "a\"" : [ ] , "TYPE" : "portmap" , "capabilities" : { "portMappings" : true } } , { } ] } `))
	f.Fuzz(func(t *testing.T, before []byte) {
		l, err := parseList(before)
		if err != nil || len(l.find(Type)) != 0 {
			return
		}
		after, err := Install(before)
		if err != nil {
			return
		}
		require.True(t, json.Valid(after), "%s", after)
		again, err := Install(after)
		require.NoError(t, err)
		require.Equal(t, string(after), string(again))
		if cannotBeUndone(l) {
			return
		}
		undone, err := Uninstall(after)
		require.NoError(t, err)
		require.Equal(t, string(before), string(undone))
	})
}

// cannotBeUndone reports whether an entry has had keys of this plugin, which Uninstall removes, or has its
// type in another spelling.
func cannotBeUndone(l *list) bool {
	for i := range l.entries {
		for _, key := range ownKeys() {
			if l.member(i, key) != nil {
				return true
			}
		}
		if m := l.member(i, "type"); m != nil && l.value(i, "type") == typePortmap && string(l.text[m.value.start:m.value.end]) != quoted(typePortmap) {
			return true
		}
	}
	return false
}
