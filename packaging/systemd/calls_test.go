// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// dropIn adds settings to a service until the machine ends.
func dropIn(m *boottest.Machine, unit, name, settings string) {
	m.Write("/etc/systemd/system/"+unit+".d/"+name+".conf", "[Service]\n"+settings+"\n", 0o644)
	m.Exec("systemctl", "daemon-reload")
}

// The unit allows every system call that the daemon and a reload make: with a filter that kills where the shipped one returns an error, nothing is killed.
func TestUnitsSystemCalls(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	labtest.EchoUDP(t, top.Backend1, "dns", ":53")
	labtest.EchoTCP(t, top.Host, "mine", ":8888")
	m := bootInstalled(t, top.Host)
	dropIn(m, "nftnat.service", "kill", "SystemCallErrorNumber=kill")
	m.Exec("systemctl", "start", "nftnat.service")
	daemon := m.MainPid("nftnat.service")
	use := func() {
		t.Helper()
		m.Exec("nftnat", "network", "create", "inside", "172.30.0.0/24")
		m.Exec("nftnat", "add", "tcp", "80", "172.30.0.2:80", "--name", "web", "--ttl", "1h")
		m.Exec("nftnat", "add", "udp", "53", "172.30.0.2:53")
		m.Exec("nftnat", "attach", "db", "--network", "inside", "-p", "5432")
		labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:80", "web")
		labtest.Reaches(t, top.Host, "tcp", "[::1]:80", "web")
		labtest.Reaches(t, top.Host, "udp", "127.0.0.1:53", "dns")
		labtest.Reaches(t, top.Client, "udp", "192.0.2.1:53", "dns")
		requireSplice(t, m, top)
		r := m.Run("nftnat", "add", "tcp", "8888", "172.30.0.2:80")
		require.Equal(t, 3, r.Code, r.Stderr)
		require.Contains(t, r.Stderr, "is held by a process of uid 0", "it is outside of the machine, where nobody sees it")
		m.Exec("nftnat", "add", "tcp", "80", "172.30.0.2:81", "--replace", "--kill")
		m.Exec("sh", "-c", "nftnat export >/root/state.yaml && nftnat apply -f /root/state.yaml")
		m.Exec("nftnat", "status")
		m.Exec("nftnat", "ls", "--wide")
		// The daemon answers one who may not read the rules. It has read which tables of iptables-legacy
		// there are, and may neither list programs of netfilter nor send a request of ARP.
		r = m.Run("setpriv", "--reuid", "member", "--init-groups", "--regid", "member", "nftnat", "explain", "udp", "53", "--from", "192.0.2.2")
		require.Contains(t, r.Stdout, "backend     172.30.0.2:53", r.Stderr)
		require.Contains(t, r.Stdout, "passes by netfilter")
		unread := regexp.MustCompile(`not read: (list programs of netfilter|ask who has 172\.30\.0\.2 on br0):`)
		require.NotContains(t, unread.ReplaceAllString(r.Stdout, ""), "not read", r.Stdout)
		m.Exec("nftnat", "detach", "db")
		m.Exec("nftnat", "network", "rm", "inside")
		for _, args := range [][]string{{"tcp", "80"}, {"udp", "53"}} {
			m.Exec("nftnat", append([]string{"rm"}, args...)...)
		}
	}
	use()
	m.Exec("systemctl", "reload", "nftnat.service")
	use()
	require.NotEqual(t, daemon, m.MainPid("nftnat.service"))
	m.Exec("systemctl", "stop", "nftnat.service")
	require.Equal(t, "success", m.Property("nftnat.service", "Result"))
	require.Equal(t, "0", m.Property("nftnat.service", "NRestarts"))
	require.NotContains(t, m.Exec("journalctl", "--boot", "--no-pager"), "SYS")
}

// Where pipes are refused all the same, proxies copy, and the log and status say so once.
func TestUnitsWithoutPipes(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	m := bootInstalled(t, top.Host)
	dropIn(m, "nftnat.service", "pipes", "SystemCallFilter=~pipe2")
	m.Exec("systemctl", "start", "nftnat.service")
	for _, port := range []string{"80", "81"} {
		m.Exec("nftnat", "add", "tcp", port, "172.30.0.2:80")
		echoes(t, top.Host, "127.0.0.1:"+port, 8<<20)
	}
	require.Regexp(t, `(?m)^no splice +proxies copy .*pipe2: operation not permitted`, m.Exec("nftnat", "status"))
	require.Equal(t, 1, strings.Count(m.Journal("nftnat.service"), "instead of splicing"))
}

// echoes sends some bytes to an echo server, which must come back.
func echoes(t *testing.T, ns *lab.NS, address string, size int) {
	t.Helper()
	c, err := ns.Dial(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.NoError(t, c.SetDeadline(time.Now().Add(labtest.Stretch(time.Minute))))
	sent := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(sent)
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() { _, _ = c.Write(sent) }) // what is missing is seen below
	r := bufio.NewReader(c)
	_, err = r.ReadString('\n') // its name
	require.NoError(t, err)
	got := make([]byte, size)
	_, err = io.ReadFull(r, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
}
