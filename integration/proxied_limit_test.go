// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// One command publishes a range of 10,000 ports, with a proxy for each, within the promised
// memory, and nothing is left of it afterwards.
func TestProxiedBigRange(t *testing.T) {
	const first, last, ports = 20000, 29999, 10000
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, port := range []int{first, 25000, last} {
		labtest.EchoTCP(t, top.Backend1, fmt.Sprint("port", port), fmt.Sprint(":", port+1))
	}
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	p := s.serve(t)
	if limit := fileLimit(t, p.Pid); limit < ports+1000 {
		t.Skipf("the daemon may have %d files at most", limit)
	}
	s.succeed(t, "add --quiet udp 53 172.30.0.2")
	// The loops, at most one for each processor, start with the first ports and stay.
	s.succeed(t, fmt.Sprintf("add --quiet tcp 30000-%d 172.30.0.2", 30000+runtime.NumCPU()))
	s.succeed(t, fmt.Sprintf("rm --quiet tcp 30000-%d", 30000+runtime.NumCPU()))
	before := openBy(t, p.Pid)
	listening := sockets(t, top.Host)
	require.Equal(t, "20000-29999->172.30.0.2:20001-30000\n", s.succeed(t, "add --quiet tcp 20000-29999 172.30.0.2:20001-30000"))
	require.Equal(t, ports+1, s.status(t).Proxies)
	require.Less(t, residentKiB(t, p.Pid), 100<<10)
	for _, port := range []int{first, 25000, last} {
		for _, address := range []string{"127.0.0.1", "[::1]", "192.0.2.1"} {
			labtest.Reaches(t, top.Host, "tcp", fmt.Sprint(address, ":", port), fmt.Sprint("port", port))
		}
	}
	// If one port of a range is in use, none is published. (These are below
	// ip_local_port_range, the ports of clients.)
	holder, err := occupy(top.Host, "tcp", "127.0.0.1:14999")
	require.NoError(t, err)
	r := s.run(t, "add tcp 10000-14999 172.30.0.2:10001-15000")
	require.Equal(t, 3, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "tcp 127.0.0.1:14999 is held by "+myself(t))
	require.Equal(t, ports+1, s.status(t).Proxies)
	require.NoError(t, holder.Close())

	s.succeed(t, "rm --quiet tcp 20000-29999")
	require.Equal(t, 1, s.status(t).Proxies)
	require.Equal(t, listening, sockets(t, top.Host))
	await(t, "the files to be closed", func() bool { return openBy(t, p.Pid) <= before })
}

// If the limit of open files is too low for a range, nothing is published. The error says
// which limit, and how to raise it. What was published stays.
func TestProxiedFileLimit(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	cmd := s.command(t, "serve")
	// Without the privilege to raise the limit (setrlimit(2)).
	limited := []string{
		"--bounding-set=-sys_resource", "--inh-caps=-sys_resource", "--",
		labtest.Tool(t, "prlimit"), "--nofile=128:128", "--",
	}
	p := labtest.StartCmd(t, top.Host, command(t, "setpriv", slices.Concat(limited, cmd.Args)...))
	await(t, "the daemon to answer", func() bool {
		_, err := s.api.Status(context.Background())
		return err == nil
	})
	require.Equal(t, 128, fileLimit(t, p.Pid))
	for _, network := range []string{"tcp", "udp"} {
		s.succeed(t, "add --quiet "+network+" 8080-8089 172.30.0.2:80-89")
	}
	before, files := takeSnapshot(t, top.Host), openBy(t, p.Pid)
	for range 3 {
		for _, network := range []string{"tcp", "udp"} {
			r := s.run(t, "add "+network+" 20000-29999 172.30.0.2:20001-30000")
			require.Equal(t, 1, r.Code)
			require.Equal(t, "nftnat: publish "+network+" 20000-29999: hold 10000 ports: bind "+network+
				" :20000: socket: too many open files: raise RLIMIT_NOFILE (LimitNOFILE= of a unit)\n",
				replacePort(r.Stderr))
			require.Empty(t, r.Stdout)
			before.unchanged(t, top.Host)
			require.Equal(t, 20, s.status(t).Proxies)
			require.LessOrEqual(t, openBy(t, p.Pid), files+8)
		}
	}
	for _, network := range []string{"tcp", "udp"} {
		labtest.Reaches(t, top.Host, network, "127.0.0.1:8080", "backend")
		s.succeed(t, "add --quiet "+network+" 20000-20009 172.30.0.2")
	}

	// With more clients than descriptors, some wait or are refused. Then all are served again.
	var flows []*flow
	for range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
		c, err := top.Host.Dial(ctx, "tcp", "127.0.0.1:8080")
		cancel()
		if err != nil {
			require.ErrorIs(t, err, unix.ECONNRESET)
			continue
		}
		flows = append(flows, &flow{network: "tcp", conn: c})
	}
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "backend")
	for _, f := range flows {
		require.NoError(t, f.conn.Close())
	}
	await(t, "the proxy to serve again", func() bool {
		name, _, err := askWithin(top.Host, "tcp", "127.0.0.1:8080", netip.AddrPort{}, answerTimeout)
		return err == nil && name == "backend"
	})
	s.succeed(t, "rm --quiet tcp 8080-8089")
}

// replacePort replaces the port that was too many by the first one of a range.
func replacePort(text string) string {
	fields := strings.Fields(text)
	for i, field := range fields {
		if port, ok := strings.CutPrefix(field, ":2"); ok && strings.HasSuffix(port, ":") {
			fields[i] = ":20000:"
		}
	}
	return strings.Join(fields, " ") + "\n"
}

// fileLimit returns the limit of open files of a process (proc(5), limits).
func fileLimit(t *testing.T, pid int) int {
	t.Helper()
	limits, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "limits"))
	require.NoError(t, err)
	return number(t, string(limits), "Max open files")
}

// residentKiB returns the resident memory of a process.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	require.NoError(t, err)
	return number(t, string(status), "VmRSS:")
}

// number returns the first number after a name.
func number(t *testing.T, text, name string) int {
	t.Helper()
	_, rest, found := strings.Cut(text, name)
	require.True(t, found, name)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n
}
