// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// Every command takes the global flags that do something with it, and shows no other.
func TestGlobals(t *testing.T) {
	const (
		all     = "socket netns table direct quiet"
		allJSON = all + " json"
	)
	want := map[string]string{
		"add": allJSON, "rm": allJSON, "ls": allJSON, "apply": allJSON, "export": all,
		"network": "", "network create": allJSON, "network ls": allJSON, "network rm": all,
		"attach": allJSON, "detach": allJSON, "ps": allJSON, "inspect": allJSON, "port": allJSON,
		"import": allJSON, "explain": allJSON, "doctor": allJSON, "trace": allJSON, "status": allJSON, "events": "socket netns table json", "plan": "table", "demo": "",
		"serve": "socket netns table quiet", "purge": all, "version": "json", "cni": "", "cni install": "socket", "cni uninstall": "",
		"docker": "", "docker watch": "socket quiet", "gateway": "socket quiet", "web": "socket quiet",
		"help": "", "completion": "", "completion bash": "", "completion fish": "", "completion powershell": "", "completion zsh": "",
	}
	values := map[string]string{"socket": "/nowhere/s", "netns": "nosuch", "table": "x"}
	seen := map[string]bool{}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
		path := strings.TrimPrefix(cmd.CommandPath(), "nftnat ")
		if !cmd.HasParent() || cmd.Hidden || cmd.DisableFlagParsing {
			return
		}
		seen[path] = true
		globals, known := want[path]
		require.True(t, known, "%s: say which global flags do something with it", path)
		help := helpOf(t, path)
		for flag := range strings.FieldsSeq(allJSON) {
			does := strings.Contains(" "+globals+" ", " "+flag+" ")
			require.Equal(t, does, offers(cmd, flag), "%s --%s", path, flag)
			require.Equal(t, does, strings.Contains(help, " --"+flag+" "), "%s --%s\n%s", path, flag, help)
			if does {
				continue
			}
			given := "--" + flag
			if value := values[flag]; value != "" {
				given += "=" + value
			}
			var out, errs bytes.Buffer
			args := append(strings.Fields(path), given)
			if n := map[string]int{"network rm": 1}[path]; n != 0 {
				args = append(args, "a")
			}
			require.Equal(t, exitBadInput, run(args, strings.NewReader(""), &out, &errs), "%s %s", path, given)
			require.Equal(t, "nftnat: --"+flag+" does nothing with \"nftnat "+path+"\" (see \"nftnat "+strings.TrimPrefix(path+" --help", "help --")+"\")\n", errs.String())
			require.Empty(t, out.String())
		}
	}
	root := newRoot(io.Discard, nil)
	walk(root)
	require.Len(t, seen, len(want))
}

func helpOf(t *testing.T, path string) string {
	t.Helper()
	var out, errs bytes.Buffer
	require.Zero(t, run(append(strings.Fields(path), "--help"), strings.NewReader(""), &out, &errs), errs.String())
	return out.String()
}

// What a command takes of arguments is said with an example, and what it is called nearly.
func TestWrongArguments(t *testing.T) {
	for line, says := range map[string]string{
		"add": `wrong number of arguments: use "nftnat add PROTO FRONTEND BACKEND", as in: nftnat add tcp 8080 172.17.0.2:80 (see "nftnat add --help")`,
		"add tcp 80 172.30.0.2 --proxy-only --direct": `--proxy-only needs the daemon: with --direct nobody is served (see "nftnat add --help")`,
		"list tcp udp": `wrong number of arguments: use "nftnat ls [PROTO]", as in: nftnat ls (see "nftnat ls --help")`,
		"remove":       `wrong number of arguments: use "nftnat rm PROTO FRONTEND | FRONTEND[/PROTO] | MAPPING | --name N", as in: nftnat rm tcp 8080 (see "nftnat rm --help")`,
		"delete tcp":   `wrong number of arguments: use "nftnat rm PROTO FRONTEND | FRONTEND[/PROTO] | MAPPING | --name N", as in: nftnat rm tcp 8080 (see "nftnat rm --help")`,
		"purge all":    `wrong number of arguments: use "nftnat purge" (see "nftnat purge --help")`,
		"show":         `unknown command "show" for "nftnat"; is it "ls"? (see "nftnat help")`,
		"lsit":         `unknown command "lsit" for "nftnat"; is it "ls"? (see "nftnat help")`,
		"ad":           `unknown command "ad" for "nftnat"; is it "add"? (see "nftnat help")`,
		"lst":          `unknown command "lst" for "nftnat"; is it "ls"? (see "nftnat help")`,
		"zzzzzz":       `unknown command "zzzzzz" for "nftnat" (see "nftnat help")`,
	} {
		var out, errs bytes.Buffer
		require.Equal(t, exitBadInput, run(strings.Fields(line), strings.NewReader(""), &out, &errs), line)
		require.Equal(t, "nftnat: "+says+"\n", errs.String(), line)
		require.Empty(t, out.String(), line)
	}
}

func TestParseRemoved(t *testing.T) {
	for text, want := range map[string]string{
		"8080": "8080 tcp false", "53/udp": "53 udp false", "8000-8009/tcp": "8000-8009 tcp false", "192.0.2.1:53/udp": "192.0.2.1:53 udp false",
		"[2001:db8::1]:8080->[fd00::2]:80": "[2001:db8::1]:8080 tcp true", "53->172.17.0.2:53/udp": "53 udp true",
		"8000-8009->172.17.0.2:9000-9009": "8000-8009 tcp true",
	} {
		r, err := parseRemoved(text)
		require.NoError(t, err, text)
		require.Len(t, r.Mappings, 1)
		m := r.Mappings[0]
		exact := map[bool]string{true: "true", false: "false"}[r.Exact]
		require.Equal(t, want, m.FrontendText()+" "+m.Proto.String()+" "+exact, text)
	}
}

// What rm reads it reads as it prints it.
func FuzzParseRemoved(f *testing.F) {
	for _, seed := range []string{"8080", "53/udp", "8080->172.17.0.2:80", "[::1]:80->[fd00::2]:80/udp", "8080-", "/", "->", "0", "1-65535/tcp"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRemoved(text)
		if err != nil {
			require.Equal(t, exitBadInput, exitStatus(err))
			return
		}
		m := r.Mappings[0]
		again := m.FrontendText() + "/" + m.Proto.String()
		if r.Exact {
			again = m.String()
		}
		back, err := parseRemoved(again)
		require.NoError(t, err)
		require.Equal(t, r, back)
	})
}
