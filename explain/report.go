// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import "github.com/nftnat/nftnat/explain/report"

type (
	// Query is whose packet is to be explained.
	Query = report.Query
	// Verdict is what becomes of the packet and its answer.
	Verdict = report.Verdict
	// Path is how the packet gets to the backend.
	Path = report.Path
	// Report is the answer to a Query.
	Report = report.Report
	// Cause is a thing that stops a packet.
	Cause = report.Cause
	// Step is a step of the way.
	Step = report.Step
	// Finding is one thing that is wrong on a host.
	Finding = report.Finding
)

// The verdicts.
const (
	Passes       = report.Passes
	Stopped      = report.Stopped
	Uncertain    = report.Uncertain
	NotPublished = report.NotPublished
)

// How bad a Finding is, and how many mappings it has at most.
const (
	SeverityNotable = report.Notable
	SeverityMayStop = report.MayStop
	SeverityStops   = report.Stops
	firstMappings   = report.FirstMappings
)

// The paths.
const (
	ByNetfilter = report.ByNetfilter
	ByProxy     = report.ByProxy
	ByBPF       = report.ByBPF
)

// The kinds of causes.
const (
	KindAddress   = report.KindAddress
	KindBackend   = report.KindBackend
	KindBridge    = report.KindBridge
	KindClient    = report.KindClient
	KindConntrack = report.KindConntrack
	KindIPsec     = report.KindIPsec
	KindLink      = report.KindLink
	KindMTU       = report.KindMTU
	KindNeighbour = report.KindNeighbour
	KindPolicy    = report.KindPolicy
	KindRival     = report.KindRival
	KindRoute     = report.KindRoute
	KindRule      = report.KindRule
	KindSocket    = report.KindSocket
	KindSysctl    = report.KindSysctl
	KindTC        = report.KindTC
	KindTable     = report.KindTable
	KindUnread    = report.KindUnread
	KindXDP       = report.KindXDP
)
