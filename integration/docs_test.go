// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/state"
)

// Every command in the documentation works as the page says, in the order of the page, on
// a host with the backends of the examples. A block that cannot run here names a test that
// reads the page and runs the block, or .ci/run, which has the same lines.
func TestDocs(t *testing.T) {
	tests := testSources(t)
	ci := textOf(t, "../.ci/run")
	for _, page := range docPages(t) {
		t.Run(page, func(t *testing.T) {
			var shell *docShell
			for _, block := range docBlocks(t, page) {
				switch {
				case block.runBy == ".ci/run":
					for _, c := range block.commands() {
						require.Contains(t, ci, "\n"+c.line, "%s: .ci/run has no such line", block)
					}
				case block.runBy != "":
					source := tests[block.runBy]
					require.NotEmpty(t, source, "%s: there is no test %s", block, block.runBy)
					require.Contains(t, source, `docBlocks(t, "`+page+`")`, "%s: %s does not read the page", block, block.runBy)
				case block.lang == "sh" || block.lang == "console":
					if shell == nil {
						shell = newDocShell(t)
					}
					shell.run(t, block)
				default:
					checkBlock(t, block)
				}
			}
		})
	}
}

// checkBlock checks a block that has no commands.
func checkBlock(t *testing.T, block docBlock) {
	t.Helper()
	switch block.lang {
	case "yaml":
		_, err := state.Decode(strings.NewReader(block.text), block.String())
		require.NoError(t, err, block)
	case "go":
		require.Contains(t, goExamples(t), unindented(block.text), "%s: no example has this", block)
	default:
		// Pictures and abridged listings.
		require.Equal(t, "text", block.lang, "%s: what language is this?", block)
	}
}

// A docShell runs a page's commands on a host whose neighbour answers HTTP on port 80 of
// 172.17.0.2, 172.17.0.3 and 172.30.0.2.
type docShell struct {
	ns      *lab.NS
	command func(line string) *exec.Cmd // prepares a line for bash(1)
}

// newDocHost makes the host and its neighbour.
func newDocHost(t *testing.T) *lab.NS {
	t.Helper()
	labtest.Tool(t, "curl")
	host, backend := labtest.NewNS(t, "host"), labtest.NewNS(t, "backend")
	require.NoError(t, lab.Wire(
		lab.End{NS: host, Link: "docker0", Addrs: prefixes("172.17.0.1/16", "172.30.0.1/24")},
		lab.End{NS: backend, Link: "eth0", Addrs: prefixes("172.17.0.2/16", "172.17.0.3/16", "172.30.0.2/24")},
	))
	serveHello(t, backend)
	return host
}

const (
	// sudoScript stands for sudo(8). Tests are root already, perhaps of a user namespace;
	// it sets the PATH of Debian's secure_path.
	sudoScript = "#!/bin/sh\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin exec \"$@\"\n"
	// curlConfig makes curl(1) fail with HTTP errors, and print only answers.
	curlConfig = "silent\nshow-error\nfail-with-body\n"
)

// newDocShell returns a shell in which nftnat is installed.
func newDocShell(t *testing.T) *docShell {
	t.Helper()
	host := newDefaultTestbed(t, newDocHost(t)).ns
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	require.NoError(t, os.Mkdir(bin, 0o755))
	path, err := program()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(path, filepath.Join(bin, "nftnat")))
	sudo := strings.Replace(sudoScript, "PATH=", "PATH="+bin+":", 1)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "sudo"), []byte(sudo), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".curlrc"), []byte(curlConfig), 0o644))
	// Otherwise go(1) starts a process that writes there while the directory is removed.
	telemetry := filepath.Join(dir, ".config", "go", "telemetry")
	require.NoError(t, os.MkdirAll(telemetry, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(telemetry, "mode"), []byte("off\n"), 0o644))
	env := []string{
		"NFTNAT_DOCTOR_INTERVAL=0", "HOME=" + dir, "PATH=" + bin + ":" + filepath.Dir(labtest.Tool(t, "go")) + ":/usr/sbin:/usr/bin:/sbin:/bin",
	}
	return &docShell{ns: host, command: func(line string) *exec.Cmd {
		cmd := exec.Command(labtest.Tool(t, "bash"), "-c", line)
		cmd.Dir, cmd.Env = dir, env
		return cmd
	}}
}

