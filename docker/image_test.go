// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// emulators run programs of other architectures.
func emulators() map[string]string {
	return map[string]string{
		"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static", "arm": "qemu-arm-static",
		"riscv64": "qemu-riscv64-static", "mips": "qemu-mips-static", "s390x": "qemu-s390x-static",
	}
}

// waiting is an image that runs.
type waiting struct {
	*exec.Cmd
	status, session *os.File
}

// startImage runs the image of an architecture. Its daemon listens at a socket.
func startImage(t *testing.T, goarch, socket string) *waiting {
	t.Helper()
	w := wait{
		signals: 5, session: 4, status: 3, name: "docker-proxy", socket: socket,
		request: []byte("may I?"), line: []byte("please"), pause: 20 * time.Millisecond,
	}
	path := filepath.Join(t.TempDir(), goarch)
	require.NoError(t, os.WriteFile(path, w.image(goarch), 0o755))
	cmd := exec.Command(path, "-proto", "tcp")
	if goarch != runtime.GOARCH {
		cmd = exec.Command(labtest.Tool(t, emulators()[goarch]), path, "-proto", "tcp")
	}
	status, statusEnd, err := os.Pipe()
	require.NoError(t, err)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, unix.SetNonblock(pair[0], true))
	session, sessionEnd := os.NewFile(uintptr(pair[0]), "session"), os.NewFile(uintptr(pair[1]), "session")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := blockSignals()
	require.NoError(t, err)
	defer func() {
		require.NoError(t, unix.PthreadSigmask(unix.SIG_UNBLOCK, signalSet(unix.SIGINT, unix.SIGTERM, unix.SIGPIPE), nil))
	}()
	signals := os.NewFile(uintptr(fd), "signals")
	cmd.ExtraFiles = []*os.File{statusEnd, sessionEnd, signals}
	require.NoError(t, cmd.Start())
	for _, f := range cmd.ExtraFiles {
		require.NoError(t, f.Close())
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = errors.Join(status.Close(), session.Close())
	})
	require.Equal(t, "0\n", readAll(t, status))
	return &waiting{cmd, status, session}
}

// deadlined is a file or a connection.
type deadlined interface {
	io.Reader
	SetReadDeadline(t time.Time) error
}

// readAll reads all that the process writes, until it closes its end.
func readAll(t *testing.T, r deadlined) string {
	t.Helper()
	require.NoError(t, r.SetReadDeadline(time.Now().Add(labtest.Stretch(20*time.Second))))
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(text)
}

// readText reads just this.
func readText(t *testing.T, r deadlined, want string) {
	t.Helper()
	require.NoError(t, r.SetReadDeadline(time.Now().Add(labtest.Stretch(20*time.Second))))
	b := make([]byte, len(want))
	_, err := io.ReadFull(r, b)
	require.NoError(t, err)
	require.Equal(t, want, string(b))
}

// An image tells that it is ready, ends its session and exits at a signal, and opens another session
// when that ends.
func TestImage(t *testing.T) {
	for goarch := range emulators() {
		t.Run(goarch, func(t *testing.T) {
			t.Parallel()
			for _, s := range []os.Signal{unix.SIGINT, unix.SIGTERM} {
				w := startImage(t, goarch, "/nobody")
				require.NoError(t, w.Process.Signal(s))
				require.Empty(t, readAll(t, w.session), "it ends the session")
				require.NoError(t, w.Process.Signal(unix.Signal(0)), "it waits for the daemon")
				require.NoError(t, w.session.Close())
				require.NoError(t, w.Wait())
			}
			d := newFakeDaemon(t)
			w := startImage(t, goarch, d.socket)
			require.NoError(t, w.session.Close())
			// For a while there is no daemon. The first one answers and ends, the second refuses, the third stays.
			l, err := net.Listen("unix", d.socket)
			require.NoError(t, err)
			defer func() { require.NoError(t, l.Close()) }()
			for i := range 3 {
				c, err := l.Accept()
				require.NoError(t, err)
				conn, ok := c.(*net.UnixConn)
				require.True(t, ok)
				readText(t, conn, "may I?")
				if i == 1 {
					require.NoError(t, conn.Close())
					continue
				}
				_, err = io.WriteString(conn, "you may")
				require.NoError(t, err)
				readText(t, conn, "please")
				_, err = io.WriteString(conn, strings.Repeat("x", 1800)+"\n")
				require.NoError(t, err)
				if i == 2 {
					time.Sleep(50 * time.Millisecond)
					require.NoError(t, w.Process.Signal(unix.SIGINT))
					require.Empty(t, readAll(t, conn), "it ends the session")
				}
				require.NoError(t, conn.Close())
			}
			require.NoError(t, w.Wait())
		})
	}
}

// A process that is told to stop while it has no session ends at once.
func TestImageStopsWithoutSession(t *testing.T) {
	w := startImage(t, runtime.GOARCH, "/nobody")
	require.NoError(t, w.session.Close())
	time.Sleep(100 * time.Millisecond) // some attempts
	require.NoError(t, w.Process.Signal(unix.SIGTERM))
	require.NoError(t, w.Wait())
}

// The headers say what a kernel needs to know.
func TestImageHeaders(t *testing.T) {
	for goarch := range emulators() {
		image := wait{signals: 5, session: 4, status: -1, name: "docker-proxy", socket: "/run/nftnat/nftnat.sock"}.image(goarch)
		require.Less(t, len(image), 2048, goarch)
		f, err := elf.NewFile(bytes.NewReader(image))
		require.NoError(t, err)
		require.Equal(t, elf.ET_EXEC, f.Type)
		require.Len(t, f.Progs, 2)
		require.Equal(t, elf.PF_R|elf.PF_X, f.Progs[0].Flags)
		require.Equal(t, uint64(len(image)), f.Progs[0].Memsz)
		require.Equal(t, elf.PF_R|elf.PF_W, f.Progs[1].Flags, "the stack is not executable")
	}
	require.Nil(t, wait{}.image("loong64"))
}
