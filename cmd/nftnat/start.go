// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
)

// startTimeout bounds how long a command waits for a daemon that it has started.
const startTimeout = 15 * time.Second

// detachTimeout bounds how long serve --detach waits for the daemon, which may take over
// from another one that has something to do first.
const detachTimeout = 3 * time.Minute

// envReady names the descriptor on which a daemon tells whoever started it that it
// is ready, or why it cannot be.
const envReady = "NFTNAT_READY_FD"

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
		var said startError
		if errors.As(err, &said) && said.status() == exitConflict {
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

// spawn runs this program again as a daemon, with its log beside the socket, and
// waits for its word.
func (g *global) spawn(ctx context.Context, path string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
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
	err = runDaemon(ctx, self, &os.ProcAttr{
		Dir: "/", Env: keepVariables(os.Environ(), ownVariables()), Files: []*os.File{nil, log, log},
		Sys: &syscall.SysProcAttr{Setsid: true},
	}, args)
	var said startError
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
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	log, kept := os.Stderr, os.Getenv(envNotify) != "" || keepsErrors(os.Stderr)
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
	// When a main process that is not its child is to stop, systemd sends SIGTERM and, without
	// waiting, SIGKILL. Whose child it is systemd looks up when it is told of the process, and
	// this command, the parent, may not have ended by then.
	sys := &syscall.SysProcAttr{Setsid: true}
	if os.Getenv(envNotify) != "" {
		sys.Cloneflags = unix.CLONE_PARENT
	}
	names := slices.Concat(ownVariables(), serviceVariables())
	err = runDaemon(ctx, self, &os.ProcAttr{
		Env: keepVariables(os.Environ(), names), Files: []*os.File{nil, nil, log}, Sys: sys,
	}, os.Args)
	var said startError
	switch {
	case errors.As(err, &said):
		removeNew(fresh) // the log has the same line
		said.shown = kept
		return said
	case err == nil && !kept:
		g.logger().Info("the daemon's log is " + log.Name())
	}
	return err
}

// runDaemon runs this program as a daemon and waits for its word. Standard files that are
// nil are the null device.
func runDaemon(ctx context.Context, self string, attr *os.ProcAttr, args []string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = null.Close() }()
	for i, f := range attr.Files {
		if f == nil {
			attr.Files[i] = null
		}
	}
	word, ready, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = word.Close() }()
	if err := closeOnExec(); err != nil {
		return fmt.Errorf("start daemon: %w", errors.Join(err, ready.Close()))
	}
	attr.Files = append(attr.Files, ready)
	attr.Env = append(attr.Env, envReady+"="+strconv.Itoa(len(attr.Files)-1))
	process, err := os.StartProcess(self, args, attr)
	_ = ready.Close() // so that the end of the daemon ends the reading
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = word.SetReadDeadline(deadline)
	}
	text, err := bufio.NewReader(word).ReadString('\n')
	switch {
	case text == readyWord:
		return process.Release()
	case text != "":
		_, _ = process.Wait()
		return startError{text: strings.TrimSpace(text)}
	case errors.Is(err, io.EOF):
		_, _ = process.Wait()
		return errors.New("start daemon: it ended and gave no reason")
	}
	return fmt.Errorf("start daemon: it is not ready: %w", err)
}

const readyWord = "ready\n"

// startError is why a daemon could not be started, with its exit status.
type startError struct {
	text  string
	shown bool // by the daemon, where this command has its errors
}

func (e startError) Error() string {
	_, text, _ := strings.Cut(e.text, " ")
	return text
}

// status is the exit status that the daemon has had.
func (e startError) status() int {
	number, _, _ := strings.Cut(e.text, " ")
	status, err := strconv.Atoi(number)
	if err != nil {
		return exitFailed
	}
	return status
}
