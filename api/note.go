// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// headerNote is the field of an answer that has what a change did beyond what the body
// says, once for each line: an nat.Report's notes.
const headerNote = "Nftnat-Note"

// maxNotes bounds how many lines an answer has.
const maxNotes = 32

// madeStatus is the status of an answer to what makes something: 200 where that was there
// already.
func (c *call) madeStatus() int {
	if c.report.Unchanged {
		return http.StatusOK
	}
	return http.StatusCreated
}

// writeNotes puts the notes on what was done into the header of its answer.
func writeNotes(header http.Header, r nat.Report) {
	for i, note := range r.Notes {
		if i == maxNotes {
			header.Add(headerNote, fmt.Sprintf("%d more lines are in the log", len(r.Notes)-i))
			return
		}
		header.Add(headerNote, escapeNote(note))
	}
}

// escapeNote writes what is not printable ASCII, and the percent sign, as in a URL.
func escapeNote(note string) string {
	var b strings.Builder
	for i := range len(note) {
		if c := note[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// readNote is escapeNote read back.
func readNote(text string) string {
	if note, err := url.PathUnescape(text); err == nil {
		return note
	}
	return text
}
