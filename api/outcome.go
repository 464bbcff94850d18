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

// Operation is a kind of change that a client asks for.
type Operation string

// The operations.
const (
	OpPublish       Operation = "publish"
	OpReplace       Operation = "replace" // publish that takes the place of what is published
	OpUnpublish     Operation = "unpublish"
	OpApply         Operation = "apply"
	OpAttach        Operation = "attach"
	OpDetach        Operation = "detach"
	OpCreateNetwork Operation = "create-network"
	OpRemoveNetwork Operation = "remove-network"
)

// Operations returns all operations.
func Operations() []Operation {
	return []Operation{OpPublish, OpReplace, OpUnpublish, OpApply, OpAttach, OpDetach, OpCreateNetwork, OpRemoveNetwork}
}

// Outcome is a change that a client asked for, and its result. Requests that change nothing
// in any case, such as those with the parameter dry-run, have none.
type Outcome struct {
	Operation Operation
	// PID and UID are of the client, as it was when it connected. The PID is 0 if the client
	// is in another PID namespace. Both are 0 for a request that came over no socket.
	PID int
	UID int
	// Agent is what the client calls itself (User-Agent); empty: nothing.
	Agent string
	// Name is of the endpoint or network that the change is about. Empty: it is about none,
	// or the request could not be read.
	Name string
	// Address is what OpAttach leased, and the prefix of what OpCreateNetwork made, as text.
	// Empty: neither was done.
	Address string
	// Mappings are what was published, or for OpUnpublish and OpDetach what was published
	// before. Nil: none, or the change was refused.
	Mappings []nat.Mapping
	// Changes are what OpApply changed. Nil: nothing, or it is another operation.
	Changes []nat.Change
	// Unchanged is whether all that was asked for was there already.
	Unchanged bool
	// Renewed is whether nothing else was changed than ends of mappings, by OpPublish or OpReplace.
	Renewed bool
	// Code says why the change was refused, and Err in which words. Empty and nil: it was made.
	Code Code
	Err  error
}

// outcome passes the result of a change to Options.Changed, once for each request.
func (h *handler) outcome(c *call, o Outcome, err error) {
	if h.Changed == nil || c.reported {
		return
	}
	c.reported = true
	if c.conn != nil {
		o.PID, o.UID = int(c.conn.client.pid), int(c.conn.client.uid)
	}
	o.Agent = c.UserAgent()
	if err != nil {
		o.Code, o.Err = problemOf(err).Code, err
	}
	h.Changed(o)
}

// change calls f, which makes a change, and reports the outcome. After a success, made adds
// details to it.
func change[T any](h *handler, c *call, o Outcome, f func() (T, error), made func(*Outcome, T)) (T, error) {
	result, err := f()
	if err == nil {
		made(&o, result)
		o.Unchanged, o.Renewed = c.report.Unchanged, c.report.Renewed
	}
	h.outcome(c, o, err)
	return result, err
}

// headerNote is the field of an answer that has what a change did beyond what the body
// says, once for each line: an nat.Report's notes.
const headerNote = "Nftnat-Note"

// maxNotes bounds how many lines an answer has.
const maxNotes = 32

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
