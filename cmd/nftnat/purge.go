// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
)

func newPurge(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "purge",
		Short: "Unpublish everything, end the daemon and delete the table",
		Long: "Unpublish everything, end the daemon and delete the table. IP forwarding stays as\n" +
			"it is: others may need it by now.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !g.direct {
				if err := g.stop(cmd.Context()); err != nil {
					return err
				}
			}
			return g.withEngine(false, nil, (*engine.Engine).Purge)
		},
	}
}

// stop ends the daemon, if there is one, and waits until it has.
func (g *global) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout+startTimeout)
	defer cancel()
	client, _, err := g.locate(ctx)
	if errors.Is(err, api.ErrNoServer) {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	// A descriptor of the process, and not its number: whoever has that number later
	// is not meant.
	process, err := unix.PidfdOpen(st.PID, 0)
	if err != nil {
		return fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
	}
	defer func() { _ = unix.Close(process) }() // nothing was written
	// The daemon knows its number in its own PID namespace, which may not be ours.
	if !isDaemon(st.PID) {
		return fmt.Errorf("end daemon: it says that it is pid %d, which is another process here: end it where it runs", st.PID)
	}
	// Nothing is left for it to drain, nor in its state file.
	if _, err := client.ApplyState(ctx, engine.State{}); err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
	}
	if err := awaitEnd(ctx, process); err != nil {
		return fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
	}
	return nil
}

// isDaemon reports whether a process was started as this program's daemon (proc(5)).
func isDaemon(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && slices.Contains(strings.Split(string(line), "\x00"), "serve")
}

// awaitEnd waits until a process has ended, also one that its parent has not waited
// for: a container's first process may never do so (pidfd_open(2)).
func awaitEnd(ctx context.Context, process int) error {
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
		// Not for longer, to see that the context is done.
		n, err := unix.Poll(fds, 100)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}
