// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import "github.com/nftnat/nftnat/explain/report"

// What is asked and answered, by the names of this package.
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
