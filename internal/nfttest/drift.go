// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"fmt"

	"github.com/nftnat/nftnat/nft"
)

// drift tells how the kernel's table differs from the one wanted, in the words and
// in the order of nft.Conn.
func drift(want, have nft.Table, flags nft.TableFlags) (lines []nft.Difference) {
	add := func(part nft.Part, format string, args ...any) {
		lines = append(lines, nft.Difference{Part: part, Text: fmt.Sprintf(format, args...)})
	}
	switch {
	case flags&nft.TableDormant != 0:
		add(nft.PartDormancy, "table %s is dormant", want.Name)
	case flags != want.Flags:
		add(nft.PartFlags, "table %s has the flags %q, not %q", want.Name, flags, want.Flags)
	}
	for _, h := range have.Sets {
		w, ok := want.Set(h.Name)
		switch {
		case !ok:
			add(nft.PartSets, "map or set %s should not be there", h.Name)
		case !same(w, h):
			add(nft.PartTypes, "%s %s is of another type", w.Kind(), w.Name)
		}
	}
	for _, w := range want.Sets {
		if _, ok := have.Set(w.Name); !ok {
			add(nft.PartSets, "%s %s is missing", w.Kind(), w.Name)
		}
	}
	for _, h := range have.Chains {
		w, ok := chain(want, h.Name)
		switch {
		case !ok:
			add(nft.PartChains, "chain %s should not be there", h.Name)
		case w.Hook != h.Hook:
			add(nft.PartChains, "chain %s is not: %s", w.Name, w.Hook)
		}
	}
	for _, w := range want.Chains {
		if _, ok := chain(have, w.Name); !ok {
			add(nft.PartChains, "chain %s is missing", w.Name)
		}
	}
	for _, w := range want.Chains {
		h, _ := chain(have, w.Name)
		for i, r := range w.Rules {
			if i >= len(h.Rules) || h.Rules[i].String() != r.String() {
				add(nft.PartChains, "chain %s: rule %d is not: %s", w.Name, i+1, r)
			}
		}
		for i := len(w.Rules); i < len(h.Rules); i++ {
			add(nft.PartChains, "chain %s: rule %d should not be there", w.Name, i+1)
		}
	}
	return lines
}

func chain(t nft.Table, name string) (nft.Chain, bool) {
	for _, c := range t.Chains {
		if c.Name == name {
			return c, true
		}
	}
	return nft.Chain{}, false
}
