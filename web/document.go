// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"time"

	"github.com/nftnat/nftnat/api"
)

// Document is /status.json without its first field, the time "now".
type document struct {
	// Error is why the daemon does not answer; absent: it does. The rest is what it said at Read then.
	Error string    `json:"error,omitempty"`
	Read  time.Time `json:"read"`
	// Status is the daemon's, and Mappings are its own, ranges as one.
	Status   *api.Status       `json:"status"`
	Mappings []mappingDocument `json:"mappings"`
	// Diagnosis is the doctor's, of the time Diagnosed; absent: it has not looked yet.
	Diagnosis *api.Diagnosis `json:"diagnosis,omitempty"`
	Diagnosed *time.Time     `json:"diagnosed,omitempty"`
	// Gateway is that of the gateway; absent: none answers.
	Gateway      *api.Gateway `json:"gateway,omitempty"`
	GatewayError string       `json:"gateway_error,omitempty"`
	// History are the connections of the last hour.
	History historyDocument `json:"history"`
}

// mappingDocument is a mapping with what the page has of it.
type mappingDocument struct {
	api.Mapping
	// Kind is "operator", "cni", "docker", "nat-pmp", "pcp" or "igd".
	Kind string `json:"kind"`
	// Connections is how many there are now, and Hits how many there have been, at least.
	Connections int    `json:"connections"`
	Hits        uint64 `json:"hits"`
	// State is what is wrong; absent: nothing that is known.
	State string `json:"state,omitempty"`
}

// historyDocument has the most connections of each slot, the newest last; -1: it is not known.
type historyDocument struct {
	Seconds int   `json:"seconds"` // of a slot
	TCP     []int `json:"tcp"`
	UDP     []int `json:"udp"`
}

// document returns the document of a view, from its second field on.
func (v *view) document() []byte {
	d := document{
		Error: v.failed, Read: v.read.UTC(), Mappings: make([]mappingDocument, len(v.rows)), Gateway: v.gateway, GatewayError: v.absent,
		History: historyDocument{
			Seconds: int(slotTime / time.Second),
			TCP:     v.history.numbers(func(s sample) int { return s.tcp }), UDP: v.history.numbers(func(s sample) int { return s.udp }),
		},
	}
	if !v.read.IsZero() {
		d.Status = &v.status
	}
	for i, m := range api.Ranges(v.mappings) {
		r := &v.rows[i]
		d.Mappings[i] = mappingDocument{m, ownerOf(r.m.Name).kind, r.flows, r.hits, r.state}
	}
	if !v.diagnosed.IsZero() {
		diagnosis, at := api.DiagnosisOf(v.diagnosis), v.diagnosed.UTC()
		d.Diagnosis, d.Diagnosed = &diagnosis, &at
	}
	return encode(d)[1:]
}
