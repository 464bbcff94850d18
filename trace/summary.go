// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net/netip"
	"strings"
)

// endLast is the own chain behind all others of a hook.
const endLast = "last"

// summarize says what became of a packet. Unread are tables of iptables-legacy, whose rules are in no trace.
func summarize(p *packet, unread []string) {
	d := p.drop
	if d != nil {
		p.Reason, p.Function, p.Dev = d.reason, d.function, d.link
	}
	switch {
	case p.Fate == Dropped:
		p.Text = "dropped in " + p.Hook + " by " + p.By
		return
	case p.Fate == Queued && p.ended == "":
		p.Text = "given to a program in " + p.Hook + " by " + p.By
		return
	}
	seen := p.Hook + " " + p.ended
	switch {
	case d != nil && seen == "input last":
		p.Fate = Dropped
		p.Text = "came to this host at " + address(p.now.dst) + ", and was dropped: " + d.text()
	case d != nil:
		p.Fate = Dropped
		p.Text = "dropped " + whereLost(p.Hook, p.ended, unread) + ": " + d.text()
	case strings.HasPrefix(seen, "postrouting last"), p.Hook == "egress", p.Hook == "postrouting" && p.Out != "" && p.ended == "":
		p.Fate = Left
		p.Text = "left by " + p.Out + " to " + address(p.now.dst)
		if p.Out == "lo" {
			p.Text = "left by lo, to this host"
		}
	case seen == "input last":
		p.Fate = Delivered
		p.Text = "delivered to this host at " + address(p.now.dst)
	default:
		p.Fate = Lost
		p.Text = "lost " + whereLost(p.Hook, p.ended, unread)
		if seen == "prerouting last" {
			p.Text += ": forwarding is off, there is no route, or the reverse path filter refuses it"
		}
	}
	if p.Fate == Left && translated(p.first.src, p.now.src) {
		p.Text += " from " + address(p.now.src)
	}
}

func translated(before, after netip.AddrPort) bool { return before != after }

// whereLost says between which points a packet ended.
func whereLost(hook, end string, unread []string) string {
	if end == endLast {
		switch hook {
		case "prerouting":
			return "in routing, behind prerouting"
		case "output":
			return "behind output"
		case "forward":
			return "by the kernel, behind forward"
		}
		return "behind " + hook
	}
	text := "in " + hook + ", by what is in no trace"
	if hook == "prerouting" || hook == "output" {
		unread = append([]string{"connection tracking, if its table is full"}, unread...)
	}
	if len(unread) != 0 {
		text += " (" + strings.Join(unread, "; ") + ")"
	}
	return text
}

func (d *dropped) text() string {
	words := []string{d.reason}
	if d.reason == "" {
		words[0] = "for a reason that the kernel does not give"
	}
	if d.function != "" {
		words = append(words, "in", d.function)
	}
	if d.link != "" {
		words = append(words, "of", d.link)
	}
	return strings.Join(words, " ")
}
