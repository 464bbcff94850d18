// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A docBlock is a fenced block of a page of the documentation.
type docBlock struct {
	page  string // the file, from the root of the repository
	line  int    // where the fence begins, from 1
	lang  string // the word after the fence
	runBy string // what a comment above the fence names: a test, or .ci/run; empty: TestDocs runs it
	text  string
}

func (b docBlock) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// A docCommand is a command of a block, and what it prints.
type docCommand struct {
	line   string // as a shell takes it; long ones have several lines
	output string
}

// commands returns the block's commands. In a console block they begin with "$ ", and their
// output follows. An sh block has only commands.
func (b docBlock) commands() []docCommand {
	var done []docCommand
	continued := false
	for line := range strings.Lines(b.text) {
		command, isCommand := line, b.lang == "sh"
		if b.lang == "console" {
			command, isCommand = strings.CutPrefix(line, "$ ")
		}
		switch {
		case continued:
			done[len(done)-1].line += line
		case isCommand:
			if command = strings.TrimLeft(command, " "); command == "\n" || strings.HasPrefix(command, "#") {
				continue
			}
			done = append(done, docCommand{line: command})
		case len(done) > 0:
			done[len(done)-1].output += line
			continue
		}
		continued = len(done) > 0 && strings.HasSuffix(done[len(done)-1].line, "\\\n")
	}
	return done
}

var runByComment = regexp.MustCompile(`^<!-- run by (\S+) -->$`)

// docBlocks reads the fenced blocks of a page.
func docBlocks(t *testing.T, page string) []docBlock {
	t.Helper()
	file, err := os.Open(filepath.Join("..", page))
	require.NoError(t, err)
	defer file.Close()
	var blocks []docBlock
	var runBy string
	inside := false
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		line := lines.Text()
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case inside && isFence:
			inside = false
		case inside:
			blocks[len(blocks)-1].text += line + "\n"
		case isFence:
			inside = true
			blocks = append(blocks, docBlock{page: page, line: number, lang: fence, runBy: runBy})
			runBy = ""
		case runByComment.MatchString(line):
			runBy = runByComment.FindStringSubmatch(line)[1]
		case line != "":
			require.Empty(t, runBy, "%s:%d: a comment with a test's name stands above no block", page, number)
		}
	}
	require.NoError(t, lines.Err())
	require.False(t, inside, "%s: the last block has no end", page)
	return blocks
}

// docPages returns the pages whose blocks TestDocs runs: all except README.md, which
// TestReadme runs, and docs/beside.md, whose blocks have names and tests of their own
// (TestBesidePage).
func docPages(t *testing.T) []string {
	t.Helper()
	pages := []string{"CONTRIBUTING.md", "SECURITY.md", "findings/README.md"}
	more, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	for _, path := range more {
		if path == besidePage {
			continue
		}
		pages = append(pages, strings.TrimPrefix(path, "../"))
	}
	return pages
}
