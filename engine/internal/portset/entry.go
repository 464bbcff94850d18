// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

// EntryKind is what the kernel's table has for an [Entry].
type EntryKind uint8

// The kinds of entries.
const (
	// EntrySingle is an element for a single port.
	EntrySingle EntryKind = iota
	// EntryRange is an element for a range, which may have one port.
	EntryRange
	// EntryHole is an element for a port that no range serves. Of the Port, only the frontend
	// is set; it is of one family.
	EntryHole
)

// String returns the name of the kind.
func (k EntryKind) String() string {
	switch k {
	case EntrySingle:
		return "single port"
	case EntryRange:
		return "range"
	case EntryHole:
		return "hole"
	}
	return "unknown"
}

// Entry is an element of the kernel's table.
type Entry struct {
	Kind EntryKind
	Port
}

// entryOf returns the entry of a port or a range.
func entryOf(p Port) Entry {
	if p.More != 0 {
		return Entry{EntryRange, p}
	}
	return Entry{EntrySingle, p}
}

// hole returns the entry of a hole.
func (l line) hole(port uint16) Entry {
	fs := l.frontends(port)
	f := fs[0]
	if fs[1].Proto != 0 {
		f = fs[1]
	}
	return Entry{Kind: EntryHole, Port: Port{Frontend: f}}
}

// lineOfHole returns the line of a hole.
func lineOfHole(f Frontend) line {
	return line{proto: f.Proto, is4: f.AddrPort.Addr().Is4(), host: f.Host()}
}
