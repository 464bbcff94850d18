// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
)

// Lack is something that the engine uses where it can, and that this kernel does not have
// or does not let this process use.
type Lack struct {
	// Feature is what it is called in the kernel.
	Feature string
	// Instead is what the engine does without it, and what that means.
	Instead string
}

// lacks tries what the kernel has. What is not known yet is not missed.
func (e *Engine) lacks() ([]Lack, error) {
	var found []Lack
	single, err := e.forwarding.PerInterface()
	if err == nil && !single && !e.opts.NoSysctl {
		found = append(found, Lack{
			Feature: "force_forwarding",
			Instead: "IPv6 forwarding is switched for all interfaces at once, and those with accept_ra=1 ignore router advertisements from then on",
		})
	}
	if e.proxies != nil {
		if pipeErr := e.proxies.group.PipeError(); pipeErr != nil {
			found = append(found, Lack{
				Feature: "splice",
				Instead: "proxies copy bulk data through user memory, at two to three times the processor time (" + pipeErr.Error() + ")",
			})
		}
	}
	counts, countErr := e.table.CountsElements()
	if countErr == nil && !counts {
		found = append(found, Lack{
			Feature: "NFTA_SET_COUNT",
			Instead: "large maps are read twice, to see that nothing is missing",
		})
	}
	return found, errors.Join(err, countErr)
}
