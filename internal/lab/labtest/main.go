// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Environment variables. The last two are set by this package, for the process that it
// starts in the new namespaces.
const (
	// envRequire set to "require" makes tests fail that would be skipped.
	envRequire = "NFTNAT_TEST_NETNS"

	// envInside holds the network namespace that was left.
	envInside = "NFTNAT_TEST_NETNS_LEFT"
	// envSkip holds the reason why no namespaces could be made.
	envSkip = "NFTNAT_TEST_NETNS_NONE"
)

// Main runs a package's tests in namespaces of their own, so that no test can
// touch the network of the machine it runs on. It is called from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }
//
// Root gets a new network and a new mount namespace. Other users get them in a new user
// namespace, in which they are root. The test binary is started once more for that, with
// the same arguments, files and environment, so that -run, -fuzz, -count and profiles
// work as usual; signals are passed on to it, and its exit status is returned. Inside, lo
// is up and /run is empty and writable. After tests that passed, the process is checked
// for leaks as by [LeakCheck].
//
// If no namespaces can be made, the tests run where they are. Those that call [Require]
// and all examples are skipped with the reason; with NFTNAT_TEST_NETNS=require in the
// environment they fail.
func Main(m *testing.M) int {
	leaveMake()
	if os.Getenv(envSkip) != "" {
		return run(m) // started by a test, without namespaces
	}
	if left := os.Getenv(envInside); left != "" {
		if left == netnsID() {
			return complain("in the environment is %s, but this is still the namespace that was to be left", envInside)
		}
		if err := setUp(); err != nil {
			return without(m, fmt.Errorf("set up namespace: %w", err))
		}
		return run(m)
	}
	code, err := reexec()
	if err != nil {
		return without(m, err)
	}
	return code
}

// run runs the tests in this process, and checks it for leaks.
func run(m *testing.M) int {
	before := snapshot()
	code := m.Run()
	if code != 0 {
		return code
	}
	if err := before.wait(Stretch(leakTimeout)); err != nil {
		return complain("after all tests: %v", err)
	}
	return 0
}

// without runs the tests without namespaces.
func without(m *testing.M, reason error) int {
	if required() {
		return complain("%v", reason)
	}
	if err := os.Setenv(envSkip, reason.Error()); err != nil {
		return complain("%v", err)
	}
	if err := skipExamples(); err != nil {
		return complain("%v", err)
	}
	return run(m)
}

func complain(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "labtest: "+format+"\n", args...)
	return 1
}

// netnsID names the network namespace of the process: "net:[4026531840]".
func netnsID() string {
	id, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return "unknown: " + err.Error()
	}
	return id
}

// reexec runs this program again in new namespaces and returns its exit status.
func reexec() (int, error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	// The child is killed when this thread ends, not this process (prctl(2),
	// PR_SET_PDEATHSIG), so the thread has to be kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	root := os.Geteuid() == 0
	cmd := command(exe, !root)
	err = cmd.Start()
	if root && errors.Is(err, fs.ErrPermission) {
		// Root of a container or of a user namespace.
		cmd = command(exe, true)
		err = cmd.Start()
	}
	if err != nil {
		return 0, fmt.Errorf("start in new namespaces: %w", err)
	}

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	passed := make(chan struct{})
	go passOn(signals, cmd.Process, passed)
	err = cmd.Wait()
	signal.Stop(signals)
	close(signals)
	<-passed
	return status(cmd.ProcessState, err)
}

// command prepares to run this program again, with the same standard streams.
func command(exe string, user bool) *exec.Cmd {
	cmd := exec.Command(exe)
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), envInside+"="+netnsID())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	if user {
		// Without privilege, a user can map only himself (user_namespaces(7)).
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// passOn passes signals on to the child until the channel is closed.
func passOn(signals <-chan os.Signal, child *os.Process, done chan<- struct{}) {
	defer close(done)
	for s := range signals {
		// If the child has ended, Wait is about to return.
		_ = child.Signal(s)
	}
}

// status returns the exit status of the child as a shell does: 128 and the number of the
// signal if a signal ended it.
func status(ps *os.ProcessState, err error) (int, error) {
	if ps == nil {
		return 0, err
	}
	if ws, ok := ps.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		complain("the tests were ended by a signal: %v", ws.Signal())
		return 128 + int(ws.Signal()), nil
	}
	return ps.ExitCode(), nil
}

// required reports whether a skip counts as a failure.
func required() bool { return strings.EqualFold(os.Getenv(envRequire), "require") }

// leaveMake removes the variables of a make(1) that runs the tests: a make that a test
// runs would, among other things, print the directories that it enters.
func leaveMake() {
	for _, name := range []string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL"} {
		_ = os.Unsetenv(name)
	}
}