// serveHello answers HTTP on port 80 with the address to which the client connected.
func serveHello(t *testing.T, ns *lab.NS) {
	t.Helper()
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			local := netip.MustParseAddrPort(r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
			_, _ = fmt.Fprintln(w, "Hello from", local.Addr().Unmap())
		}),
	}
	l, err := ns.Listen("tcp", ":80")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

// run runs a block's commands one after another. Commands whose output ends with a message
// of nftnat must fail, and all others must succeed.
func (s *docShell) run(t *testing.T, block docBlock) {
	t.Helper()
	for _, c := range block.commands() {
		cmd := s.command(c.line)
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		code := labtest.Run(t, s.ns, cmd).Code
		if block.lang == "console" {
			// Not every backend of the pages has a server here.
			require.Equal(t, c.output, aboutBackend.ReplaceAllString(output.String(), ""), "%s: %s", block, c.line)
		}
		lines := strings.Split(strings.TrimSuffix(c.output, "\n"), "\n")
		if strings.HasPrefix(lines[len(lines)-1], "nftnat: ") {
			require.NotZero(t, code, "%s: %s", block, c.line)
			continue
		}
		require.Zero(t, code, "%s: %s\n%s", block, c.line, output.String())
		require.NotContains(t, output.String(), "userdel: ", "%s: it has a complaint", c.line)
	}
}

var testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)

// testSources returns the source of the file of each test, by the test's name.
func testSources(t *testing.T) map[string]string {
	t.Helper()
	sources := map[string]string{}
	require.NoError(t, filepath.WalkDir("..", func(path string, entry os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range testFunction.FindAllSubmatch(source, -1) {
			sources[string(match[1])] = string(source)
		}
		return nil
	}))
	return sources
}

// goExamples returns the engine's examples, without indentation.
func goExamples(t *testing.T) string {
	t.Helper()
	paths, err := filepath.Glob("../engine/example*_test.go")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var all strings.Builder
	for _, path := range paths {
		all.WriteString(unindented(textOf(t, path)))
	}
	return all.String()
}

// unindented removes the white space at the beginning of lines.
func unindented(text string) string {
	var done strings.Builder
	for line := range strings.Lines(text) {
		done.WriteString(strings.TrimLeft(line, " \t"))
	}
	return done.String()
}

func textOf(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

var testNameInText = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*\\*?)`")

// Every test that the documentation names exists.
func TestDocsNameTests(t *testing.T) {
	tests := testSources(t)
	pages, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	for _, page := range append(pages, "../README.md", "../CONTRIBUTING.md") {
		for _, match := range testNameInText.FindAllStringSubmatch(textOf(t, page), -1) {
			prefix, isPrefix := strings.CutSuffix(match[1], "*")
			found := tests[prefix] != ""
			for name := range tests {
				found = found || isPrefix && strings.HasPrefix(name, prefix)
			}
			require.True(t, found, "%s: there is no %s", page, match[1])
		}
	}
}

var linkInText = regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)

// Links of the documentation to files of this repository lead to an existing file and
// heading.
func TestDocsLinks(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	decisions, err := filepath.Glob("../docs/adr/*.md")
	require.NoError(t, err)
	own, err := filepath.Glob("../*.md")
	require.NoError(t, err)
	for _, page := range slices.Concat(pages, decisions, own, []string{"../findings/README.md"}) {
		for _, match := range linkInText.FindAllStringSubmatch(textOf(t, page), -1) {
			target := page
			if match[1] != "" {
				target = filepath.Join(filepath.Dir(page), match[1])
			}
			_, err := os.Stat(target)
			require.NoError(t, err, "%s: %s", page, match[0])
			if match[2] != "" {
				require.Contains(t, anchors(textOf(t, target)), match[2], "%s: %s", page, match[0])
			}
		}
	}
}

// anchors returns the names of a page's headings in links.
func anchors(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		if heading := strings.TrimLeft(line, "#"); heading != line {
			name := strings.ToLower(strings.TrimSpace(heading))
			names = append(names, strings.ReplaceAll(notInAnchor.ReplaceAllString(name, ""), " ", "-"))
		}
	}
	return names
}

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
