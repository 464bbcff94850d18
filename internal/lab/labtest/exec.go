// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// pipeTimeout bounds the wait for the output of a command that has ended: a daemon that it
// left behind may keep the pipe open.
const pipeTimeout = 2 * time.Second

// Result is how a command ended and what it wrote.
type Result struct {
	Stdout, Stderr string
	Code           int // exit status; -1 if a signal ended it
}

// Exec runs a command inside ns and returns its standard output. Unless the exit status is
// 0, it fails the test with the standard error. It finds the program as [Tool] does.
func Exec(tb testing.TB, ns *lab.NS, name string, args ...string) string {
	tb.Helper()
	return must(tb, ns, Run(tb, ns, exec.Command(Tool(tb, name), args...)), name, args)
}

// ExecInput is [Exec] with standard input.
func ExecInput(tb testing.TB, ns *lab.NS, input, name string, args ...string) string {
	tb.Helper()
	cmd := exec.Command(Tool(tb, name), args...)
	cmd.Stdin = strings.NewReader(input)
	return must(tb, ns, Run(tb, ns, cmd), name, args)
}

func must(tb testing.TB, ns *lab.NS, r Result, name string, args []string) string {
	tb.Helper()
	if r.Code != 0 {
		tb.Fatalf("%s: %s %s: exit status %d\n%s%s", ns, name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Run runs a prepared command inside ns and returns how it ended, whatever the
// exit status. Standard output and error are collected unless they are set.
// A command that cannot be started fails the test. It is killed if the tests are.
func Run(tb testing.TB, ns *lab.NS, cmd *exec.Cmd) Result {
	tb.Helper()
	var stdout, stderr bytes.Buffer
	prepare(cmd, &stdout, &stderr)
	// A child is in the namespace of the thread that forks, and is killed when that thread
	// ends. So the thread waits for it.
	err := ns.Do(cmd.Run)
	if err := unexpected(err); err != nil {
		tb.Fatalf("%s: %s: %v\n%s", ns, cmd, err, stderr.String())
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// prepare sets those fields of a command that are not set.
func prepare(cmd *exec.Cmd, stdout, stderr interface{ Write([]byte) (int, error) }) {
	if cmd.Stdout == nil {
		cmd.Stdout = stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = stderr
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	}
	if cmd.WaitDelay == 0 {
		cmd.WaitDelay = pipeTimeout
	}
}

// unexpected returns nil for errors with which a command may end.
func unexpected(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay) || errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
