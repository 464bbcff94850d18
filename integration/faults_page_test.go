// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const troubleshootingHead = `# Why does my port not answer?

| what you see | what to ask |
|---|---|
| nobody is answered | ` + "`nftnat explain tcp 8080`" + `: a typical client, behind the default route |
| one client is not answered | ` + "`nftnat explain tcp 8080 --from 192.0.2.2`" + ` |
| 127.0.0.1 is answered, and clients elsewhere are not | the same. A proxy may serve 127.0.0.1, which says nothing about the way of the others |
| you do not know which port, or want to know before somebody asks | ` + "`nftnat doctor`" + ` |
| explain says that it passes, and the client is not answered | ` + "`nftnat trace tcp 8080 --from 192.0.2.2`" + ` while it asks. If no packet comes, it is lost before this host |
| it works now and then | ` + "`nftnat trace tcp 8080`" + `, and the causes that explain lists behind *also* |

` + "`explain`" + ` reads the rules of all tables (iptables-legacy's too), routes, policy rules, interfaces, sysctls, neighbours and sockets, and follows a packet of the client and its answer through them. It names the first thing that stops one of them, and what would undo that. It changes nothing. What it cannot know, as whether a limit lets a packet pass, it says: then the answer is *may be stopped*. The exit status is 0 if the packet passes, 1 if it is or may be stopped, and 4 if nothing is published there. [commands.md](commands.md) has all of it.

It predicts what becomes of a packet that gets to this host and is answered by the backend as by others. It does not see what the client's own network does, nor does it follow a connection beyond its first three packets and an answer: a rule that drops later packets, by their contents or length, is for ` + "`trace`" + `.

Below are %d faults. ` + "`TestFaults` in `integration`" + ` brings each about on real machines, compares what a client meets with what explain says, and writes this page. The host has 192.0.2.1 and 192.0.2.9 on lan0, where the client 192.0.2.2 is, 198.51.100.1 on far0, and 172.30.0.1 on br0, where the backend 172.30.0.2 is. What is published is 8080->172.30.0.2:80, and 192.0.2.9:8081->172.30.0.2:80.
`

// troubleshooting is the page, with what explain has printed of each fault.
func troubleshooting(faults []fault, printed map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, troubleshootingHead, len(faults))
	for _, f := range faults {
		fmt.Fprintf(&b, "\n## %s\n\nThe client meets: %s.", f.name, f.meets)
		if f.words != "" {
			b.WriteString(" " + f.words)
		}
		b.WriteString("\n")
		if f.inject != "" {
			fmt.Fprintf(&b, "\nBrought about by:\n\n<!-- run by TestFaults -->\n```sh\n%s\n```\n", shellLines(f.inject))
		}
		fmt.Fprintf(&b, "\n<!-- run by TestFaults -->\n```console\n$ nftnat explain %s\n%s```\n", cmp.Or(f.explain, faultQuery), withoutCounts(printed[f.name]))
	}
	return b.String()
}

// shellLines are the lines of a fault as a shell takes them; what is not done on the host says so.
func shellLines(inject string) string {
	var lines []string
	for line := range strings.Lines(inject) {
		machine, command, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if machine != "host" {
			command += "   # in the " + machine
		}
		lines = append(lines, command)
	}
	return strings.Join(lines, "\n")
}

var (
	ephemeral  = regexp.MustCompile(`(sport=|dport=)[3-6]\d{4}`)
	hasDropped = regexp.MustCompile(`(has dropped )\d+`)
)

// withoutCounts replaces numbers in a text that differ from one time to the next.
func withoutCounts(text string) string {
	text = strings.ReplaceAll(text, "dev br0 FAILED", "dev br0 INCOMPLETE")
	return hasDropped.ReplaceAllString(ephemeral.ReplaceAllString(text, "${1}49152"), "${1}12")
}

// requirePage requires that a page of the documentation is as it has been written. With -update it is.
func requirePage(t *testing.T, name, page string) {
	t.Helper()
	path := filepath.Join("..", "docs", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(page), 0o644))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(have), page, "go test ./integration -run %s -update writes it anew", t.Name())
}
