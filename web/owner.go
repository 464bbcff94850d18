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
	if name == "pmp" {
		return owner{"nat-pmp", "NAT-PMP", ""}
	}
	for _, o := range [...]struct{ prefix, text string }{
		{"pcp", "PCP"}, {"igd", "UPnP IGD"}, {"cni", "CNI"}, {"docker", "Docker"},
	} {
		if rest, ok := strings.CutPrefix(name, o.prefix+":"); ok {
			return owner{o.prefix, o.text, rest}
		}
	}
	return owner{"operator", "operator", name}
}
