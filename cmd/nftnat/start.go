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
func (g *global) start(ctx context.Context, path string) (*api.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	turn, err := takeTurnIn(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = turn.Close() }() // its lock goes with it
	client, free, err := g.locate(ctx)
	if !errors.Is(err, api.ErrNoServer) {
		return client, err
	}
	if err := g.spawn(ctx, free); err != nil {
		return nil, err
	}
	client, _, err = g.locate(ctx)
	return client, err
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
	log, err := os.OpenFile(logPath(path),
		os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = log.Close() }() // the daemon has its own
	args := []string{"nftnat", "serve", "--socket", path, "--table", g.table}
	if ns := g.namespacePath(); ns != "" {
		args = append(args, "--netns", ns)
	}
	err = runDaemon(ctx, self, args, log, log, 0)
	var said startError
	if err != nil && !errors.As(err, &said) {
		err = fmt.Errorf("%w; see %s", err, log.Name())
	}
	return err
}

// detach runs this very command line again, as a daemon that has its log where this
// command has its errors.
func (g *global) detach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	// When a main process that is not its child is to stop, systemd sends SIGTERM and, without
	// waiting, SIGKILL. Whose child it is systemd looks up when it is told of the process, and
	// this command, the parent, may not have ended by then.
	var flags uintptr
	if os.Getenv("NOTIFY_SOCKET") != "" {
		flags = unix.CLONE_PARENT
	}
	err = runDaemon(ctx, self, os.Args, nil, os.Stderr, flags)
	var said startError
	if errors.As(err, &said) {
		said.shown = true
		return said
	}
	return err
}

// runDaemon runs this program as a daemon and waits for its word. Without a standard
// output it has none. The flags are of clone(2).
func runDaemon(ctx context.Context, self string, args []string, stdout, stderr *os.File, flags uintptr) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = null.Close() }()
	if stdout == nil {
		stdout = null
	}
	word, ready, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer func() { _ = word.Close() }()
	process, err := os.StartProcess(self, args, &os.ProcAttr{
		Dir:   "/",
		Env:   append(os.Environ(), envReady+"="+strconv.Itoa(readyFD)),
		Files: []*os.File{null, stdout, stderr, ready},
		Sys:   &syscall.SysProcAttr{Setsid: true, Cloneflags: flags},
	})
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
		return errors.New("start daemon: it ended without a word")
	}
	return fmt.Errorf("start daemon: it is not ready: %w", err)
}

const (
	readyFD   = 3 // the first of the descriptors that are handed on
	readyWord = "ready\n"
)

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

// starter is whoever started this daemon and waits for its word; nil: nobody.
func starter() *os.File {
	fd, err := strconv.Atoi(os.Getenv(envReady))
	if err != nil || fd < 3 {
		return nil
	}
	_ = os.Unsetenv(envReady)
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready")
}
