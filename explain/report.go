// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import "github.com/nftnat/nftnat/explain/report"

// Query and the others are what is asked and answered, by the names of this package.
type (
	Query   = report.Query
	Verdict = report.Verdict
	Path    = report.Path
	Report  = report.Report
	Cause   = report.Cause
	Step    = report.Step
)

// The verdicts.
const (
	Passes       = report.Passes
	Stopped      = report.Stopped
	Uncertain    = report.Uncertain
	NotPublished = report.NotPublished
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
