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
	"bytes"
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
	man, completions := filepath.Join(dir, "man"), filepath.Join(dir, "completions")
	if err := errors.Join(os.MkdirAll(man, 0o755), os.MkdirAll(completions, 0o755)); err != nil {
		return err
	}
	root := newRoot(io.Discard, nil)
	root.DisableAutoGenTag = true
	header := doc.GenManHeader{Section: "8", Date: &date, Source: "nftnat " + buildinfo.Version, Manual: "nftnat"}
	return errors.Join(
		writePages(root, man, header),
		root.GenBashCompletionFileV2(filepath.Join(completions, "nftnat.bash"), true),
		root.GenZshCompletionFile(filepath.Join(completions, "_nftnat")),
		root.GenFishCompletionFile(filepath.Join(completions, "nftnat.fish"), true),
	)
}

// writePages writes the page of a command and those of its subcommands, each with the global
// flags that do something there.
func writePages(cmd *cobra.Command, dir string, header doc.GenManHeader) error {
	for _, sub := range cmd.Commands() {
		if !sub.IsAvailableCommand() || sub.IsAdditionalHelpTopicCommand() {
			continue
		}
		if err := writePages(sub, dir, header); err != nil {
			return err
		}
	}
	hideGlobals(cmd)
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-")
	header.Title = strings.ToUpper(name) // each page has a copy
	var page bytes.Buffer
	if err := doc.GenMan(cmd, &header, &page); err != nil {
		return err
	}
	text := page.String()
	if !cmd.HasParent() { // sections that are not about a command stand before the last one
		const last = ".SH SEE ALSO\n"
		if !strings.Contains(text, last) {
			return fmt.Errorf("add sections to %s: it has no line %q", name, last)
		}
		text = strings.Replace(text, last, sections+last, 1)
	}
	return os.WriteFile(filepath.Join(dir, name+"."+header.Section), []byte(text), 0o644)
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
