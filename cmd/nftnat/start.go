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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/daemon"
)

// startTimeout bounds how long a command waits for a daemon that it has started.
const startTimeout = 15 * time.Second

// detachTimeout bounds how long serve --detach waits for the daemon, which may take over
// from another one that has something to do first.
const detachTimeout = 3 * time.Minute

// start starts a daemon in the background and waits until it is ready. Commands that
// race to start one go one after another, and all but the first find it there.
func (g *global) start(ctx context.Context, path string) (client *api.Client, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	defer unix.Umask(unix.Umask(0o022)) // what is made beside the socket has modes of its own
	fresh := missing(filepath.Dir(path), path+lockSuffix)
	turn, err := takeTurnIn(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = turn.Close() }() // its lock goes with it
	defer func() {
		if err != nil {
			removeNew(fresh)
		}
	}()
	client, free, err := g.locate(ctx)
	if !errors.Is(err, api.ErrNoServer) {
		return client, err
	}
	if err = g.spawn(ctx, free); err != nil {
		var said *daemon.StartError
		if errors.As(err, &said) && said.Status == exitConflict {
			err = hintedError{err, unansweredHint(free)}
		}
		return nil, err
	}
	client, _, err = g.locate(ctx)
	return client, err
}

// missing returns those of the paths at which nothing is.
func missing(paths ...string) []string {
	return slices.DeleteFunc(paths, func(path string) bool {
		_, err := os.Lstat(path)
		return !errors.Is(err, os.ErrNotExist)
	})
}

// removeNew removes what a command has made for a daemon that did not start, the last first.
// A directory in which somebody else has put something stays.
func removeNew(paths []string) {
	for _, path := range slices.Backward(paths) {
		_ = os.Remove(path)
	}
}

// Beside a socket are the file that is locked by those who are about to start or to purge
// its daemon, and the log of one that was started by a command.
const lockSuffix = ".lock"

func logPath(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".log" }

// dirAttempts bounds how often the directory of a socket is made because somebody else
// has just purged it.
const dirAttempts = 5

// takeTurnIn is takeTurn for a socket, whose directory it makes.
func takeTurnIn(ctx context.Context, socket string) (turn *os.File, err error) {
	for range dirAttempts {
		if err := os.Mkdir(filepath.Dir(socket), 0o750); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		if turn, err = takeTurn(ctx, socket+lockSuffix); !errors.Is(err, os.ErrNotExist) {
			break
		}
	}
	return turn, err
}

// takeTurn locks a file that everybody locks who is about to start a daemon, or to purge
// one: that removes the file.
func takeTurn(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isAt(f, path) {
			return f, nil
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another command has been starting it: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// isAt reports whether a file is still the one at its path.
func isAt(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, there)
}

// spawn runs this program again as a daemon, with its log beside the socket, and waits until it
// is ready.
func (g *global) spawn(ctx context.Context, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	fresh := missing(logPath(path))
	log, err := openLog(path)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = log.Close() }() // the daemon has its own
	args := []string{"nftnat", "serve", "--socket", path, "--table", g.table}
	if g.netns != "" {
		ns, err := filepath.Abs(g.namespacePath())
		if err != nil {
			return fmt.Errorf("start daemon: %w", err)
		}
		args = append(args, "--netns", ns)
	}
	err = daemon.Start(ctx, args, log, false)
	var said *daemon.StartError
	switch {
	case errors.As(err, &said):
		removeNew(fresh) // it has the same line
	case err != nil:
		err = fmt.Errorf("%w; see %s", err, log.Name())
	}
	return err
}

// openLog opens the log of a daemon in the background, beside its socket.
func openLog(socket string) (*os.File, error) {
	return os.OpenFile(logPath(socket), os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o640)
}

// detach runs this very command line again, as a daemon that has its log where this
// command has its errors, if that is a file or the journal, and beside its socket if not.
func (g *global) detach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	log, kept := os.Stderr, os.Getenv("NOTIFY_SOCKET") != "" || keepsErrors(os.Stderr)
	var fresh []string
	if !kept {
		path, err := filepath.Abs(g.socketPath())
		if err != nil {
			return fmt.Errorf("start daemon: %w", err)
		}
		defer unix.Umask(unix.Umask(0o022)) // the modes are as given
		fresh = missing(filepath.Dir(path), path+lockSuffix, logPath(path))
		turn, err := takeTurnIn(ctx, path)
		if err != nil {
			return fmt.Errorf("start daemon: %w", err)
		}
		defer func() { _ = turn.Close() }() // its lock goes with it
		if log, err = openLog(path); err != nil {
			return fmt.Errorf("start daemon: %w", err)
		}
		defer func() { _ = log.Close() }() // the daemon has its own
	}
	err := daemon.Start(ctx, os.Args, log, true)
	var said *daemon.StartError
	switch {
	case errors.As(err, &said):
		removeNew(fresh) // the log has the same line
		if kept {
			return shownError(said.Status)
		}
	case err == nil && !kept:
		g.logger().Info("the daemon's log is " + log.Name())
	}
	return err
}

// keepsErrors reports whether a daemon in the background may go on to write to the standard
// error of the command that starts it: a file, a device that is no terminal, or the journal. The
// process that reads a pipe or another socket waits for its end, and a terminal may be another
// user's by then.
func keepsErrors(f *os.File) bool {
	var stat unix.Stat_t
	if unix.Fstat(int(f.Fd()), &stat) != nil {
		return false
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return true
	case unix.S_IFCHR:
		return !isTerminal(f)
	}
	return toJournal(f)
}
