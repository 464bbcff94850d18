// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// field is a line of /proc/PID/status (proc(5)).
func field(t *testing.T, status, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(status, "\n"+name+":\t")
	require.True(t, ok, "no %s in %s", name, status)
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// set is a set of capabilities as /proc/PID/status has it.
func set(cs ...Capability) string {
	var bits uint64
	for _, c := range cs {
		bits |= 1 << c
	}
	return fmt.Sprintf("%016x", bits)
}

// landlock is the version that the kernel has; 0: none.
func landlock() int {
	version, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0
	}
	return int(version)
}

// forbidden are calls that nobody may make, with arguments as they could be.
func forbidden() map[string][]string {
	number := func(n int, args ...string) []string { return append([]string{"call", strconv.Itoa(n)}, args...) }
	return map[string][]string{
		"execve": number(unix.SYS_EXECVE), "execveat": number(unix.SYS_EXECVEAT), "fork": number(unix.SYS_CLONE),
		"ptrace": number(unix.SYS_PTRACE, "0x4206", "1"), "process_vm_readv": number(unix.SYS_PROCESS_VM_READV, "1"),
		"process_vm_writev": number(unix.SYS_PROCESS_VM_WRITEV, "1"), "pidfd_getfd": number(unix.SYS_PIDFD_GETFD),
		"kill": number(unix.SYS_KILL, "1"), "tgkill others": number(unix.SYS_TGKILL, "1", "1"), "tkill": number(unix.SYS_TKILL, "1"),
		"bpf map": number(unix.SYS_BPF), "bpf load": number(unix.SYS_BPF, strconv.Itoa(unix.BPF_PROG_LOAD)),
		"bpf attach": number(unix.SYS_BPF, strconv.Itoa(unix.BPF_PROG_ATTACH)), "perf_event_open": number(unix.SYS_PERF_EVENT_OPEN), "userfaultfd": number(unix.SYS_USERFAULTFD),
		"io_uring_setup": number(unix.SYS_IO_URING_SETUP), "keyctl": number(unix.SYS_KEYCTL), "add_key": number(unix.SYS_ADD_KEY),
		"mount": number(unix.SYS_MOUNT), "umount": number(unix.SYS_UMOUNT2), "pivot_root": number(unix.SYS_PIVOT_ROOT),
		"move_mount": number(unix.SYS_MOVE_MOUNT), "fsopen": number(unix.SYS_FSOPEN), "open_tree": number(unix.SYS_OPEN_TREE),
		"chroot": number(unix.SYS_CHROOT), "unshare": number(unix.SYS_UNSHARE, "0x40000000"), "setns": number(unix.SYS_SETNS, "0", "0x40000000"),
		"init_module": number(unix.SYS_INIT_MODULE), "finit_module": number(unix.SYS_FINIT_MODULE), "delete_module": number(unix.SYS_DELETE_MODULE),
		"kexec_load": number(unix.SYS_KEXEC_LOAD), "reboot": number(unix.SYS_REBOOT), "open_by_handle_at": number(unix.SYS_OPEN_BY_HANDLE_AT),
		"setuid": number(unix.SYS_SETUID), "setgroups": number(unix.SYS_SETGROUPS), "capset": number(unix.SYS_CAPSET),
		"prlimit": number(unix.SYS_PRLIMIT64, "1", "7"), "settimeofday": number(unix.SYS_SETTIMEOFDAY), "sethostname": number(unix.SYS_SETHOSTNAME),
		"swapon": number(unix.SYS_SWAPON), "acct": number(unix.SYS_ACCT), "syslog": number(unix.SYS_SYSLOG, "2"),
		"personality": number(unix.SYS_PERSONALITY, "0x0400000"), "seccomp": number(unix.SYS_SECCOMP, "1"),
		"prctl dumpable": number(unix.SYS_PRCTL, "4", "1"), "ioctl TIOCSTI": number(unix.SYS_IOCTL, "0", "0x5412"),
		"chmod": number(unix.SYS_FCHMODAT), "chown": number(unix.SYS_FCHOWNAT), "link": number(unix.SYS_LINKAT),
		"symlink": number(unix.SYS_SYMLINKAT), "mkdir": number(unix.SYS_MKDIRAT), "mknod": number(unix.SYS_MKNODAT),
		"memfd_create": number(unix.SYS_MEMFD_CREATE), "no such call": number(4095),
	}
}

