// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/cni"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/daemon"
	"github.com/nftnat/nftnat/nat"
)

func newPurge(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "purge",
		Short: "Unpublish everything, end the daemon and delete the table",
		Long: "Unpublish everything, end the daemon and delete the table. The log and lock that a\n" +
			"daemon started by a command keeps beside its socket are deleted too. A state file\n" +
			"stays, but is empty. IP forwarding is left as it is, because other programs may need\n" +
			"it by now; a line on standard error says so.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.direct {
				return g.purge(cmd.Context(), lockWait)
			}
			return g.purgeAndStop(cmd.Context())
		},
	}, toDaemon)
}

// purge deletes the table, for which it waits so long.
func (g *global) purge(ctx context.Context, wait time.Duration) error {
	return g.withEngineWithin(ctx, wait, false, nil, func(e *engine.Engine) error {
		status, err := e.Status(ctx)
		if err := e.Purge(ctx); err != nil {
			return err
		}
		if f := daemon.StatusOf(status, err).Forwarding; err == nil && (f.IPv4 != api.ForwardingOff || f.IPv6 != api.ForwardingOff) {
			g.logger().Info("IP forwarding stays as it is", "ipv4", f.IPv4, "ipv6", f.IPv6)
		}
		return nil
	})
}

// purgeAndStop ends the daemon, deletes the table, and removes the files that were made beside
// the socket to start daemons. No command starts another daemon meanwhile.
func (g *global) purgeAndStop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, daemon.DrainTimeout+startTimeout)
	defer cancel()
	client, path, err := g.locateLiving(ctx)
	if err == nil {
		path = client.Path()
	} else if !errors.Is(err, api.ErrNoServer) {
		return err
	}
	lock := path + lockSuffix
	_, err = os.Lstat(lock)
	started := err == nil // by a command, once
	if turn, err := takeTurn(ctx, lock); err == nil {
		defer func() { _ = turn.Close() }()
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("end daemon: %w", err)
	}
	if err := g.stopAndPurge(ctx); err != nil {
		if errors.Is(err, nat.ErrOwned) {
			err = hintedError{err, unansweredHint(path)}
		}
		return err
	}
	leftovers := []string{lock}
	if started {
		leftovers = append(leftovers, logPath(path))
	}
	if err := os.RemoveAll(cni.RecordsDir(path)); err != nil { // of containers whose ports are not published any more
		return err
	}
	return removeLeftovers(leftovers, filepath.Dir(path))
}

// removeLeftovers removes files, the control group if no other daemon is in it, and the directory
// if it is the default one and empty.
func removeLeftovers(files []string, dir string) error {
	daemon.RemoveControlGroup()
	var errs []error
	for _, f := range files {
		errs = append(errs, os.Remove(f))
	}
	if dir == filepath.Dir(defaultSocket) {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY)
	})...)
}

// answerWait is how long a table is waited for before its owner is asked again at the daemon's socket.
const answerWait = 200 * time.Millisecond

// stopAndPurge ends the daemon and deletes the table. A daemon that somebody starts, as a service manager does with one that was
// killed, has the table before it answers, and one that is killed may hang up: they are asked again.
func (g *global) stopAndPurge(ctx context.Context) error {
	for end := time.Now().Add(lockWait); ; {
		err := g.stop(ctx)
		if err == nil {
			err = g.purge(ctx, answerWait)
		}
		again := hungUp(err) || errors.Is(err, unix.ESRCH) || errors.Is(err, nat.ErrOwned)
		if !again || ctx.Err() != nil || !time.Now().Before(end) {
			return err
		}
	}
}

// stop ends the daemon, if there is one, and waits until it has. The error is ESRCH if its process has gone since it answered.
func (g *global) stop(ctx context.Context) error {
	client, _, err := g.locateLiving(ctx)
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
	// A descriptor of the process, since another process may have its number later.
	process, err := unix.PidfdOpen(st.PID, 0)
	if err != nil {
		return fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
	}
	defer func() { _ = unix.Close(process) }() // nothing was written
	// The daemon knows its number in its own PID namespace, which may be another one.
	if !isDaemon(st.PID) {
		if err := unix.PidfdSendSignal(process, 0, nil, 0); errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
		}
		return fmt.Errorf("end daemon: it says that it is pid %d, which is another process here: end it where it runs", st.PID)
	}
	// So that it has nothing to drain, and its state file is empty.
	noted, printNotes := g.withNotes(ctx)
	_, err = client.ApplyState(noted, nat.State{})
	printNotes()
	if err != nil {
		return err
	}
	err = unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0)
	if err == nil || errors.Is(err, unix.ESRCH) {
		err = awaitEnd(ctx, process)
	}
	if err != nil {
		return fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
	}
	return nil
}

// isDaemon reports whether a process was started as this program's daemon (proc(5)).
func isDaemon(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && slices.Contains(strings.Split(string(line), "\x00"), "serve")
}

// awaitEnd waits until a process has ended, also if its parent does not wait for it, as the first
// process of a container may not (pidfd_open(2)).
func awaitEnd(ctx context.Context, process int) error {
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100) // ms; then the context is checked
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}
