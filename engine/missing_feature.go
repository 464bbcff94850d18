// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
)

// MissingFeature is an optional feature that this kernel does not have or does not let this
// process use.
type MissingFeature struct {
	// Name is the kernel's name for it.
	Name string
	// Fallback is what the engine does without it, and what that costs.
	Fallback string
}

// missingFeatures probes the kernel. A feature that is not known to be missing is left out.
func (e *core) missingFeatures() ([]MissingFeature, error) {
	var found []MissingFeature
	single, err := e.forwarding.PerInterface()
	if err == nil && !single && !e.opts.NoSysctl {
		found = append(found, MissingFeature{
			Name:     "force_forwarding",
			Fallback: "IPv6 forwarding is switched for all interfaces at once, and those with accept_ra=1 ignore router advertisements from then on",
		})
	}
	if e.noDestroy {
		found = append(found, MissingFeature{
			Name:     "INET_DIAG_DESTROY",
			Fallback: "connected sockets on localhost go on with the backend that their mapping had",
		})
	}
	if pipeErr := e.holder.PipeError(); pipeErr != nil {
		found = append(found, MissingFeature{
			Name:     "splice",
			Fallback: "proxies copy bulk data through user memory, at two to three times the processor time (" + pipeErr.Error() + ")",
		})
	}
	counts, countErr := e.table.CountsElements()
	if countErr == nil && !counts {
		found = append(found, MissingFeature{
			Name:     "NFTA_SET_COUNT",
			Fallback: "large maps are read twice, to see that nothing is missing",
		})
	}
	return found, errors.Join(err, countErr)
}
