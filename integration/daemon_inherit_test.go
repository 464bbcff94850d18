// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// burden is a shell script that runs its arguments with everything that a process can
// inherit: ignored and blocked signals, a umask, low limits, low priorities, one processor, a
// directory and a descriptor.
const burden = `
trap '' HUP INT TERM
cd "$1"; shift
exec 9>lock
flock 9
umask 0777
ulimit -S -t 600 -f 100000
exec choom -n 300 -- nice -n 7 ionice -c 3 taskset -c 0 env --block-signal=TERM,USR1 "$@"
`

// burdened prepares a command line that burden runs in a directory.
func (s *testbed) burdened(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	for _, tool := range []string{"flock", "choom", "nice", "ionice", "taskset", "env"} {
		labtest.Tool(t, tool)
	}
	cmd := s.command(t, args...)
	heavy := command(t, "sh", append([]string{"-c", burden, "sh", dir}, cmd.Args...)...)
	heavy.Env = append(os.Environ(), "JUNK=1", "HOME=/nowhere", "LISTEN_FDS=1", "GOTRACEBACK=single")
	return heavy
}

// requireUnburdened checks that a daemon in the background has inherited nothing.
func requireUnburdened(t *testing.T, pid int) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	link := func(name string) string {
		target, err := os.Readlink(proc + name)
		require.NoError(t, err)
		return target
	}
	read := func(name string) string {
		text, err := os.ReadFile(proc + name)
		require.NoError(t, err)
		return string(text)
	}
	require.Equal(t, "/", link("cwd"))
	require.Equal(t, "/dev/null", link("fd/0"))
	require.Contains(t, link("fd/1"), "/") // and not a pipe of the caller's
	require.Contains(t, link("fd/2"), "nftnat.log")
	// The Go runtime opens files of /sys/fs/cgroup for the number of processors.
	descriptors, err := os.ReadDir(proc + "fd")
	require.NoError(t, err)
	for _, d := range descriptors {
		target, err := os.Readlink(proc + "fd/" + d.Name())
		if err == nil { // otherwise it has just been closed
			require.Regexp(t, `^(/sys/fs/cgroup/(.*/)?cpu\.[a-z_]+|/dev/null|/sys/module|/.*\.log|socket:.*|pipe:.*|anon_inode:.*|/proc/sys/net|/proc/\d+|/proc/\d+/task/\d+/net/(ip|ip6|arp)_tables_names|/run/[^/]+|/run/testbed-\d+/run)$`, target)
		}
	}
	require.NotRegexp(t, `(^|\x00)(JUNK|HOME|PATH|LISTEN_FDS|NOTIFY_SOCKET)=`, read("environ"))
	require.Contains(t, read("environ"), "GOTRACEBACK=single\x00")
	// The first thread may be the one that waits for signals, so look at the newest.
	tasks, err := filepath.Glob(proc + "task/*/status")
	require.NoError(t, err)
	status, err := os.ReadFile(tasks[len(tasks)-1])
	require.NoError(t, err)
	require.Contains(t, string(status), "\nSigBlk:\t0000000000000000\n")
	// The C library's signals 32 and 33 are ignored in processes that make has started
	// (findings/make-children-ignore-signal-32.sh). The Go runtime leaves them alone.
	ignored := regexp.MustCompile(`\nSigIgn:\t([0-9a-f]{16})\n`).FindStringSubmatch(string(status))
	require.NotNil(t, ignored)
	signals, err := strconv.ParseUint(ignored[1], 16, 64)
	require.NoError(t, err)
	require.Equal(t, uint64(1<<(unix.SIGHUP-1)|1<<(unix.SIGPIPE-1)), signals&^(1<<31|1<<32))
	cpus := regexp.MustCompile(`\nCpus_allowed_list:\t(.*)\n`)
	mine, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	require.Equal(t, cpus.FindStringSubmatch(string(mine))[1], cpus.FindStringSubmatch(string(status))[1])
	for _, task := range tasks {
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(task), "stat"))
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		require.Equal(t, "0", strings.Fields(rest)[16], "nice")
		require.Equal(t, "0", strings.Fields(rest)[4], "terminal")
	}
	class, err := command(t, "ionice", "-p", fmt.Sprint(pid)).Output()
	require.NoError(t, err)
	require.Equal(t, "none: prio 0\n", string(class))
	require.Equal(t, "0\n", read("oom_score_adj"))
	require.Regexp(t, `Max cpu time +unlimited`, read("limits"))
	require.Regexp(t, `Max file size +unlimited`, read("limits"))
}

// The daemon that a command starts, and that of serve --detach, inherit nothing from the
// caller, and end on SIGTERM as usual.
func TestDaemonInheritsNothing(t *testing.T) {
	for name, line := range map[string]string{
		"started by a command": "add tcp 8080 172.30.0.2:80", "serve --detach": "serve --detach", "takeover": "serve --takeover --detach",
	} {
		t.Run(name, func(t *testing.T) {
			requireUsers(t) // otherwise the priority cannot be set back
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
			s := newTestbed(t, top.Host)
			s.in(t)
			dir := t.TempDir()
			r := labtest.Run(t, top.Host, s.burdened(t, dir, strings.Fields(line)...))
			require.Zero(t, r.Code, r.Stderr)
			pid := s.daemon(t)
			requireUnburdened(t, pid)
			for _, path := range []string{s.socket + ".lock", strings.TrimSuffix(s.socket, ".sock") + ".log", filepath.Dir(s.socket)} {
				info, err := os.Stat(path)
				if os.IsNotExist(err) {
					require.Contains(t, line, "--detach", "commands take turns by a lock")
					continue
				}
				require.NoError(t, err)
				require.Contains(t, []string{"-rw-------", "-rw-r-----", "drwxr-x---"}, info.Mode().String(), path)
			}
			// The descriptor was the only one, so the lock is free.
			require.NoError(t, exec.Command(labtest.Tool(t, "flock"), "-n", filepath.Join(dir, "lock"), "true").Run())

			require.NoError(t, unix.Kill(pid, unix.SIGHUP))
			require.Equal(t, pid, s.status(t).PID)
			kill(t, pid, unix.SIGTERM)
			require.NoFileExists(t, s.socket)
		})
	}
}

