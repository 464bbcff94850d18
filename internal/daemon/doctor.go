// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// Known is what is known of a daemon's table and host before Doctor looks at it.
type Known struct {
	// Mappings are all published ports.
	Mappings []nat.Mapping
	// Proxies is whether a daemon has proxies.
	Proxies bool
	// Warnings are those of the status.
	Warnings []string
	// Missing are features that the kernel lacks, with what is done without them.
	Missing []engine.MissingFeature
	// Findings are those of the caller.
	Findings []report.Finding
	// Probes keeps what backends have answered. Nil: they are asked anew.
	Probes *explain.Probes
	// Socket is where a daemon was looked for and none answered. Empty: one answers, or none was looked
	// for.
	Socket string
}

// Examine is Doctor of what the kernel holds. What the daemon would say of it is read from the kernel
// too, if known has no proxies.
func Examine(ctx context.Context, at ExplainOptions, known Known) (d report.Diagnosis, err error) {
	e, err := engine.Open(ctx, engine.Options{Table: at.Table, NetNS: at.NetNS, ReadOnly: true, NoProxies: true, AsFound: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return d, err
	}
	known.Mappings, err = e.Mappings(ctx)
	var status engine.Status
	if err == nil {
		status, err = e.Status(ctx)
	}
	if err := errors.Join(err, e.Close()); err != nil {
		return d, err
	}
	if !known.Proxies {
		known.Warnings, known.Missing = status.Warnings, status.MissingFeatures
	}
	if known.Socket != "" && len(known.Mappings) > 0 {
		known.Findings = append(known.Findings, deserted(known.Socket, status)...)
	}
	return Doctor(ctx, at, known)
}

// deserted says what is odd of a socket where no daemon answers.
func deserted(socket string, status engine.Status) []report.Finding {
	f := report.Finding{Kind: report.KindDaemon, Thing: "socket " + socket, Remedy: "nftnat serve: clients on this host are served then"}
	_, err := os.Lstat(socket)
	switch {
	case status.Owned && err != nil:
		f.What = "is not there, though a process owns table inet " + status.Table
		f.Remedy = "start that daemon anew, or say by --socket where it listens"
	case status.Owned:
		f.What = "nobody answers there, though a process owns table inet " + status.Table
		f.Remedy = "start that daemon anew, or say by --socket where it listens"
	case err == nil:
		f.What = "is there, but its daemon has ended"
	default:
		return nil
	}
	return []report.Finding{f}
}

// Doctor looks for what is wrong on a host. It changes nothing.
func Doctor(ctx context.Context, at ExplainOptions, known Known) (d report.Diagnosis, err error) {
	finder, err := engine.OpenFinder(engine.FinderOptions{Table: at.Table, NetNS: at.NetNS})
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, finder.Close()) }()
	e, err := explain.New(explain.Options{Table: at.Table, NetNS: at.NetNS, PID: at.PID, LegacyLists: at.LegacyLists, Mappings: finder})
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return e.Doctor(ctx, known.examination())
}

func (k Known) examination() explain.Examination {
	all := slices.Clone(k.Findings)
	for _, line := range k.Warnings {
		all = append(all, warned(line))
	}
	for _, m := range k.Missing {
		all = append(all, report.Finding{Kind: report.KindKernel, Thing: "the kernel has no " + m.Name, What: m.Fallback})
	}
	return explain.Examination{Mappings: slices.Values(k.Mappings), Proxies: k.Proxies, Known: all, Probes: k.Probes}
}

// rivalLine is how a warning begins that another table translates a published port.
var rivalLine = regexp.MustCompile(`table \S+ \S+`)

// warned is the finding that a warning of the engine is.
func warned(line string) report.Finding {
	f := report.Finding{Kind: report.KindWarning, Thing: line}
	switch {
	case strings.Contains(line, "is no address of this host"):
		f.Kind = report.KindAddress
	case strings.Contains(line, "forwarding is off"):
		f.Kind = report.KindSysctl
	case rivalLine.MatchString(line):
		f.Kind = report.KindRival
	}
	return f
}

// doctor is what answers GET /v1/doctor. Nil: as with explainer.
func (s *server) doctor() func(context.Context) (report.Diagnosis, error) {
	if s.outside {
		return nil
	}
	return func(ctx context.Context) (report.Diagnosis, error) {
		ms, err := s.engine.Mappings(ctx)
		if err != nil {
			return report.Diagnosis{}, err
		}
		status, err := s.engine.Status(ctx)
		known := Known{Mappings: ms, Proxies: !s.Engine.NoProxies, Warnings: status.Warnings, Missing: status.MissingFeatures}
		if err != nil {
			known.Warnings = append(known.Warnings, err.Error())
		}
		return Doctor(ctx, s.explainedAt(), known)
	}
}
