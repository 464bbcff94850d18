// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
)

// removal is what DEL and GC read of a configuration. They need not know the ports, and do not refuse
// what they do not need.
type removal struct {
	daemonConfig
	Name string `json:"name"`
	// Valid are the attachments that GC leaves alone, and Attachments the same under the name that the
	// specification gave them at first. Nil: the runtime has not said which there are, which differs
	// from null.
	Valid       json.RawMessage `json:"cni.dev/valid-attachments"`
	Attachments json.RawMessage `json:"cni.dev/attachments"`
}

func parseRemoval(text []byte) (*removal, error) {
	r := &removal{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, undecodable("the configuration", err)
	}
	r.StartDaemon = false // what a daemon has published can be removed without one
	return r, nil
}

func undecodable(what string, err error) error {
	return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("read %s: %v", what, err), "")
}

// stays returns the names of the owners that GC leaves alone. Nil: the runtime has not said which.
func (r *removal) stays() (map[string]bool, error) {
	text := r.Valid
	if text == nil {
		text = r.Attachments
	}
	if text == nil {
		return nil, nil
	}
	var valid []types.GCAttachment
	if err := json.Unmarshal(text, &valid); err != nil {
		return nil, undecodable("cni.dev/valid-attachments", err)
	}
	names := map[string]bool{}
	for _, a := range valid {
		names[OwnerName(r.Name, a.ContainerID, a.IfName)] = true
	}
	return names, nil
}
