// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package boottest

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// bootTimeout bounds how long a machine takes to boot, and to shut down.
const bootTimeout = time.Minute

//go:embed init.sh
var initScript string

// Machine is a machine that runs. Its methods are for the goroutine of the test.
type Machine struct {
	// NS is the network namespace it runs in.
	NS *lab.NS
	// Pid is its process 1, as the test's PID namespace numbers it.
	Pid int

	tb   testing.TB
	root *os.Root
	init *labtest.Process
}

// Boot boots a machine in ns and waits until it is up, with failed units or
// without. files are copied into it before, from a path of the test (the value) to
// one in the machine (the key); see [Machine.Copy]. The machine ends with the test.
func Boot(tb testing.TB, ns *lab.NS, files map[string]string) *Machine {
	tb.Helper()
	systemd := requireSystemd(tb)
	m := &Machine{NS: ns, tb: tb}
	dir := tb.TempDir()
	m.mountRoot(dir)
	m.resetFiles()
	for to, from := range files {
		m.Copy(from, to)
	}
	script := filepath.Join(dir, "init.sh")
	if err := os.WriteFile(script, []byte(initScript), 0o600); err != nil {
		tb.Fatal(err)
	}
	group := newGroup(tb, dir)
	defer func() { _ = group.Close() }() // the machine is in it by then
	// In the new control group, or the namespace would have the test's for its root.
	cmd := exec.Command(labtest.Tool(tb, "unshare"), "--cgroup", "--", "sh", "-eu", script, m.root.Name(), systemd)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UseCgroupFD: true,
		CgroupFD:    int(group.Fd()),
	}
	m.init = labtest.StartCmd(tb, ns, cmd)
	m.Pid = m.init.Pid
	tb.Cleanup(m.logJournal)
	m.awaitBoot()
	return m
}

// Require skips the test where no machine can be booted, with the reason, or fails it
// with NFTNAT_TEST_NETNS=require; without NFTNAT_TEST_LONG=1 it skips it anyway. [Boot]
// calls it; it is for tests that prepare something costly first.
func Require(tb testing.TB) {
	tb.Helper()
	requireSystemd(tb)
}

// requireSystemd is Require, and returns the path of systemd's program.
func requireSystemd(tb testing.TB) string {
	tb.Helper()
	labtest.LongOnly(tb, "a machine with the real systemd, which takes seconds to boot")
	labtest.Require(tb)
	for _, tool := range []string{"unshare", "nsenter", "pivot_root", "setpriv", "systemctl", "journalctl"} {
		labtest.Tool(tb, tool)
	}
	// In a user namespace of the tests' own there is one user alone.
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		tb.Fatal(err)
	}
	if f := strings.Fields(string(users)); os.Geteuid() != 0 || len(f) < 3 || len(f[2]) < len("65536") {
		labtest.Skip(tb, "to boot a machine needs root and its users: run the tests as root")
	}
	for _, path := range []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	labtest.Skip(tb, "to boot a machine needs systemd: install Debian's package systemd")
	return ""
}

// mountRoot mounts the machine's files, for this process and the machine alone.
func (m *Machine) mountRoot(dir string) {
	m.tb.Helper()
	m.mount("tmpfs", dir, "mode=0755")
	var paths [3]string
	for i, name := range []string{"upper", "work", "root"} {
		paths[i] = filepath.Join(dir, name)
		if err := os.Mkdir(paths[i], 0o755); err != nil {
			m.tb.Fatal(err)
		}
	}
	m.mount("overlay", paths[2], "lowerdir=/,upperdir="+paths[0]+",workdir="+paths[1])
	root, err := os.OpenRoot(paths[2])
	if err != nil {
		m.tb.Fatal(err)
	}
	m.root = root
	m.tb.Cleanup(func() {
		if err := root.Close(); err != nil {
			m.tb.Error(err)
		}
	})
}

