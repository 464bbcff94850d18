// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

// Severity is how bad a Finding is. The worst is the largest.
type Severity int

// The severities.
const (
	// Notable is what stops nobody now.
	Notable Severity = iota
	// MayStop is what may stop clients: it cannot be known.
	MayStop
	// Stops is what stops clients.
	Stops
)

// String returns the severity as documents have it: "notable", "may-stop" or "stops".
func (s Severity) String() string {
	switch s {
	case Notable:
		return "notable"
	case MayStop:
		return "may-stop"
	case Stops:
		return "stops"
	}
	return "Severity(" + strconv.Itoa(int(s)) + ")"
}

// ParseSeverity reads what String returns. The error is a [*nat.InvalidError].
func ParseSeverity(s string) (Severity, error) {
	for v := Notable; v <= Stops; v++ {
		if v.String() == s {
			return v, nil
		}
	}
	return 0, &nat.InvalidError{What: "severity", Input: s, Reason: "this version does not know it"}
}

// FirstMappings is how many mappings a Finding has at most.
const FirstMappings = 5

// Finding is one thing that is wrong on a host, whatever it stops.
type Finding struct {
	Severity Severity
	// Kind, Thing, What and Remedy are as in a Cause. What and Remedy are about the first mapping.
	Kind, Thing, What, Remedy string
	// Answer is set if it stops answers.
	Answer bool
	// Count is how many mappings it is about, and Mappings the first few. Zero: it is about the host.
	Count    int
	Mappings []nat.Mapping
	// From are the clients that it stops, if others of the same mappings are not. Empty: all.
	From []netip.Addr
}

// Key tells one finding from another, and stays the same as long as its cause does.
func (f *Finding) Key() string {
	return f.Kind + "\x00" + f.Thing + "\x00" + strconv.FormatBool(f.Answer) + "\x00" + strconv.Itoa(int(f.Severity))
}

// String is the finding in one line:
// "tcp 8080 (and 41 more): stopped: table inet corpwall, chain passing: policy drop; remedy: ...".
func (f Finding) String() string {
	var b strings.Builder
	if f.Count > 0 && len(f.Mappings) > 0 {
		m := f.Mappings[0]
		b.WriteString(nat.DescribeFrontend(m))
		if f.Count > 1 {
			fmt.Fprintf(&b, " (and %d more)", f.Count-1)
		}
		for i, a := range f.From {
			b.WriteString(map[bool]string{true: " from ", false: ", "}[i == 0] + a.String())
		}
	} else {
		b.WriteString("this host")
	}
	switch f.Severity {
	case Stops:
		b.WriteString(": stopped")
		if f.Answer {
			b.WriteString(": the answer")
		}
	case MayStop:
		b.WriteString(": may be stopped")
	case Notable:
	}
	b.WriteString(": " + f.Thing)
	if f.What != "" {
		b.WriteString(": " + f.What)
	}
	if f.Remedy != "" {
		b.WriteString("; remedy: " + f.Remedy)
	}
	return printable.Line(b.String())
}

// SortFindings sorts the worst first, then by how many mappings they are about.
func SortFindings(fs []Finding) {
	order.Sort(fs, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Thing, b.Thing))
	})
}

// Diagnosis is what is wrong on a host.
type Diagnosis struct {
	// Findings are sorted by [SortFindings].
	Findings []Finding
	// Mappings is how many were looked at, and Skipped how many were not, for want of time.
	Mappings, Skipped int
	// NotAsked is how many backends were not asked whether they are there, because there are too many.
	NotAsked int
	// Unread says what could not be read, for want of privilege or of a feature of the kernel.
	Unread []string
}

// maxFindings is how many lines of findings WriteDiagnosis prints at most.
const maxFindings = 60

// WriteDiagnosis writes a line for each finding, the worst first, on at most 60 lines. A healthy host has
// none.
func WriteDiagnosis(w io.Writer, d Diagnosis) error {
	var lines []string
	for _, f := range d.Findings {
		lines = append(lines, f.String())
	}
	var tail []string
	if d.Skipped > 0 {
		tail = append(tail, fmt.Sprintf("not looked at, for want of time: %d of %d mappings", d.Skipped, d.Mappings+d.Skipped))
	}
	if d.NotAsked > 0 {
		tail = append(tail, fmt.Sprintf("not asked, since there are too many: %d backends", d.NotAsked))
	}
	for i, u := range d.Unread {
		if i == most {
			tail = append(tail, fmt.Sprintf("not read: %d more", len(d.Unread)-i))
			break
		}
		tail = append(tail, "not read: "+printable.Line(u))
	}
	if room := maxFindings - len(tail); len(lines) > room {
		lines = append(lines[:room-1], fmt.Sprintf("and %d more", len(lines)-room+1))
	}
	for _, l := range slices.Concat(lines, tail) {
		if _, err := io.WriteString(w, l+"\n"); err != nil {
			return err
		}
	}
	return nil
}
