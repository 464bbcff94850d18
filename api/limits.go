// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import "time"

// limits are what a server allows its clients. Tests have smaller ones.
type limits struct {
	conns   int // at once
	turned  int // further ones, to be told that there are too many
	streams int // of events at once, so that half of the connections stay for others
	applies int // bodies of PUT being read or applied at once, for the memory they take

	header int // bytes
	body   int64
	apply  int64 // bytes of a body of PUT: 60,000 mappings are some 8 MiB of JSON
	linger int64 // bytes of a refused body that are read to no end

	grace    time.Duration // to do nothing on a connection, when there are too many
	patience time.Duration // to wait for others to go, before they are told of it
	silence  time.Duration // to ask nothing, when there are too many of those too

	headerTime time.Duration // to send a header, from its first byte or from the connection
	bodyTime   time.Duration // to send a body, from the end of its header
	writeTime  time.Duration // to read an answer
	lastTime   time.Duration // to read the event that is being written at shutdown
	idleTime   time.Duration // between two requests
	drainTime  time.Duration // for what is under way at shutdown
	departure  time.Duration // to send a request, when another process is to serve
	leaveTime  time.Duration // for what is under way then: no client waits longer for an answer
}

func defaultLimits() limits {
	return limits{
		conns: 256, turned: 1024, streams: 128, applies: 4,
		header: 16 << 10, body: 1 << 20, apply: 16 << 20, linger: 64 << 20,
		grace: 100 * time.Millisecond, patience: time.Second, silence: 2 * time.Second,
		headerTime: 5 * time.Second, bodyTime: 10 * time.Second, writeTime: 30 * time.Second,
		lastTime: time.Second, idleTime: time.Minute, drainTime: 5 * time.Second,
		departure: time.Second, leaveTime: callPatience,
	}
}