// mount mounts a file system of that name until the test ends.
func (m *Machine) mount(name, dir, options string) {
	m.tb.Helper()
	if err := unix.Mount(name, dir, name, 0, options); err != nil {
		labtest.Skip(m.tb, fmt.Sprintf("to boot a machine needs to mount %s: %v", name, err))
	}
	m.tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			m.tb.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// masked are units of the systemd package that would reach for the host's kernel or
// devices, or that need some that the machine does not have.
var masked = []string{
	"dev-hugepages.mount", "dev-mqueue.mount", "getty.target", "kmod-static-nodes.service",
	"proc-sys-fs-binfmt_misc.automount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
	"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-binfmt.service", "systemd-firstboot.service",
	"systemd-logind.service", "systemd-modules-load.service", "systemd-random-seed.service", "systemd-repart.service",
	"systemd-sysctl.service", "systemd-udevd.service", "systemd-udev-trigger.service",
	"systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
}

// resetFiles makes the files of the host those of a machine that has just been installed.
func (m *Machine) resetFiles() {
	m.tb.Helper()
	const units = "etc/systemd/system"
	var errs []error
	for _, path := range []string{
		units,
		"var/log/journal",      // or it would be written to, with the host's
		"usr/sbin/policy-rc.d", // by which an image keeps packages from starting services
		"etc/machine-id",       // a new one is made
		"var/lib/dbus/machine-id",
	} {
		errs = append(errs, m.root.RemoveAll(path))
	}
	errs = append(errs, m.root.MkdirAll(units, 0o755))
	for _, unit := range masked {
		errs = append(errs, m.root.Symlink("/dev/null", filepath.Join(units, unit)))
	}
	if err := errors.Join(errs...); err != nil {
		m.tb.Fatal(err)
	}
	m.Write("/etc/fstab", "", 0o644)
	m.Write("/etc/hostname", "machine\n", 0o644)
	m.Write("/etc/machine-id", "", 0o444)
}

// awaitBoot waits until the machine is up.
func (m *Machine) awaitBoot() {
	m.tb.Helper()
	deadline := time.Now().Add(labtest.Stretch(bootTimeout))
	for {
		select {
		case <-m.init.Done():
			labtest.Skip(m.tb, "the machine does not boot here: "+m.init.Output())
		case <-time.After(50 * time.Millisecond):
		}
		state := m.Run("systemctl", "is-system-running")
		if s := strings.TrimSpace(state.Stdout); s == "running" || s == "degraded" {
			return
		}
		if time.Now().After(deadline) {
			m.tb.Fatalf("the machine has not booted in %s: %s%s", labtest.Stretch(bootTimeout), state.Stdout, state.Stderr)
		}
	}
}

// logJournal logs the machine's journal if the test has failed.
func (m *Machine) logJournal() {
	select {
	case <-m.init.Done():
	default:
		if m.tb.Failed() {
			m.tb.Logf("journal of the machine:\n%s", m.Run("journalctl", "--no-pager", "--boot").Stdout)
		}
	}
}

// Command returns a command that runs in the machine as root, with the environment
// of a service. The program is looked for in the machine. It is for [labtest.Run]
// and [labtest.StartCmd] with the machine's NS, so that the caller can set its
// standard input or run it while the test goes on.
func (m *Machine) Command(name string, args ...string) *exec.Cmd {
	m.tb.Helper()
	cmd := exec.Command(labtest.Tool(m.tb, "nsenter"), append([]string{
		"--target", strconv.Itoa(m.Pid), "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--", name,
	}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"}
	return cmd
}

// Run runs a command in the machine as root, and returns how it ended.
func (m *Machine) Run(name string, args ...string) labtest.Result {
	m.tb.Helper()
	return labtest.Run(m.tb, m.NS, m.Command(name, args...))
}

// Exec runs a command in the machine as root and returns its standard output. The
// test fails unless the exit status is 0.
func (m *Machine) Exec(name string, args ...string) string {
	m.tb.Helper()
	r := m.Run(name, args...)
	if r.Code != 0 {
		m.tb.Fatalf("%s %s: exit status %d\n%s%s", name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// As runs a command in the machine as a user of it, with his groups and without
// capabilities.
func (m *Machine) As(user, name string, args ...string) labtest.Result {
	m.tb.Helper()
	gid := strings.TrimSpace(m.Exec("id", "-g", user))
	return m.Run("setpriv", append([]string{"--reuid", user, "--regid", gid, "--init-groups", "--inh-caps=-all", "--", name}, args...)...)
}

// Journal returns what the units have written to the journal since the boot, without
// times and names.
func (m *Machine) Journal(units ...string) string {
	m.tb.Helper()
	args := []string{"--no-pager", "--boot", "--output=cat"}
	for _, unit := range units {
		args = append(args, "--unit="+unit)
	}
	m.Exec("journalctl", "--sync")
	return m.Exec("journalctl", args...)
}

// Property returns a property of a unit as "systemctl show" prints it.
func (m *Machine) Property(unit, name string) string {
	m.tb.Helper()
	return strings.TrimSpace(m.Exec("systemctl", "show", "--value", "--property="+name, unit))
}

// Copy copies a file of the test's into the machine, with its mode, root's.
func (m *Machine) Copy(from, to string) {
	m.tb.Helper()
	info, err := os.Stat(from)
	if err != nil {
		m.tb.Fatal(err)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		m.tb.Fatal(err)
	}
	m.Write(to, string(content), info.Mode().Perm())
}

// Write writes a file of the machine, which takes the place of what was there, and
// makes the directories above it. The path is absolute; /dev, /proc, /run, /sys and
// /tmp are file systems that only a command in the machine can write to.
func (m *Machine) Write(path, content string, mode os.FileMode) {
	m.tb.Helper()
	path = strings.TrimPrefix(path, "/")
	err := m.root.MkdirAll(filepath.Dir(path), 0o755)
	if removeErr := m.root.Remove(path); err == nil && !errors.Is(removeErr, os.ErrNotExist) {
		err = removeErr // a program that runs cannot be written to, and a file keeps its mode
	}
	if err == nil {
		err = m.root.WriteFile(path, []byte(content), mode)
	}
	if err == nil {
		err = m.root.Chmod(path, mode) // whatever the umask
	}
	if err != nil {
		m.tb.Fatalf("write %s in the machine: %v", path, err)
	}
}

// Shutdown shuts the machine down, as its administrator would, and waits until it has
// ended: all units are stopped. Without it the machine is killed when the test ends.
func (m *Machine) Shutdown() {
	m.tb.Helper()
	// By then its bus may be gone; that it ends is what counts.
	r := m.Run("systemctl", "--no-block", "poweroff")
	select {
	case <-m.init.Done():
	case <-time.After(labtest.Stretch(bootTimeout)):
		m.tb.Fatalf("the machine has not shut down: %s%s", r.Stdout, r.Stderr)
	}
}
