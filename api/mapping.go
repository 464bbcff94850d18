// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// Mapping is one published port. A range is told as one Mapping a port.
type Mapping struct {
	// Proto is "tcp" or "udp".
	Proto string `json:"proto"`
	// Host is the local address of the frontend. Empty: any address. 0.0.0.0 and ::
	// are any address of that family alone.
	Host string `json:"host"`
	// Port is the frontend's, 1 to 65535.
	Port uint16 `json:"port"`
	// Backend is address and port, an IPv6 address in brackets.
	Backend string `json:"backend"`
	// Name is whose the mapping is; empty: nobody has said.
	Name string `json:"name"`
	// Proxy is whether a userland proxy serves it where netfilter cannot.
	Proxy bool `json:"proxy"`
	// Expires is when it ends by itself. Absent: never.
	Expires *time.Time `json:"expires,omitempty"`
}

// Mappings are the documents of the mappings, ranges expanded.
func Mappings(ms []nat.Mapping) []Mapping {
	docs := make([]Mapping, 0, len(ms)) // never nil: an empty array, not null
	for _, m := range ms {
		for single := range nat.Expand(m) {
			docs = append(docs, mapping(single))
		}
	}
	return docs
}

func mapping(m nat.Mapping) Mapping {
	doc := Mapping{
		Proto:   m.Proto.String(),
		Port:    m.Frontend.Port(),
		Backend: m.Backend.String(),
		Name:    m.Name,
		Proxy:   !m.NoProxy,
	}
	if host := m.Frontend.Addr(); host != (netip.Addr{}) {
		doc.Host = host.String()
	}
	if !m.Expires.IsZero() {
		doc.Expires = &m.Expires
	}
	return doc
}
