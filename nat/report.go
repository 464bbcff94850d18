// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "context"

// Report is what a call did in addition to its result; see [WithReport]. After an error it is
// empty.
type Report struct {
	// Unchanged is true if nothing had to be done.
	Unchanged bool
	// Renewed is true if nothing else than ends of mappings had to be changed. It is not passed on by
	// clients of a daemon.
	Renewed bool
	// Notes are the lines that the engine logged meanwhile, from [log/slog.LevelInfo] on:
	// changes of the host other than the table, and problems that are no error. For example
	// "turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1".
	Notes []string
}

type reportKey struct{}

// WithReport returns a context with which a call fills r. Use it for one call at a time.
func WithReport(ctx context.Context, r *Report) context.Context {
	return context.WithValue(ctx, reportKey{}, r)
}

// ReportFrom returns the report that the call with this context is to fill; nil: none.
func ReportFrom(ctx context.Context) *Report {
	r, _ := ctx.Value(reportKey{}).(*Report)
	return r
}
