// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

//go:build man

// With the build tag man this is another program: it writes the manual pages and the
// shell completions of all commands to a directory. The library that it takes is not
// in the program that is shipped.
//
//	go run -tags man ./cmd/nftnat DIR
package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/nftnat/nftnat/internal/buildinfo"
)

// sections are those of nftnat(8) that are not made from the commands.
//
//go:embed man.roff
var sections string

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run -tags man ./cmd/nftnat DIR")
		os.Exit(exitBadInput)
	}
	if err := writeDocuments(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailed)
	}
}

func writeDocuments(dir string) error {
	// The help shows what the variable holds.
	if err := os.Unsetenv(envSocket); err != nil {
		return err
	}
	date, err := sourceDate()
	if err != nil {
		return err
	}
	root := newRoot(io.Discard, nil)
	if err := writePages(root, filepath.Join(dir, "man"), date); err != nil {
		return err
	}
	return writeCompletions(root, filepath.Join(dir, "completions"))
}

// writePagesOf writes the page of a command and those below it, each with the global flags
// that do something there.
func writePagesOf(cmd *cobra.Command, dir string, header doc.GenManHeader) error {
	for _, sub := range cmd.Commands() {
		if !sub.IsAvailableCommand() || sub.IsAdditionalHelpTopicCommand() {
			continue
		}
		if err := writePagesOf(sub, dir, header); err != nil {
			return err
		}
	}
	hideGlobals(cmd)
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	header.Title = strings.ToUpper(name) // each page has a copy
	f, err := os.Create(filepath.Join(dir, name+"."+header.Section))
	if err != nil {
		return err
	}
	return errors.Join(doc.GenMan(cmd, &header, f), f.Close())
}

func writePages(root *cobra.Command, dir string, date time.Time) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root.DisableAutoGenTag = true
	header := doc.GenManHeader{
		Section: "8",
		Date:    &date,
		Source:  "nftnat " + buildinfo.Version,
		Manual:  "nftnat",
	}
	if err := writePagesOf(root, dir, header); err != nil {
		return err
	}
	return addSections(filepath.Join(dir, root.Name()+".8"))
}

// addSections adds what is not about a command or an option, where manual pages have it:
// before the last section.
func addSections(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, after, found := strings.Cut(string(page), seeAlso)
	if !found {
		return fmt.Errorf("add sections to %s: it has no line %q", path, seeAlso)
	}
	return os.WriteFile(path, []byte(before+sections+seeAlso+after), 0o644)
}

const seeAlso = ".SH SEE ALSO\n"

func writeCompletions(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		root.GenBashCompletionFileV2(filepath.Join(dir, "nftnat.bash"), true),
		root.GenZshCompletionFile(filepath.Join(dir, "_nftnat")),
		root.GenFishCompletionFile(filepath.Join(dir, "nftnat.fish"), true),
	)
}

// sourceDate is the date of the sources, which the pages bear, and not that of the build.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Now().UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
