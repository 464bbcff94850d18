// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

// maxLines is how many lines Text has at most.
const maxLines = 40

// Write writes the report as programs print it for people.
func Write(w io.Writer, r Report) error {
	_, err := io.WriteString(w, r.Text())
	return err
}

// Text is the report for people: the verdict, its cause and remedy, the steps of the way, and what
// else is worth knowing, on at most 40 lines.
func (r *Report) Text() string {
	head := r.head()
	tail := r.tail()
	steps := r.stepLines()
	if room := maxLines - len(head) - len(tail); len(steps) > room {
		steps = append(steps[:max(0, room-1)], fmt.Sprintf("  ... %d more steps", len(steps)-max(0, room-1)))
	}
	lines := append(append(head, steps...), tail...)
	lines = lines[:min(len(lines), maxLines)]
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(printable.Text(l))
		b.WriteByte('\n')
	}
	return b.String()
}

// most is how many things of a kind are printed.
const most = 5

func (r *Report) head() (lines []string) {
	lines = append(lines, r.subject()+": "+r.verdictText())
	if r.Verdict == NotPublished {
		for i, n := range r.Near {
			if i == most {
				lines = append(lines, fmt.Sprintf("  near: %d more", len(r.Near)-i))
				break
			}
			lines = append(lines, fmt.Sprintf("  near: %s %s (%s)", n.Mapping.Proto, n.Mapping, n.Why))
		}
	}
	if r.Cause != nil {
		lines = append(lines, r.Cause.lines()...)
	}
	return lines
}

// subject is what was asked: "tcp 8080 from 192.0.2.2".
func (r *Report) subject() string {
	m := nat.Mapping{Proto: r.Query.Proto, Frontend: r.Query.Frontend}
	text := nat.DescribeFrontend(m)
	switch {
	case r.Query.From.IsValid():
		text += " from " + r.Query.From.String()
	case r.Client.IsValid():
		text += " from " + r.Client.String()
		if r.Typical != "" {
			text += " (" + r.Typical + ")"
		}
	}
	return text
}

func (r *Report) verdictText() string {
	switch r.Verdict {
	case Passes:
		text := "passes"
		if r.Path != "" {
			text += " by " + string(r.Path)
		}
		text += " to " + r.Mapping.BackendText()
		if r.Source.IsValid() {
			text += ", which sees " + r.Source.String()
		}
		return text
	case Uncertain:
		return "may be stopped"
	case NotPublished:
		return "not published"
	case Stopped:
	}
	if r.Cause != nil && r.Cause.Answer {
		return "stopped: the answer"
	}
	return r.Verdict.String()
}

func (c *Cause) lines() (lines []string) {
	lines = append(lines, "  "+c.Thing)
	if c.What != "" {
		lines = append(lines, "  "+c.What)
	}
	if c.Remedy != "" {
		lines = append(lines, "  remedy: "+c.Remedy)
	}
	return lines
}

func (r *Report) stepLines() (lines []string) {
	if len(r.Steps) == 0 {
		return nil
	}
	lines = append(lines, "")
	width := 0
	for _, s := range r.Steps {
		width = max(width, len(s.Where))
	}
	answer := false
	for _, s := range r.Steps {
		if s.Answer && !answer {
			lines = append(lines, "  answer:")
		}
		answer = s.Answer
		lines = append(lines, fmt.Sprintf("  %-*s  %s", width, s.Where, s.Text))
	}
	return lines
}

func (r *Report) tail() (lines []string) {
	for i, c := range r.Others {
		if i == most {
			lines = append(lines, fmt.Sprintf("  and %d more", len(r.Others)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("  also: %s: %s", c.Thing, c.What))
	}
	for i, n := range r.Notes {
		if i == most {
			break
		}
		lines = append(lines, "  note: "+n)
	}
	for i, u := range r.Unread {
		if i == most {
			lines = append(lines, fmt.Sprintf("  not read: %d more", len(r.Unread)-i))
			break
		}
		lines = append(lines, "  not read: "+u)
	}
	if lines != nil {
		lines = append([]string{""}, lines...)
	}
	return lines
}
