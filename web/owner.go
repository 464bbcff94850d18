// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import "strings"

// owner is who has published a mapping, as its name tells.
type owner struct {
	kind string // for programs
	text string // for people
	name string // what the kind does not say
}

// ownerOf reads a name. Front ends begin the names of their mappings with a word; all others are an
// operator's. It is for people: whoever may publish may choose any name.
func ownerOf(name string) owner {
	for _, o := range [...]struct{ prefix, kind, text string }{
		{"pmp:", "nat-pmp", "NAT-PMP"}, {"pcp:", "pcp", "PCP"}, {"igd:", "igd", "UPnP IGD"}, {"cni:", "cni", "CNI"}, {"docker:", "docker", "Docker"},
	} {
		if rest, ok := strings.CutPrefix(name, o.prefix); ok {
			return owner{o.kind, o.text, rest}
		}
	}
	return owner{"operator", "operator", name}
}
