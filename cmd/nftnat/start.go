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

// detachTimeout bounds how long serve --detach waits for the daemon, which may take over from one
// that has to finish something first.
const detachTimeout = 3 * time.Minute

// start starts a daemon in the background and waits until it is ready. Of commands that start one
// at the same time all but the first find it there.
func (g *global) start(ctx context.Context, path string) (client *api.Client, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	done, err := prepare(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("start daemon: %w", err)
	}
	defer func() { done(err) }()
	client, free, err := g.locate(ctx)
	if !errors.Is(err, api.ErrNoServer) {
		return client, err
	}
	if err = g.spawn(ctx, free); err != nil {
		var said *daemon.StartError
		if errors.As(err, &said) && said.Status == exitConflict {
			// The owner may be a daemon that somebody else has started, and that answers by now.
			if client, _, locateErr := g.locate(ctx); locateErr == nil {
				err = nil
				return client, nil
			}
			err = hintedError{err, unansweredHint(free)}
		}
		return nil, err
	}
	client, _, err = g.locate(ctx)
	return client, err
}

// spawn runs this program again as a daemon, with its log beside the socket, and waits until it
// is ready.
func (g *global) spawn(ctx context.Context, path string) (err error) {
	args := []string{"nftnat", "serve", "--socket", "", "--table", g.table}
	if args[3], err = filepath.Abs(path); err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	if g.netns != "" {
		ns, err := filepath.Abs(g.namespacePath())
		if err != nil {
			return fmt.Errorf("start daemon: %w", err)
		}
		args = append(args, "--netns", ns)
	}
	return startLogged(ctx, args, args[3], false)
}

// detach runs this very command line again as a daemon. Its log goes where this command has its
// errors, if that is a file or the journal, and else beside the socket.
func (g *global) detach(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	if os.Getenv("NOTIFY_SOCKET") != "" || keepsErrors(os.Stderr) {
		err := daemon.Start(ctx, os.Args, os.Stderr, true)
		var said *daemon.StartError
		if errors.As(err, &said) {
			return shownError(said.Status) // the daemon has printed it
		}
		return err
	}
	path, err := filepath.Abs(g.socketPath())
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	done, err := prepare(ctx, path)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer func() { done(err) }()
	if err = startLogged(ctx, os.Args, path, true); err == nil {
		g.logger().Info("the daemon's log is " + logPath(path))
	}
	return err
}

// prepare makes the directory of a socket, and locks a file in it: the caller's turn to start a
// daemon or to purge one. The turn ends with done, which removes what was made if the daemon did
// not start.
func prepare(ctx context.Context, socket string) (done func(error), err error) {
	umask := unix.Umask(0o022) // the modes are as given
	fresh := missing(filepath.Dir(socket), socket+lockSuffix)
	turn, err := takeTurnIn(ctx, socket)
	if err != nil {
		unix.Umask(umask)
		return nil, err
	}
	return func(err error) {
		if err != nil {
			removeNew(fresh)
		}
		_ = turn.Close() // with it the lock
		unix.Umask(umask)
	}, nil
}

// startLogged starts a daemon with its log beside a socket.
func startLogged(ctx context.Context, args []string, socket string, service bool) error {
	path := logPath(socket)
	fresh := missing(path)
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = log.Close() }() // the daemon has its own
	err = daemon.Start(ctx, args, log, service)
	var said *daemon.StartError
	switch {
	case errors.As(err, &said):
		removeNew(fresh) // it has the same line
	case err != nil:
		err = fmt.Errorf("%w; see %s", err, path)
	}
	return err
}

// missing returns the paths at which nothing exists.
func missing(paths ...string) []string {
	return slices.DeleteFunc(paths, func(path string) bool {
		_, err := os.Lstat(path)
		return !errors.Is(err, os.ErrNotExist)
	})
}

// removeNew removes what a command made for a daemon that did not start, the last first. A
// directory with files of others stays.
func removeNew(paths []string) {
	for _, path := range slices.Backward(paths) {
		_ = os.Remove(path)
	}
}

// Beside a socket are the file that commands lock to start or to purge its daemon, and the log of a
// daemon that a command started.
const lockSuffix = ".lock"

func logPath(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".log" }

// dirAttempts bounds how often the directory of a socket is made because another command has just
// purged it.
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

// takeTurn locks the file that commands lock to start a daemon or to purge one, which removes the
// file.
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
