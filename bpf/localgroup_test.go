// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// childGroup makes a control group below the root.
func childGroup(t *testing.T) *os.File {
	t.Helper()
	root, err := RootGroup()
	require.NoError(t, err)
	name := fmt.Sprintf("nftnat-test-%d", os.Getpid())
	require.NoError(t, unix.Mkdirat(int(root.Fd()), name, 0o755))
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return unix.Unlinkat(int(root.Fd()), name, unix.AT_REMOVEDIR) == nil }, 5*time.Second, 10*time.Millisecond)
		require.NoError(t, root.Close())
	})
	fd, err := unix.Openat(int(root.Fd()), name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	group := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { require.NoError(t, group.Close()) })
	return group
}

// ask runs curl in a namespace, as a process with attributes, and returns what it got from port 8888 of localhost.
func ask(t *testing.T, ns *lab.NS, attributes syscall.SysProcAttr) string {
	t.Helper()
	cmd := exec.Command(labtest.Tool(t, "curl"), "-s", "--max-time", "5", "http://127.0.0.1:8888/")
	cmd.SysProcAttr = &attributes
	return labtest.Run(t, ns, cmd).Stdout
}

// TestLocalProcesses: in control groups below, in user namespaces, and in other network namespaces.
func TestLocalProcesses(t *testing.T) {
	top, l, ok := localhost(t)
	if !ok {
		return
	}
	labtest.EchoHTTP(t, top.Backend1, "page", ":88")
	require.NoError(t, l.Put(entry(TCP, "0.0.0.0:8888", "172.30.0.2:88")))
	group := childGroup(t)
	for what, attributes := range map[string]syscall.SysProcAttr{
		"plain":          {},
		"group":          {UseCgroupFD: true, CgroupFD: int(group.Fd())},
		"user namespace": {Cloneflags: syscall.CLONE_NEWUSER},
	} {
		require.Contains(t, ask(t, top.Host, attributes), "page", what)
	}
	labtest.EchoHTTP(t, top.Backend2, "other", ":8888")
	for _, attributes := range []syscall.SysProcAttr{{}, {UseCgroupFD: true, CgroupFD: int(group.Fd())}} {
		require.Contains(t, ask(t, top.Backend2, attributes), "other")
		require.Empty(t, ask(t, top.Backend1, attributes))
		require.Empty(t, ask(t, top.Host, syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}))
	}
}

// answering is a program of connect4 that leaves the address as it is.
func answering(t *testing.T, answer int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, answer), asm.Return()},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// TestLocalBesideOthers: programs of others run before and after, in the same group and below.
func TestLocalBesideOthers(t *testing.T) {
	labtest.LeakCheck(t)
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	if l, ok := openLocal(t, top.Host); !ok {
		return
	} else {
		require.NoError(t, l.Close())
		*l = Local{}
	}
	labtest.EchoHTTP(t, top.Backend1, "page", ":88")
	group := childGroup(t)
	child := syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	attach := func(p *ebpf.Program) link.Link {
		l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(group.Fd()), Program: p, Attach: ebpf.AttachCGroupInet4Connect})
		require.NoError(t, err)
		return l
	}
	opts := LocalOptions{Group: int(group.Fd()), NetNS: cookieOf(t, top.Host)}
	for _, before := range []bool{true, false} {
		var other link.Link
		if before {
			other = attach(answering(t, 1))
		}
		l, err := OpenLocal(opts)
		require.NoError(t, err)
		require.NoError(t, l.Put(entry(TCP, "0.0.0.0:8888", "172.30.0.2:88")))
		if !before {
			other = attach(answering(t, 1))
		}
		require.Contains(t, ask(t, top.Host, child), "page")
		require.Empty(t, ask(t, top.Host, syscall.SysProcAttr{})) // in the group above
		require.NoError(t, other.Update(answering(t, 0)))
		require.Empty(t, ask(t, top.Host, child)) // refused
		require.NoError(t, other.Close())
		require.Contains(t, ask(t, top.Host, child), "page")
		require.NoError(t, l.Close())
		require.Empty(t, ask(t, top.Host, child))
	}

	// One that was attached the old way, and admits none beside it.
	p := answering(t, 1)
	legacy := link.RawAttachProgramOptions{Target: int(group.Fd()), Program: p, Attach: ebpf.AttachCGroupInet4Connect}
	require.NoError(t, link.RawAttachProgram(legacy))
	_, err := OpenLocal(opts)
	require.ErrorIs(t, err, ErrGroupTaken)
	require.NotErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "connect4")
	require.NoError(t, link.RawDetachProgram(link.RawDetachProgramOptions{Target: legacy.Target, Program: p, Attach: legacy.Attach}))
	l, err := OpenLocal(opts)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// TestLocalWithoutPrivilege: the maps are changed with none, and what needs it says so.
