// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "context"

// Report is what a call did beyond what it returns; see [WithReport]. After an error it
// is empty.
type Report struct {
	// Unchanged is whether all that was asked for was there already, so that nothing
	// was done.
	Unchanged bool
	// Notes are what the engine logged meanwhile, from [log/slog.LevelInfo] on, a line
	// each: what was changed on the host beside the table, and what could not be done
	// and is no error. "turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1".
	Notes []string
}

type reportKey struct{}

// WithReport returns a context that makes a call fill r. It is for one call at a time.
func WithReport(ctx context.Context, r *Report) context.Context {
	return context.WithValue(ctx, reportKey{}, r)
}

// ReportFrom returns the report that the call with this context is to fill; nil: none.
func ReportFrom(ctx context.Context) *Report {
	r, _ := ctx.Value(reportKey{}).(*Report)
	return r
}