// Paths on a command line are relative to the command's directory, not to the daemon's.
func TestDaemonRelativePaths(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	for _, line := range []string{"serve --detach --socket nftnat.sock --state state.yaml", "add tcp 8080 172.30.0.2:80 --socket nftnat.sock"} {
		cmd := bare(t, strings.Fields(line)...)
		cmd.Dir = filepath.Dir(s.socket)
		r := labtest.Run(t, top.Host, cmd)
		require.Zero(t, r.Code, r.Stderr)
		if strings.HasPrefix(line, "serve") {
			s.succeed(t, "add tcp 8081 172.30.0.2:80")
			require.Contains(t, filesIn(t, filepath.Dir(s.socket)), "state.yaml")
		}
		st := s.status(t)
		kill(t, st.PID, unix.SIGTERM)
	}
}

// A daemon in the background logs to the command's standard error only if that is a file or
// the journal: a reader of a pipe would wait for the daemon to end.
func TestDetachLog(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	log := filepath.Join(filepath.Dir(s.socket), "nftnat.log")
	r := s.run(t, "serve --detach") // standard error is a pipe
	require.Zero(t, r.Code, r.Stderr)
	require.Equal(t, "nftnat: the daemon's log is "+log+"\n", r.Stderr)
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Contains(t, string(text), "turned on forwarding")
	s.succeed(t, "purge")
	require.Empty(t, filesIn(t, filepath.Dir(s.socket)), "its log too")

	file, err := os.Create(filepath.Join(t.TempDir(), "errors"))
	require.NoError(t, err)
	defer file.Close()
	cmd := s.command(t, "serve", "--detach")
	cmd.Stderr = file
	require.Zero(t, labtest.Run(t, top.Host, cmd).Code)
	require.NoFileExists(t, log)
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/2", s.daemon(t)))
	require.NoError(t, err)
	require.Equal(t, file.Name(), target)
}

// A daemon leaves the control group of the command that starts it, which may be killed with
// a unit or a session. A successor that a service manager starts stays in its unit's.
func TestDaemonLeavesControlGroup(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	root := mountControlGroups(t)
	group := filepath.Join(root, "nftnat-test.service")
	require.NoError(t, os.Mkdir(group, 0o755))
	t.Cleanup(func() {
		endDaemons(t, filepath.Dir(s.socket))
		await(t, "the control group to be empty", func() bool { return os.Remove(group) == nil })
	})
	of := func(pid int) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		require.NoError(t, err)
		return regexp.MustCompile(`(?m)^0::(.*)$`).FindStringSubmatch(string(text))[1]
	}
	const move = `echo 0 > "$1/cgroup.procs" && shift && exec "$@"`
	run := func(notify bool, args ...string) {
		cmd := s.command(t, args...)
		inGroup := command(t, "sh", append([]string{"-c", move, "sh", group}, cmd.Args...)...)
		if notify {
			inGroup.Env = append(os.Environ(), "NOTIFY_SOCKET=/nowhere")
		}
		r := labtest.Run(t, top.Host, inGroup)
		require.Zero(t, r.Code, r.Stderr)
	}
	for _, args := range [][]string{{"add", "tcp", "8080", "172.30.0.2:80"}, {"serve", "--detach"}, {"serve", "--detach", "--takeover"}} {
		run(false, args...)
		pid := s.daemon(t)
		require.Equal(t, "/nftnat", of(pid))
		require.Empty(t, s.status(t).Warnings)
		// As a service manager does with a unit.
		require.NoError(t, os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0))
		require.Equal(t, pid, s.status(t).PID)
		s.succeed(t, "purge")
		require.NoDirExists(t, filepath.Join(root, "nftnat"))
	}
	run(true, "serve", "--takeover", "--detach")
	require.Equal(t, "/nftnat-test.service", of(s.daemon(t)))
	kill(t, s.daemon(t), unix.SIGTERM)

	// If it may not, it says so once, and serves.
	cmd := s.command(t, "add", "tcp", "8081", "172.30.0.2:80")
	bounded := append([]string{"--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"}, cmd.Args...)
	inGroup := command(t, "sh", append([]string{"-c", move, "sh", group, labtest.Tool(t, "setpriv")}, bounded...)...)
	r := labtest.Run(t, top.Host, inGroup)
	require.Zero(t, r.Code, r.Stderr)
	require.Equal(t, "/nftnat-test.service", of(s.daemon(t)))
	const said = "the daemon ends with the unit or session that started it: "
	warnings := s.status(t).Warnings
	require.Len(t, warnings, 1)
	require.Equal(t, said+"leave control group /nftnat-test.service: fsopen: operation not permitted", warnings[0])
	log, err := os.ReadFile(filepath.Join(filepath.Dir(s.socket), "nftnat.log"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(log), "ends with the unit or session"), string(log))
}

// mountControlGroups mounts control groups of version 2, because machines that have both
// versions mount them at different places.
func mountControlGroups(t *testing.T) string {
	t.Helper()
	requireUsers(t)
	own, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	if regexp.MustCompile(`(?m)^\d+:name=systemd:/.+$`).Match(own) {
		t.Skip("this process is in a control group of version 1, which is not left")
	}
	dir := t.TempDir()
	require.NoError(t, unix.Mount("nftnat-test", dir, "cgroup2", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}
