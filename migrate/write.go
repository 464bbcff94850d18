// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bufio"
	"fmt"
	"io"

	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/state"
)

// Write writes the entries as a file for "nftnat apply", each behind its origin, and what was left
// out as comments. Without entries there are only comments, which apply refuses.
func (im *Import) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	comment := func(indent, format string, args ...any) {
		fmt.Fprintf(out, "%s# %s\n", indent, printable.Line(fmt.Sprintf(format, args...)))
	}
	comment("", "import %s: %d found, %d left out, from %s", im.Source, len(im.Entries), len(im.LeftOut), im.From)
	if len(im.Entries) != 0 {
		comment("", `"nftnat apply" makes the state just this; "nftnat import %s --apply" adds it to what is there`, im.Source)
		fmt.Fprint(out, "version: 1\nmappings:\n")
	}
	for _, e := range im.Entries {
		for _, text := range e.Origins {
			comment("  ", "%s", text)
		}
		for _, text := range e.Notes {
			comment("  ", "note: %s", text)
		}
		fmt.Fprintf(out, "  - %s\n", state.EncodeMapping(e.Mapping))
	}
	if len(im.LeftOut) != 0 {
		comment("", "left out:")
	}
	for _, l := range im.LeftOut {
		comment("", "  %s", l.Origin)
		comment("", "    because %s", l.Reason)
	}
	return out.Flush() // which has the first error
}
