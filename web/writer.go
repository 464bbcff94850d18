// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"html"
	"strconv"
	"strings"
	"time"

	"github.com/nftnat/nftnat/internal/printable"
)

// writer writes HTML. What comes from outside goes through text or attr; raw is for what stands in
// the source of this package. Package html/template would do the same, with as much code again as
// all of the page.
type writer struct{ b []byte }

// raw writes markup.
func (w *writer) raw(markup string) { w.b = append(w.b, markup...) }

// text writes text as the content of an element or of an attribute in quotes. What nobody can see,
// or what turns the direction of text that follows, is spelled out.
func (w *writer) text(s string) { w.raw(html.EscapeString(printable.Text(s))) }

// short is text that is cut after so many bytes.
func (w *writer) short(s string, most int) {
	if len(s) > most {
		for most > 0 && s[most]&0xc0 == 0x80 { // within a character
			most--
		}
		s = s[:most] + "…"
	}
	w.text(s)
}

// attr writes the value of an attribute, in quotes, as programs read it.
func (w *writer) attr(s string) {
	w.raw(`"`)
	w.raw(html.EscapeString(s))
	w.raw(`"`)
}

func (w *writer) number(n int64) { w.b = strconv.AppendInt(w.b, n, 10) }

// count writes a number with a word, which gets an s unless there is one of it.
func (w *writer) count(n int, word string) {
	w.number(int64(n))
	w.raw(" " + word)
	if n != 1 {
		w.raw("s")
	}
}

// clock writes a time of the day as an element.
func (w *writer) clock(t time.Time) {
	t = t.UTC()
	w.raw(`<time datetime="` + t.Format(time.RFC3339) + `">` + t.Format("2006-01-02 15:04:05") + " UTC</time>")
}

// block writes lines of text.
func (w *writer) block(s string) {
	for line := range strings.Lines(s) {
		w.text(strings.TrimSuffix(line, "\n"))
		w.raw("\n")
	}
}