// Whoever has the process has nothing but its own work: no program, no foreign file, no
// other process, no privilege, on any thread.
func TestApply(t *testing.T) {
	own, foreign := t.TempDir(), t.TempDir()
	for _, dir := range []string{own, foreign} {
		for _, name := range []string{"file", "gone"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("text"), 0o600))
		}
	}
	abstract, err := net.Listen("unix", "@confine-test-"+strconv.Itoa(os.Getpid()))
	require.NoError(t, err)
	defer func() { require.NoError(t, abstract.Close()) }()

	o := order{
		Options: Options{
			Capabilities: []Capability{NetBindService, NetAdmin},
			Files: []PathRule{
				{own, List | Write | Create | Remove | MakeSocket},
				{"/proc/self", Read | List},
				{"/proc/sys/net", Read | Write},
				{filepath.Join(foreign, "nothing"), Read},
			},
		},
		Operations: forbidden(),
	}
	want := map[string]string{}
	for name := range o.Operations {
		want[name] = "EPERM"
	}
	add := func(result, name string, args ...string) { o.Operations[name], want[name] = args, result }
	add("EPERM", "start")
	add("EPERM", "map executable")
	add("EPERM", "protect executable")
	add("ENOSYS", "clone3", "call", strconv.Itoa(unix.SYS_CLONE3))
	for name, family := range map[string]int{"packet": unix.AF_PACKET, "vsock": unix.AF_VSOCK, "alg": unix.AF_ALG, "xdp": unix.AF_XDP, "no such": 0} {
		add("EPERM", "socket "+name, "socket", strconv.Itoa(family))
	}
	// What it is there for.
	for name, family := range map[string]int{"unix": unix.AF_UNIX, "IPv4": unix.AF_INET, "IPv6": unix.AF_INET6} {
		add("ok", "socket "+name, "socket", strconv.Itoa(family))
	}
	add("ok", "bind low port")
	add("ok", "save", filepath.Join(own, "saved"))
	add("ok", "write own", "write", filepath.Join(own, "file"))
	add("ok", "list own", "list", own)
	add("ok", "make own socket", "make socket", filepath.Join(own, "socket"))
	add("ok", "remove own", "remove", filepath.Join(own, "gone"))
	add("ok", "read sysctl", "read", "/proc/sys/net/ipv4/ip_forward")
	add("ok", "write sysctl", "write", "/proc/sys/net/ipv4/ip_forward")
	add("ok", "read itself", "read", "/proc/self/stat")
	add("ok", "look into itself", "list", "/proc/self/fd")
	if landlock() > 0 {
		add("EACCES", "read foreign", "read", filepath.Join(foreign, "file"))
		add("EACCES", "read secret", "read", "/etc/passwd")
		add("EACCES", "read own", "read", filepath.Join(own, "file"))
		add("EACCES", "make foreign socket", "make socket", filepath.Join(foreign, "socket"))
		add("EACCES", "write foreign", "write", filepath.Join(foreign, "file"))
		add("EACCES", "create foreign", "create", filepath.Join(foreign, "new"))
		add("EACCES", "remove foreign", "remove", filepath.Join(foreign, "gone"))
		add("EACCES", "list foreign", "list", foreign)
		add("EACCES", "read by root", "read", "/proc/self/root"+filepath.Join(foreign, "file"))
		add("EACCES", "write other sysctl", "write", "/proc/sys/kernel/core_pattern")
		add("EACCES", "read others", "read", "/proc/1/environ")
		add("ok", "stat foreign", "stat", filepath.Join(foreign, "file"))
		add("EACCES", "look into", strconv.Itoa(os.Getpid()))
	}
	if landlock() >= 6 {
		add("EPERM", "connect abstract", abstract.Addr().String())
	}
	a := run(t, o, nil)

	require.Equal(t, want, a.Operations)
	require.Equal(t, landlock(), a.Landlock)
	if landlock() > 0 {
		require.Empty(t, a.Missing)
	}
	require.Equal(t, []string{"CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN"}, a.Capabilities)
	require.True(t, a.NoNewPrivileges)
	requireThreads(t, a, NetBindService, NetAdmin)
	text, err := os.ReadFile(filepath.Join(own, "saved"))
	require.NoError(t, err)
	require.Equal(t, "saved", string(text))
	require.FileExists(t, filepath.Join(foreign, "gone"))
}

