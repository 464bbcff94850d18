// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// Refusal is a request that was refused.
type Refusal struct {
	Kind    Kind
	Client  netip.Addr
	Request string    // in words; it may have what the client wrote. Empty: it could not be read
	Reason  string    // as text that can follow "because"
	Time    time.Time // of the last one
	Count   int       // of those alike
}

// maxRefusals is how many refusals are kept.
const maxRefusals = 100

// refusals are the last ones, the newest at the end.
type refusals []Refusal

// add adds a refusal, or counts it if there is one alike. It looks at each, of which there are few.
func (rs *refusals) add(r Refusal) {
	i := slices.IndexFunc(*rs, func(o Refusal) bool {
		return o.Kind == r.Kind && o.Client == r.Client && o.Request == r.Request && o.Reason == r.Reason
	})
	switch {
	case i >= 0:
		r.Count += (*rs)[i].Count
		*rs = slices.Delete(*rs, i, i+1)
	case len(*rs) == maxRefusals:
		*rs = slices.Delete(*rs, 0, 1)
	}
	*rs = append(*rs, r)
}

// maxWords bounds what of a client's text is kept, in bytes.
const maxWords = 128

// Refuse records a request that was refused, and why. Those that methods of l have refused are recorded.
func (l *Leases) Refuse(kind Kind, client netip.Addr, request, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	r := Refusal{Kind: kind, Client: client, Request: request[:min(len(request), maxWords)], Reason: reason[:min(len(reason), 2*maxWords)], Time: now, Count: 1}
	l.refused.add(r)
	l.log.Log(context.Background(), l.lines.Level(), "refused", "by", kind, "client", client, "request", r.Request, "reason", r.Reason)
}

// Refusals returns the last refusals, the newest first.
func (l *Leases) Refusals() []Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	rs := slices.Clone(l.refused)
	slices.Reverse(rs)
	return rs
}
