// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// requireUsers skips where processes of other users cannot be had.
func requireUsers(t *testing.T) {
	t.Helper()
	labtest.Require(t)
	if os.Geteuid() != 0 || !inAllGroups() {
		t.Skip("needs root, not of a user namespace of one user, to start processes of other users")
	}
}

// childAsk asks for the mappings and says what came of it.
func childAsk(args []string) int {
	_, err := NewClient(args[0]).Mappings(context.Background())
	var p *Problem
	switch {
	case err == nil:
		fmt.Print("served")
	case errors.As(err, &p) && errors.Is(err, fs.ErrPermission):
		fmt.Printf("%d %s %s", p.Status, p.Code, p.Detail)
	case errors.Is(err, fs.ErrPermission):
		fmt.Print("not even connected")
	default:
		fmt.Print(err)
	}
	return 0
}

// childServe serves until its standard input ends.
func childServe(args []string) int {
	l, err := Listen(args[0], -1)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		cancel()
	}()
	fmt.Println("ready")
	if err := NewServer(Options{Engine: newFake()}).Serve(ctx, l); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// as makes a command of this test binary, which plays a part as another user. It is
// started by way of /proc, since other users cannot reach where it was built.
func as(user syscall.Credential, part, path string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", path)
	cmd.Env = append(os.Environ(), envChild+"="+part, quickExit)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &user}
	return cmd
}

// askAs asks as another user, and returns what he says came of it.
func askAs(t *testing.T, user syscall.Credential, path string) string {
	t.Helper()
	out, err := as(user, "ask", path).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func manyGroups(n int, and ...uint32) []uint32 {
	groups := []uint32{}
	for i := range n {
		groups = append(groups, 10000+uint32(i))
	}
	return append(groups, and...)
}

func TestPeers(t *testing.T) {
	requireUsers(t)
	const (
		group    = 4321
		served   = "served"
		refused  = "403 permission user 1000 may not use this socket: permission denied"
		excluded = "not even connected"
	)
	type credential = syscall.Credential
	tests := []struct {
		name string
		user credential
		// What comes of it with the modes that Listen gives, and when somebody has
		// opened socket and directory to everybody.
		closed, open string
	}{
		{"root", credential{}, served, served},
		{"root with another group", credential{Gid: 1000}, served, served},
		{"a stranger", credential{Uid: 1000, Gid: 1000}, excluded, refused},
		{"a stranger of root's group", credential{Uid: 1000, Gid: 0}, excluded, refused},
		{"the group is the primary one", credential{Uid: 1000, Gid: group}, served, served},
		{"the group is a supplementary one", credential{Uid: 1000, Gid: 1000, Groups: []uint32{5, group}}, served, served},
		{"other groups", credential{Uid: 1000, Gid: 1000, Groups: []uint32{group - 1, group + 1}}, excluded, refused},
		{"the last of very many groups", credential{Uid: 1000, Gid: 1000, Groups: manyGroups(1000, group)}, served, served},
		{"very many groups", credential{Uid: 1000, Gid: 1000, Groups: manyGroups(1000)}, excluded, refused},
	}
	path := filepath.Join(directory(t), "run", "s")
	labtest.LeakCheck(t)
	l, err := Listen(path, group)
	require.NoError(t, err)
	fake := newFake()
	s := startOn(t, l, Options{Engine: fake}, defaultLimits())
	t.Run("as listened", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				require.Equal(t, tt.closed, askAs(t, tt.user, path))
			})
		}
	})
	require.NoError(t, os.Chmod(path, 0o666))
	require.NoError(t, os.Chmod(filepath.Dir(path), 0o755))
	t.Run("at an open door", func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				require.Equal(t, tt.open, askAs(t, tt.user, path))
			})
		}
	})
	// The group is the file's of the moment.
	require.NoError(t, os.Chown(path, -1, 1000))
	require.Equal(t, served, askAs(t, credential{Uid: 1000, Gid: 1000}, path))
	require.Equal(t, refused, askAs(t, credential{Uid: 1000, Gid: group}, path))
	require.NoError(t, s.stop())
	require.Zero(t, fake.changed())
}

// A server of an ordinary user serves this user and root.
func TestPeersOfOrdinaryUser(t *testing.T) {
	requireUsers(t)
	labtest.LeakCheck(t)
	dir := directory(t)
	require.NoError(t, os.Chown(dir, 2000, 2000))
	path := filepath.Join(dir, "s")
	cmd := as(syscall.Credential{Uid: 2000, Gid: 2000}, "serve", path)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	buf := make([]byte, 1024)
	n, err := out.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "ready", strings.TrimSpace(string(buf[:n])))
	require.NoError(t, os.Chmod(path, 0o666))

	_, err = NewClient(path).Mappings(t.Context())
	require.NoError(t, err)
	for _, tt := range []struct {
		user syscall.Credential
		want string
	}{
		{syscall.Credential{Uid: 2000, Gid: 3000}, "served"},
		{syscall.Credential{Uid: 3000, Gid: 2000}, "served"},
		{syscall.Credential{Uid: 3000, Gid: 3000}, "403 permission user 3000 may not use this socket: permission denied"},
	} {
		require.Equal(t, tt.want, askAs(t, tt.user, path))
	}
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
}

// Nothing that a stranger says reaches the engine, and he is not kept.
func TestStrangerIsRefusedEverything(t *testing.T) {
	fake := newFake(parse(t, "8080->172.17.0.2:80"))
	h := newHandler(Options{Engine: fake}, defaultLimits())
	for _, r := range h.routes {
		resp := strangerAsks(t, h, r.method, strings.NewReplacer("{proto}", "tcp", "{frontend}", "8080").Replace(r.path))
		require.Equal(t, 403, resp.Code)
		require.Equal(t, "close", resp.Header().Get("Connection"))
	}
	require.Equal(t, 403, strangerAsks(t, h, "GET", "/nowhere").Code, "not even that there is nothing")
	require.Zero(t, fake.changed())
}

// An abstract socket has no file and so no group: root and the same user are served.
func TestServeAbstract(t *testing.T) {
	labtest.LeakCheck(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("@nftnat-test-%d", os.Getpid()), Net: "unix"})
	require.NoError(t, err)
	s := startOn(t, l, Options{Engine: newFake()}, defaultLimits())
	_, err = s.Mappings(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.stop())
}
