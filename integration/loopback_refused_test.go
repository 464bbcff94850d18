// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// childRefused runs a program to which bpf(2) is refused, as the filters of container managers do.
func childRefused(args []string) error {
	const loadWord, jumpIs, end = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: loadWord, K: 0}, // the number of the call
		{Code: jumpIs, K: unix.SYS_BPF, Jf: 1},
		{Code: end, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: end, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if e != 0 {
		return fmt.Errorf("set a filter of system calls: %w", e)
	}
	return unix.Exec(args[0], args, os.Environ())
}

// Where a filter of system calls refuses bpf(2), the daemon serves localhost by proxies, and the status says why in one line. A limit of
// locked memory (LimitMEMLOCK=) does not matter.
func TestLoopbackRefused(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	for name, c := range map[string]struct {
		wrap func(cmd *exec.Cmd) *exec.Cmd
		by   api.LoopbackWay
		says string
	}{
		"seccomp": {func(cmd *exec.Cmd) *exec.Cmd { return child(t, "refused", "", cmd.Args...) }, api.LoopbackProxy, `: operation not permitted$`},
		"locked memory": {func(cmd *exec.Cmd) *exec.Cmd {
			return command(t, "prlimit", append([]string{"--memlock=4096:4096"}, cmd.Args...)...)
		}, api.LoopbackBPF, `^$`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestbed(t, top.Host)
			s.loopback = "auto"
			wrapped := func(args ...string) *exec.Cmd {
				cmd := s.command(t, args...)
				w := c.wrap(cmd)
				if w.Env == nil {
					w.Env = os.Environ()
				}
				return w
			}
			p := labtest.StartCmd(t, top.Host, wrapped("serve", "--loopback", "auto"))
			await(t, "the daemon to answer", func() bool {
				_, err := s.api.Status(t.Context())
				return err == nil
			})
			s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
			s.succeed(t, "add --quiet tcp 10000-10999 172.30.0.2")
			labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "backend")
			labtest.Reaches(t, top.Host, "tcp", "[::1]:8080", "backend")
			l := s.status(t).Loopback
			require.Equal(t, c.by, l.By)
			require.Regexp(t, c.says, l.Reason)
			require.NotContains(t, l.Reason, "MEMLOCK")
			require.Empty(t, s.status(t).Warnings)
			if c.by == api.LoopbackProxy {
				require.Regexp(t, `(?m)^localhost +by proxies, and not by eBPF: .*: operation not permitted$`, s.succeed(t, "status"))
				r := labtest.Run(t, top.Host, wrapped("--table", "other", "serve", "--loopback", "bpf"))
				require.Equal(t, 5, r.Code, r.Stderr)
				require.Regexp(t, `^nftnat: serve localhost by eBPF: [^\n]*not permitted \(run it as root, or give it CAP_BPF[^\n]*\n$`, r.Stderr)
			}
			s.succeed(t, "purge")
			require.Zero(t, p.Wait(), p.Output())
		})
	}
}

// In a user namespace, as of a container without root, the daemon serves localhost by proxies, and the status says why.
func TestLoopbackUserNamespace(t *testing.T) {
	requireUsers(t)
	backend := labtest.NewNS(t, "backend")
	labtest.EchoHTTP(t, backend, "page", ":80")
	nowhere := labtest.NewNS(t, "nowhere")
	s := newTestbed(t, nowhere)
	owner := labtest.StartCmd(t, nowhere, command(t, "unshare", "--user", "--map-root-user", "--net", "--cgroup", "sleep", "infinity"))
	link := func(name string) string {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", owner.Pid, name))
		return to
	}
	own, err := os.Readlink("/proc/self/ns/user")
	require.NoError(t, err)
	await(t, "the namespaces", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", owner.Pid))
		return link("user") != own && strings.TrimSpace(string(comm)) == "sleep"
	})
	inside := func(args ...string) *exec.Cmd {
		return command(t, "nsenter", slices.Concat([]string{fmt.Sprintf("--target=%d", owner.Pid), "--user", "--preserve-credentials", "--net", "--cgroup", "--"}, args)...)
	}
	do := func(args ...string) string {
		r := labtest.Run(t, nowhere, inside(args...))
		require.Zero(t, r.Code, "%v: %s", args, r.Stderr)
		return r.Stdout
	}
	labtest.Exec(t, backend, "ip", "link", "add", "b0", "type", "veth", "peer", "name", "h0", "netns", fmt.Sprint(owner.Pid))
	labtest.Exec(t, backend, "ip", "address", "add", "172.30.0.2/24", "dev", "b0")
	labtest.Exec(t, backend, "ip", "link", "set", "b0", "up")
	do("ip", "address", "add", "172.30.0.1/24", "dev", "h0")
	do("ip", "link", "set", "h0", "up")
	do("ip", "link", "set", "lo", "up")
	p := labtest.StartCmd(t, nowhere, inside(s.command(t, "serve", "--loopback", "auto").Args...))
	await(t, "the daemon to answer", func() bool {
		_, err := s.api.Status(t.Context())
		return err == nil
	})
	do(s.command(t, "add", "--quiet", "tcp", "8080", "172.30.0.2:80").Args...)
	require.Contains(t, do("curl", "-s", "--max-time", "5", "http://127.0.0.1:8080/"), "page")
	require.Regexp(t, `(?m)^localhost +by proxies, and not by eBPF: [^\n]*not permitted[^\n]*$`, do(s.command(t, "status").Args...))
	require.NotContains(t, s.status(t).Loopback.Reason, "MEMLOCK")
	require.NoError(t, p.Signal(unix.SIGTERM))
	require.Zero(t, p.Wait(), p.Output())
	require.NoError(t, owner.Signal(unix.SIGKILL))
	owner.Wait()
}
