// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

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
			return g.withEngine(false, (*engine.Engine).Purge)
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
	// Nothing is left for it to drain.
	if _, err := client.Apply(ctx); err != nil {
		return err
	}
	if err := syscall.Kill(st.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if syscall.Kill(st.PID, 0) != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end daemon: pid %d: %w", st.PID, ctx.Err())
		case <-time.After(pause):
		}
	}
}
