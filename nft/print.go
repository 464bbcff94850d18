// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"strconv"
	"strings"
)

// String returns the table as `nft -s list table` prints it, without elements and, behind
// "#", the owner. nft(8) reads it back if it is new enough for the flags.
func (t Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", t.Name)
	if t.Flags != 0 {
		fmt.Fprintf(&b, "\tflags %s\n", t.Flags)
	}
	if t.Comment != "" {
		fmt.Fprintf(&b, "\tcomment %s\n", quote(t.Comment))
	}
	first := t.Flags == 0
	separate := func() {
		if !first {
			b.WriteByte('\n')
		}
		first = false
	}
	for _, c := range t.Sets {
		separate()
		c.print(&b)
	}
	for _, c := range t.Chains {
		separate()
		c.print(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (c Set) print(b *strings.Builder) {
	fmt.Fprintf(b, "\t%s %s {\n", c.Kind(), c.Name)
	if c.Value == nil {
		fmt.Fprintf(b, "\t\ttype %s\n", c.Key)
	} else {
		fmt.Fprintf(b, "\t\ttype %s : %s\n", c.Key, c.Value)
	}
	if c.Size != 0 {
		fmt.Fprintf(b, "\t\tsize %d\n", c.Size)
	}
	var flags []string
	if c.Interval {
		flags = append(flags, "interval")
	}
	if c.Timeout {
		flags = append(flags, "timeout")
	}
	if len(flags) != 0 {
		fmt.Fprintf(b, "\t\tflags %s\n", strings.Join(flags, ","))
	}
	b.WriteString("\t}\n")
}

func (c Chain) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Comment != "" {
		fmt.Fprintf(b, "\t\tcomment %s\n", quote(c.Comment))
	}
	if c.Hook != (Hook{}) {
		fmt.Fprintf(b, "\t\t%s\n", c.Hook)
	}
	for _, r := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
}

// String returns the base chain's specification as nft(8) prints it. The policy is always
// accept.
func (h Hook) String() string {
	return fmt.Sprintf("type %s hook %s priority %s; policy accept;", h.Type, h.Point, h.priority())
}

// priority spells the priority as nft(8) lists it: by the nearest name that the hook
// point has, up to 10 away (nft(8), "STANDARD PRIORITY NAMES").
func (h Hook) priority() string {
	for _, std := range standardPriorities {
		offset := int64(h.Priority) - int64(std.priority)
		switch {
		case std.point != "" && std.point != h.Point:
		case offset == 0:
			return std.name
		case offset > 0 && offset <= 10:
			return fmt.Sprintf("%s + %d", std.name, offset)
		case offset < 0 && offset >= -10:
			return fmt.Sprintf("%s - %d", std.name, -offset)
		}
	}
	return strconv.Itoa(int(h.Priority))
}

// standardPriorities are the names, with the one hook point that has them; empty: all have.
// The name dstnat of the output hook is left out: nft(8) lists by it from 1.0.8 on, and before
// that reads only the number.
var standardPriorities = [...]struct {
	name     string
	priority int32
	point    string
}{
	{"raw", PriorityRaw, ""},
	{"mangle", PriorityMangle, ""},
	{"dstnat", PriorityDstNAT, "prerouting"},
	{"filter", PriorityFilter, ""},
	{"security", 50, ""},
	{"srcnat", PrioritySrcNAT, "postrouting"},
}

// String returns the rule as nft(8) lists it.
func (r Rule) String() string {
	words := make([]string, len(r))
	for i, s := range r {
		words[i] = s.String()
	}
	return strings.Join(words, " ")
}