// requireThreads looks at each thread of a child that is confined.
func requireThreads(t *testing.T, a answer, cs ...Capability) {
	t.Helper()
	require.Greater(t, len(a.Threads), threads)
	for _, th := range a.Threads {
		require.Equal(t, "1", field(t, th.Status, "NoNewPrivs"))
		require.Equal(t, "2", field(t, th.Status, "Seccomp"), "a filter (SECCOMP_MODE_FILTER)")
		for _, name := range []string{"CapEff", "CapPrm", "CapBnd"} {
			require.Equal(t, set(cs...), field(t, th.Status, name), name)
		}
		for _, name := range []string{"CapInh", "CapAmb"} {
			require.Equal(t, set(), field(t, th.Status, name), name)
		}
	}
}

// What the kernel has not is told, and the rest is in force.
func TestApplyOtherKernels(t *testing.T) {
	for name, c := range map[string]struct {
		failing map[int]unix.Errno
		missing string
		foreign string // what becomes of opening a foreign file
		exec    string // and of executing one
	}{
		"Landlock not built in": {map[int]unix.Errno{unix.SYS_LANDLOCK_CREATE_RULESET: unix.ENOSYS}, "restrict files: ", "ok", "EPERM"},
		"Landlock turned off":   {map[int]unix.Errno{unix.SYS_LANDLOCK_CREATE_RULESET: unix.EOPNOTSUPP}, "restrict files: ", "ok", "EPERM"},
		"no filters":            {map[int]unix.Errno{unix.SYS_SECCOMP: unix.EINVAL}, "restrict system calls: ", "EACCES", "EACCES"},
		"no bounding set":       {map[int]unix.Errno{unix.SYS_CAPSET: unix.EPERM}, "restrict capabilities: ", "EACCES", "EPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			if landlock() == 0 && !strings.HasPrefix(name, "Landlock") {
				c.foreign = "ok"
			}
			a := run(t, order{
				Before:     c.failing,
				Options:    Options{Capabilities: []Capability{NetAdmin}, Files: []PathRule{{"/proc/self", Read | List}}},
				Operations: map[string][]string{"open": {"read", "/etc/passwd"}, "start": nil},
			}, nil)
			require.Condition(t, func() bool {
				for _, m := range a.Missing {
					if strings.HasPrefix(m, c.missing) {
						return true
					}
				}
				return false
			}, "%q in %q", c.missing, a.Missing)
			require.Equal(t, c.foreign, a.Operations["open"])
			if landlock() > 0 || c.exec == "EPERM" {
				require.Equal(t, c.exec, a.Operations["start"])
			}
			require.True(t, a.NoNewPrivileges)
		})
	}
}

// Who has no privilege confines himself all the same.
func TestApplyWithoutPrivilege(t *testing.T) {
	ids, err := os.ReadFile("/proc/self/uid_map")
	require.NoError(t, err)
	if fields := strings.Fields(string(ids)); len(fields) < 3 || len(fields[2]) < 5 {
		t.Skip("there are no other users in this user namespace")
	}
	a := run(t, order{
		Options:    Options{Capabilities: []Capability{NetAdmin}, Files: []PathRule{{"/proc/self", Read | List}}},
		Operations: map[string][]string{"open": {"read", "/etc/passwd"}, "start": nil},
	}, func(cmd *exec.Cmd) {
		// Found by its descriptor: nobody can go where it is.
		file, err := os.Open(cmd.Path)
		require.NoError(t, err)
		t.Cleanup(func() { _ = file.Close() })
		cmd.ExtraFiles, cmd.Path = []*os.File{file}, "/proc/self/fd/3"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
	require.Empty(t, a.Capabilities)
	require.Equal(t, "EPERM", a.Operations["start"])
	require.True(t, a.NoNewPrivileges)
	if landlock() > 0 {
		require.Empty(t, a.Missing)
		require.Equal(t, "EACCES", a.Operations["open"])
	}
}

// A process that has entered a namespace is there with all of its threads, and needs no
// privilege for sockets in it.
func TestEnter(t *testing.T) {
	ns := labtest.NewNS(t, "other")
	var stat unix.Stat_t
	require.NoError(t, unix.Stat(ns.Path(), &stat))
	a := run(t, order{Enter: ns.Path(), Options: Options{Files: []PathRule{{"/proc/self", Read | List}}}}, nil)
	require.Greater(t, len(a.Threads), threads)
	for _, th := range a.Threads {
		require.Equal(t, fmt.Sprintf("net:[%d]", stat.Ino), th.NetNS)
	}
	require.ErrorIs(t, Enter(filepath.Join(t.TempDir(), "nothing")), os.ErrNotExist)
}

func TestAccessString(t *testing.T) {
	require.Equal(t, "read, write", (Read | Write).String())
	require.Empty(t, Access(0).String())
}
