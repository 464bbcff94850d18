// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import "time"

// limits are what a server allows its clients. Tests have smaller ones.
type limits struct {
	conns   int // with a request under way at once
	others  int // further ones, which have none, or wait for others to be done
	share   int // of either that a process may have before it has to make room for others
	streams int // of events at once, so that half of the connections stay for others
	applies int // bodies of PUT being read or applied at once, for the memory they take
	decodes int // large bodies being decoded at once, so that there is a core left for others

	header int // bytes
	body   int64
	large  int64 // bytes of a body that takes more than a millisecond or so to decode
	apply  int64 // bytes of a body of PUT: 60,000 mappings are some 8 MiB of JSON
	linger int64 // bytes of a refused body that are read to no end

	grace    time.Duration // to send a request or read an answer, when others wait for it
	patience time.Duration // of a request to wait for others, before it is told of it
	silence  time.Duration // to ask nothing, when there are too many
	hush     time.Duration // the same for connections of a process that has more than its share

	headerTime time.Duration // to send a header, from its first byte or from the connection
	bodyTime   time.Duration // to send a body, from the end of its header
	writeTime  time.Duration // to read an answer
	lastTime   time.Duration // to read the event that is being written at shutdown
	idleTime   time.Duration // between two requests
	drainTime  time.Duration // for what is under way at shutdown
	departure  time.Duration // to send a request, when another process is to serve
	leaveTime  time.Duration // for what is under way then: no client waits longer for an answer
	healthTime time.Duration // of the engine to answer, before it counts as not healthy
}

func defaultLimits() limits {
	return limits{
		conns: 256, others: 1024, share: 32, streams: 128, applies: 4, decodes: 1,
		header: 8 << 10, body: 1 << 20, large: 32 << 10, apply: 16 << 20, linger: 64 << 20,
		grace: time.Second, patience: time.Second, silence: 2 * time.Second, hush: 100 * time.Millisecond,
		headerTime: 5 * time.Second, bodyTime: 10 * time.Second, writeTime: 30 * time.Second,
		lastTime: time.Second, idleTime: time.Minute, drainTime: 5 * time.Second,
		departure: time.Second, leaveTime: callPatience, healthTime: 5 * time.Second,
	}
}
