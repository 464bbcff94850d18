// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// children are what the test binary can be besides a test.
var children = map[string]func() error{
	"backend": childBackend,
	"load":    childLoad,
	"pairs":   childPairs,
	"host":    childHost,
}

// child starts this binary as one of children. It ends when its standard input
// does; each line that it prints can be read from the result.
func child(tb testing.TB, name string, env ...string) (out *bufio.Reader, pid int) {
	tb.Helper()
	exe, err := os.Executable()
	require.NoError(tb, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), append(env, childEnv+"="+name)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(tb, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(tb, err)
	require.NoError(tb, cmd.Start())
	tb.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, stdout)
		require.NoError(tb, cmd.Wait(), "child %s", name)
	})
	return bufio.NewReader(stdout), cmd.Process.Pid
}

// untilStdinEnds is how a child that serves waits for its parent.
func untilStdinEnds() { _, _ = io.Copy(io.Discard, os.Stdin) }

// childBackend serves TCP and UDP and prints both addresses. The first byte of
// a TCP connection says what it is for: 'e' echo, 's' swallow.
func childBackend() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	_ = pc.SetReadBuffer(4 << 20)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				var mode [1]byte
				if _, err := c.Read(mode[:]); err != nil {
					return
				}
				if mode[0] == 's' {
					buf := make([]byte, 256<<10)
					for {
						if _, err := c.Read(buf); err != nil {
							return
						}
					}
				}
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	go serveUDP(pc)
	fmt.Println(l.Addr())
	fmt.Println(pc.LocalAddr())
	untilStdinEnds()
	return nil
}

// childPairs is the usual proxy, a goroutine for each direction with io.Copy,
// to compare with. It prints its address.
func childPairs() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	backend := os.Getenv("BACKEND")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b, err := net.Dial("tcp", backend)
				if err != nil {
					_ = c.Close()
					return
				}
				var wg sync.WaitGroup
				oneWay := func(to, from net.Conn) {
					_, _ = io.Copy(to, from)
					_ = to.(*net.TCPConn).CloseWrite()
				}
				wg.Go(func() { oneWay(b, c) })
				oneWay(c, b)
				wg.Wait()
				_ = c.Close()
				_ = b.Close()
			}()
		}
	}()
	fmt.Println(l.Addr())
	untilStdinEnds()
	return nil
}
