// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// Type is the plugin's name: of its file, and in a list of plugins.
const Type = "nftnat-cni"

// callTimeout bounds a call of the plugin. Runtimes wait for some minutes.
const callTimeout = time.Minute

// Publisher publishes: an [api.Client], or an engine.
type Publisher interface {
	Publish(context.Context, nat.PublishOptions, ...nat.Mapping) ([]nat.Mapping, error)
	Remove(context.Context, nat.Removal) ([]nat.Mapping, error)
}

// Plugin is what a runtime executes. All functions are required.
type Plugin struct {
	// Version is that of the program.
	Version string
	// Daemon finds the daemon at a socket that has a table, and with start starts it if none
	// answers. Empty: the default ones. It returns the socket as well, or with api.ErrNoServer the one
	// at which there is none.
	Daemon func(ctx context.Context, socket, table string, start bool) (*api.Client, string, error)
	// Kernel reads the mappings of a table, and reports whether there is one.
	Kernel func(ctx context.Context, table string) (ms []nat.Mapping, present bool, err error)
	// Direct calls a function with what can change a table that has no daemon.
	Direct func(ctx context.Context, table string, f func(Publisher) error) error
	// NameHolder adds to the error the process that holds the port.
	NameHolder func(*nat.HeldError)
}

// Main does what CNI_COMMAND says, and returns the exit status. Results and errors go to standard output.
func (p *Plugin) Main() int {
	e := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: call(p.add), Del: call(p.del), Check: call(p.check), GC: call(p.collect), Status: call(p.status),
	}, version.All, "CNI "+Type+" plugin v"+p.Version)
	if e == nil {
		return 0
	}
	if err := e.Print(); err != nil {
		fmt.Fprintln(os.Stderr, "nftnat: write the error:", err)
	}
	return 1
}

// call gives a command its context, and its error a code.
func call(f func(context.Context, *skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		return coded(f(ctx, args))
	}
}

// coded gives an error the code that tells the runtime what to do.
func coded(err error) error {
	var known *types.Error
	code := types.ErrInternal
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, nat.ErrConflict), errors.Is(err, nat.ErrExhausted), errors.Is(err, nat.ErrOwned), unanswered(err):
		code = types.ErrTryAgainLater
	case errors.Is(err, nat.ErrInvalid):
		code = types.ErrInvalidNetworkConfig
	case errors.Is(err, fs.ErrPermission):
		code = types.ErrIOFailure
	}
	return types.NewError(code, err.Error(), "")
}

// unanswered reports whether no daemon does what it was asked for now.
func unanswered(err error) bool {
	return errors.Is(err, api.ErrNoServer) || errors.Is(err, api.ErrBusy) || errors.Is(err, nat.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded)
}

// daemon finds the daemon of a configuration. It returns the socket as Plugin.Daemon does.
func (p *Plugin) daemon(ctx context.Context, c *daemonConfig) (*api.Client, string, error) {
	return p.Daemon(ctx, c.Socket, c.Table, c.StartDaemon)
}

// printNotes writes what was done beyond what was asked for to standard error, where the runtime has its log.
func printNotes(r *nat.Report) {
	for _, note := range r.Notes {
		fmt.Fprintln(os.Stderr, "nftnat:", note)
	}
}
