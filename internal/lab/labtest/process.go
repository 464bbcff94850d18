// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// Process is a command that runs while the test goes on.
type Process struct {
	// Pid is the process's number.
	Pid int

	cmd    *exec.Cmd
	output output
	done   chan struct{} // closed when the process has ended
}

// Start starts a command inside ns. It is killed when the test ends, if it has
// not ended before, and waited for. Its output is shown if the test fails. The
// program is looked for as by [Tool].
func Start(tb testing.TB, ns *lab.NS, name string, args ...string) *Process {
	tb.Helper()
	return StartCmd(tb, ns, exec.Command(Tool(tb, name), args...))
}

// StartCmd is [Start] for a prepared command. Standard output and error are
// collected by [Process.Output] unless they are set.
func StartCmd(tb testing.TB, ns *lab.NS, cmd *exec.Cmd) *Process {
	tb.Helper()
	p := &Process{cmd: cmd, done: make(chan struct{})}
	prepare(cmd, &p.output, &p.output)
	started := make(chan error, 1)
	go p.run(ns, started)
	if err := <-started; err != nil {
		tb.Fatalf("%s: start %s: %v", ns, cmd, err)
	}
	p.Pid = cmd.Process.Pid
	tb.Cleanup(func() {
		p.Kill()
		if tb.Failed() {
			tb.Logf("%s: output of %s (pid %d, %s):\n%s", ns, cmd, p.Pid, cmd.ProcessState, p.Output())
		}
	})
	return p
}

// run starts the command and waits for it, on one thread, with which the
// process would be killed (see Run).
func (p *Process) run(ns *lab.NS, started chan<- error) {
	defer close(p.done)
	reported := false
	err := ns.Do(func() error {
		if err := p.cmd.Start(); err != nil {
			return err
		}
		reported = true
		started <- nil
		// How it ended is in ProcessState.
		_ = p.cmd.Wait()
		return nil
	})
	if !reported {
		started <- err
	}
}

// Output returns what the process has written so far.
func (p *Process) Output() string { return p.output.String() }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends the process a signal, such as syscall.SIGTERM. To a process
// that has ended the error is os.ErrProcessDone.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits until the process ends, and returns its exit status: -1 if a
// signal ended it.
func (p *Process) Wait() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Kill kills the process with SIGKILL, if it is still there, and waits until
// it has ended.
func (p *Process) Kill() {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return // not ours to kill any more: a program that changed its user
	}
	<-p.done
}

// output is a buffer that is read while it is written to.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