func TestLocalWithoutPrivilege(t *testing.T) {
	_, l, ok := localhost(t)
	if !ok {
		return
	}
	group, err := RootGroup()
	require.NoError(t, err)
	defer func() { require.NoError(t, group.Close()) }()
	opts := LocalOptions{Group: int(group.Fd()), NetNS: 1}
	require.NoError(t, holding(0, func() error {
		_, openErr := OpenLocal(opts)
		if !errors.Is(openErr, fs.ErrPermission) || errors.Is(openErr, ErrGroupTaken) {
			return fmt.Errorf("open: %w", openErr)
		}
		return errors.Join(
			l.Put(entry(TCP, "0.0.0.0:7000", "172.30.0.2:80")),
			l.Change([]LocalEntry{ranged(TCP, "0.0.0.0:1000", 1999, "172.30.0.3:1000")}, []LocalEntry{ranged(TCP, "0.0.0.0:3000", 3999, "172.30.0.3:3000")}),
			l.Delete(entry(TCP, "0.0.0.0:7000", "172.30.0.2:80")),
			l.Replace([]LocalEntry{entry(UDP, "0.0.0.0:7000", "172.30.0.2:80")}),
		)
	}))
	all, err := l.All()
	require.NoError(t, err)
	require.Equal(t, []LocalEntry{entry(UDP, "0.0.0.0:7000", "172.30.0.2:80")}, all)

	// With few, the programs do less.
	require.NoError(t, holding(1<<unix.CAP_BPF|1<<unix.CAP_NET_ADMIN, func() error {
		l, err := OpenLocal(opts)
		if errors.Is(err, fs.ErrPermission) {
			t.Log(err) // Linux 6.1
			return nil
		}
		if err != nil {
			return err
		}
		if len(l.Limits()) != 2 {
			return fmt.Errorf("limits: %q", l.Limits())
		}
		return l.Close()
	}))
	require.NoError(t, holding(1<<unix.CAP_BPF|1<<unix.CAP_NET_ADMIN|1<<unix.CAP_PERFMON, func() error {
		l, err := OpenLocal(opts)
		if err != nil {
			return err
		}
		if len(l.Limits()) != 0 {
			return fmt.Errorf("limits: %q", l.Limits())
		}
		return l.Close()
	}))
}

// holding calls a function on a thread that has only these capabilities.
func holding(capabilities uint64, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread goes with its privileges
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		few := [2]unix.CapUserData{}
		for i := range few {
			few[i].Effective = uint32(capabilities >> (32 * i))
			few[i].Permitted = few[i].Effective
		}
		if err := unix.Capset(&header, &few[0]); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// TestLocalHand: another takes the programs over, and no connection goes elsewhere meanwhile.
func TestLocalHand(t *testing.T) {
	top, l, ok := localhost(t)
	if !ok {
		return
	}
	old := tcp4(t, top.Host).connect("127.0.0.1:8080")
	var stop atomic.Bool
	wrong := make(chan string, 1)
	asked := 0
	go func() {
		defer close(wrong)
		for !stop.Load() {
			name, _, err := lab.Ask(t.Context(), top.Host, "udp", "127.0.0.1:8080", netip.AddrPort{})
			if name != "web" {
				wrong <- fmt.Sprint(name, err)
				return
			}
			asked++
		}
	}()
	group, err := RootGroup()
	require.NoError(t, err)
	defer func() { require.NoError(t, group.Close()) }()
	opts := LocalOptions{Group: int(group.Fd()), NetNS: cookieOf(t, top.Host)}
	for range 5 {
		handed, err := l.Hand()
		require.NoError(t, err)
		next, err := TakeLocal(opts, handed)
		require.NoError(t, err)
		require.NoError(t, handed.Close())
		require.NoError(t, l.Close())
		*l = *next
	}
	// Another version opens its own, and then the first goes.
	handed, err := l.Hand()
	require.NoError(t, err)
	handed.Version++
	_, err = TakeLocal(opts, handed)
	require.ErrorIs(t, err, ErrVersion)
	require.NoError(t, handed.Close())
	next, err := OpenLocal(opts)
	require.NoError(t, err)
	all, err := l.All()
	require.NoError(t, err)
	require.NoError(t, next.Replace(all))
	require.Equal(t, "127.0.0.1:8080", old.peer())
	require.NoError(t, l.Close())
	*l = *next
	stop.Store(true)
	require.Empty(t, <-wrong)
	require.Positive(t, asked)
	got, err := l.All()
	require.NoError(t, err)
	require.Equal(t, all, got)
}
