// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"
	"net/netip"
)

// Line is an event in one line, without its end.
func Line(e Event) string {
	switch e := e.(type) {
	case Begin:
		return fmt.Sprintf("#%d %s", e.Number, e.head())
	case Step:
		text := e.Text
		return fmt.Sprintf("#%d   %-11s %s %s %s: %s", e.Number, e.Hook, e.Family, e.Table, e.Chain, text)
	case Packet:
		return fmt.Sprintf("#%d %s", e.Number, e.Text)
	case Later:
		return fmt.Sprintf("#%d %s", e.Number, e.Text)
	case Note:
		return "note: " + e.Text
	}
	return ""
}

func (b Begin) head() string {
	text := b.Proto
	if b.Flags != "" {
		text += " " + b.Flags
	}
	if b.Answer {
		text = "answer " + text
	}
	text += fmt.Sprintf(" %s > %s", address(b.Src), address(b.Dst))
	if b.In != "" {
		text += " from " + b.In
	}
	return text
}

// address prints an address, with its port if it has one.
func address(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}
