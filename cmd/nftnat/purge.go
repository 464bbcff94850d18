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
			"it by now; a line on standard error says so, or that there was nothing to purge.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			purge := g.purgeAndStop
			if g.direct {
				purge = func(ctx context.Context) (bool, error) { return g.purge(ctx, lockWait) }
			}
			found, err := purge(cmd.Context())
			if err == nil && !found {
				g.logger().Info(g.nothingPurged(cmd.Context()))
			}
			return err
		},
	}, toDaemon)
}

// nothingPurged says where there was nothing to purge, and of which other namespace or table the daemon is that is found first.
func (g *global) nothingPurged(ctx context.Context) string {
	text := "there was nothing to purge: the network namespace has no table inet " + g.table
	if g.direct {
		return text
	}
	text += ", and no daemon of it answers"
	if g.socket != "" {
		return text
	}
	if other, err := api.NewClient(defaultSocket).Daemon(ctx); err == nil {
		text += fmt.Sprintf("; the daemon at %s, pid %d, has the table %s of network namespace %d", defaultSocket, other.PID, other.Table, other.NetNS)
	}
	return text
}

// purge deletes the table, for which it waits so long, and reports whether there was one.
func (g *global) purge(ctx context.Context, wait time.Duration) (found bool, err error) {
	err = g.withEngineWithin(ctx, wait, false, nil, func(e *engine.Engine) error {
		status, err := e.Status(ctx)
		if err := e.Purge(ctx); err != nil {
			return err
		}
		found = status.Present
		if f := daemon.StatusOf(status, err).Forwarding; found && err == nil && (f.IPv4 != api.ForwardingOff || f.IPv6 != api.ForwardingOff) {
			g.logger().Info("IP forwarding stays as it is", "ipv4", f.IPv4, "ipv6", f.IPv6)
		}
		return nil
	})
	return found, err
}

// purgeAndStop ends the daemon, deletes the table, and removes the files that were made beside
// the socket to start daemons. No command starts another daemon meanwhile. It reports whether there was
// a daemon or a table.
func (g *global) purgeAndStop(ctx context.Context) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, daemon.DrainTimeout+startTimeout)
	defer cancel()
	client, path, err := g.locateLiving(ctx)
	switch {
	case err == nil:
		path = client.Path()
		leave, err := g.goTo(ctx, client)
		if err != nil {
			return false, err
		}
		defer leave()
	case !errors.Is(err, api.ErrNoServer):
		return false, err
	}
	lock := path + lockSuffix
	_, err = os.Lstat(lock)
	started := err == nil // by a command, once
	if turn, err := takeTurn(ctx, lock); err == nil {
		defer func() { _ = turn.Close() }()
	} else if !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("end daemon: %w", err)
	}
	if found, err = g.stopAndPurge(ctx); err != nil {
		if errors.Is(err, nat.ErrOwned) {
			err = hintedError{err, unansweredHint(path)}
		}
		return found, err
	}
	leftovers := []string{lock}
	if started {
		leftovers = append(leftovers, logPath(path))
	}
	if err := os.RemoveAll(cni.RecordsDir(path)); err != nil { // of containers whose ports are not published any more
		return found, err
	}
	return found, removeLeftovers(leftovers, filepath.Dir(path))
}

// goTo makes the command be for the table and network namespace of a daemon whose socket was given, if this process can get
// there, until leave is called. The daemon will have ended when its table is deleted.
func (g *global) goTo(ctx context.Context, client *api.Client) (leave func(), err error) {
	leave = func() {}
	if g.socket == "" {
		return leave, nil
	}
	found, err := client.Daemon(ctx)
	if err != nil {
		return leave, nil // stop says why, if it is still so
	}
	inode, err := g.namespaceInode()
	if err != nil {
		return nil, err
	}
	at, there := sameNamespace(daemon.ExplainOptions{NetNS: g.netns}, found, inode)
	if !there {
		return leave, nil // it cannot be ended from here either
	}
	g.table = at.Table
	if at.NetNS != g.netns {
		ns, err := os.Open(at.NetNS)
		if err != nil {
			return nil, err
		}
		leave = func() { _ = ns.Close() } // nothing was written
		g.netns = fmt.Sprintf("/proc/self/fd/%d", ns.Fd())
	}
	return leave, nil
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
func (g *global) stopAndPurge(ctx context.Context) (found bool, err error) {
	for end := time.Now().Add(lockWait); ; {
		stopped, err := g.stop(ctx)
		found = found || stopped
		if err == nil {
			var present bool
			present, err = g.purge(ctx, answerWait)
			found = found || present
		}
		again := hungUp(err) || errors.Is(err, unix.ESRCH) || errors.Is(err, nat.ErrOwned)
		if !again || ctx.Err() != nil || !time.Now().Before(end) {
			return found, err
		}
	}
}

// stop ends the daemon, waits until it has ended, and reports whether there was one. The error is ESRCH if its process has gone
// since it answered.
func (g *global) stop(ctx context.Context) (stopped bool, err error) {
	client, _, err := g.locateLiving(ctx)
	if errors.Is(err, api.ErrNoServer) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	st, err := client.Daemon(ctx)
	if err != nil {
		return false, err
	}
	// A descriptor of the process, since another process may have its number later.
	process, err := unix.PidfdOpen(st.PID, 0)
	if err != nil {
		return false, fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
	}
	defer func() { _ = unix.Close(process) }() // nothing was written
	// The daemon knows its number in its own PID namespace, which may be another one.
	if !isDaemon(st.PID) {
		if err := unix.PidfdSendSignal(process, 0, nil, 0); errors.Is(err, unix.ESRCH) {
			return false, fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
		}
		return false, fmt.Errorf("end daemon: it says that it is pid %d, which is another process here: end it where it runs", st.PID)
	}
	// So that it has nothing to drain, and its state file is empty.
	noted, printNotes := g.withNotes(ctx)
	_, err = client.ApplyState(noted, nat.State{})
	printNotes()
	if err != nil {
		return false, err
	}
	err = unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0)
	if err == nil || errors.Is(err, unix.ESRCH) {
		err = awaitEnd(ctx, process)
	}
	if err != nil {
		return false, fmt.Errorf("end daemon: pid %d: %w", st.PID, err)
	}
	return true, nil
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
