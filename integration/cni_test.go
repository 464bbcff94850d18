// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/cni"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Clients reach a container by its ports from ADD to DEL, from everywhere.
func TestCNIPod(t *testing.T) {
	h := newCNIHost(t)
	h.pod("c1")
	h.serve(t)
	for _, addr := range []string{":80", ":81"} {
		labtest.EchoTCP(t, h.top.Backend1, "pod", addr)
		labtest.EchoUDP(t, h.top.Backend1, "pod", addr)
	}
	ports := `[{"HostPort":8080,"ContainerPort":80,"Protocol":"TCP"},{"hostPort":8080,"containerPort":80,"protocol":"udp"},` +
		`{"hostPort":8081,"containerPort":81,"protocol":"tcp","hostIP":"127.0.0.1"},{"hostPort":8082,"containerPort":81,"protocol":"tcp","hostIP":"192.0.2.1"},` +
		`{"hostPort":8083,"containerPort":81,"protocol":"tcp","hostIP":"203.0.113.1"},{"hostPort":8084,"containerPort":81,"protocol":"tcp","hostIP":"::"}]`
	add := cniCall{command: "ADD", ports: ports}
	for range 2 {
		require.JSONEq(t, podResult, h.succeeds(add))
		require.Equal(t, "0.0.0.0:8080->172.30.0.2:80 c1/net, 127.0.0.1:8081->172.30.0.2:81 c1/net, 192.0.2.1:8082->172.30.0.2:81 c1/net, "+
			"203.0.113.1:8083->172.30.0.2:81 c1/net, [::]:8080->[fd00:30::2]:80 c1/net, [::]:8084->[fd00:30::2]:81 c1/net, "+
			"0.0.0.0:8080->172.30.0.2:80/udp c1/net, [::]:8080->[fd00:30::2]:80/udp c1/net", h.published())
	}
	require.Empty(t, h.succeeds(cniCall{command: "CHECK", ports: ports}))
	for _, test := range []struct {
		from        *lab.NS
		network, to string
	}{
		{h.top.Client, "tcp", "192.0.2.1:8080"}, {h.top.Client, "udp", "192.0.2.1:8080"},
		{h.top.Client, "tcp", "[2001:db8:1::1]:8080"}, {h.top.Client, "udp", "[2001:db8:1::1]:8080"},
		{h.top.Host, "tcp", "127.0.0.1:8080"}, {h.top.Host, "tcp", "[::1]:8080"}, {h.top.Host, "udp", "127.0.0.1:8080"},
		{h.top.Host, "tcp", "127.0.0.1:8081"}, {h.top.Client, "tcp", "192.0.2.1:8082"}, {h.top.Client, "tcp", "[2001:db8:1::1]:8084"},
		{h.top.Backend1, "tcp", "192.0.2.1:8080"}, {h.top.Backend2, "tcp", "192.0.2.1:8080"},
	} {
		labtest.Reaches(t, test.from, test.network, test.to, "pod")
	}
	require.Error(t, labtest.NoAnswer(t, h.top.Client, "tcp", "192.0.2.1:8081"))
	// CHECK finds what is missing, and what leads elsewhere.
	require.Equal(t, cniError{999, "tcp 0.0.0.0:9999 is not published", ""},
		h.fails(cniCall{command: "CHECK", ports: `[{"hostPort":9999,"containerPort":80,"protocol":"tcp"}]`}))
	require.Equal(t, cniError{999, "tcp 0.0.0.0:8080 is published as 0.0.0.0:8080->172.30.0.2:80, and not as 0.0.0.0:8080->172.30.0.2:81", ""},
		h.fails(cniCall{command: "CHECK", ports: `[{"hostPort":8080,"containerPort":81,"protocol":"tcp"}]`}))

	// DEL knows neither the ports nor the namespace, and may come twice.
	for range 2 {
		require.Empty(t, h.succeeds(cniCall{command: "DEL", netNS: noVariable, prevResult: noVariable}))
		h.requireNothing()
	}
	require.Error(t, labtest.NoAnswer(t, h.top.Client, "tcp", "192.0.2.1:8080"))
}

// A container with one family is reached by clients of both. All ports are published or none.
func TestCNIOneFamily(t *testing.T) {
	h := newCNIHost(t)
	h.pod("c1")
	h.serve(t)
	labtest.EchoTCP(t, h.top.Backend1, "pod", ":80")
	h.succeeds(cniCall{command: "ADD", ports: goCNIPort, prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"172.30.0.2/24"}]}`})
	require.Equal(t, "8080->172.30.0.2:80 c1/net", h.published())
	for _, to := range []string{"192.0.2.1:8080", "[2001:db8:1::1]:8080"} {
		labtest.Reaches(t, h.top.Client, "tcp", to, "pod")
	}
	h.succeeds(cniCall{command: "DEL"})
	h.requireNothing()

	h.succeed(t, "add tcp 8082 172.30.0.3:80 --name web")
	e := h.fails(cniCall{command: "ADD", ports: `[{"hostPort":8081,"containerPort":80,"protocol":"tcp"},{"hostPort":8082,"containerPort":80,"protocol":"tcp"}]`})
	require.Equal(t, 11, e.Code)
	require.Contains(t, e.Msg, `tcp 8082 is published as 8082->172.30.0.3:80 by "web"`)
	require.Equal(t, "8082->172.30.0.3:80 web", h.published())
	require.NoDirExists(t, cni.RecordsDir(h.socket))
}

// Who gets a port that two want.
func TestCNIConflict(t *testing.T) {
	h := newCNIHost(t)
	h.serve(t)
	remove := h.pod("c1")
	h.pod("c2")
	web := cniCall{command: "ADD", ports: webPort}
	h.succeeds(web)

	// The first, while it is there.
	second := web
	second.id = "c2"
	e := h.fails(second)
	require.Equal(t, 11, e.Code)
	require.Contains(t, e.Msg, `tcp 0.0.0.0:8080 is published as 0.0.0.0:8080->172.30.0.2:80 by "`+cni.OwnerName("net", "c1", "eth0")+`"`)
	require.Equal(t, "by container c1 (eth0 of network net)", e.Details)
	require.Equal(t, "0.0.0.0:8080->172.30.0.2:80 c1/net, [::]:8080->[fd00:30::2]:80 c1/net", h.published())

	// A network more of the same container leads there as well.
	other := web
	other.network, other.ifName, other.prevResult = "net2", "eth1", `{"cniVersion":"1.1.0","ips":[{"address":"172.30.0.3/24"}]}`
	other.ports = `[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},{"hostPort":9090,"containerPort":90,"protocol":"tcp"}]`
	h.succeeds(other)
	require.Equal(t, "9090->172.30.0.3:90 c1/net2, 0.0.0.0:8080->172.30.0.2:80 c1/net, [::]:8080->[fd00:30::2]:80 c1/net", h.published())
	other.command = "CHECK"
	h.succeeds(other)
	other.command = "DEL"
	h.succeeds(other)
	require.Equal(t, "0.0.0.0:8080->172.30.0.2:80 c1/net, [::]:8080->[fd00:30::2]:80 c1/net", h.published())

	// A container whose network namespace has gone has lost its ports to the next that wants them, which an event says.
	events := h.follow(t)
	remove()
	h.succeeds(second)
	require.Equal(t, "0.0.0.0:8080->172.30.0.2:80 c2/net, [::]:8080->[fd00:30::2]:80 c2/net", h.published())
	await(t, "the event of the takeover", func() bool {
		return slices.ContainsFunc(events(), func(e api.Event) bool {
			return e.Type == api.EventPublished && e.Mapping.Name == cni.OwnerName("net", "c2", "eth0")
		})
	})
	// Its DEL comes late, and takes nothing away.
	h.succeeds(cniCall{command: "DEL", netNS: noVariable})
	require.Equal(t, "0.0.0.0:8080->172.30.0.2:80 c2/net, [::]:8080->[fd00:30::2]:80 c2/net", h.published())

	// As with portmap, if that is wanted: the last one.
	h.pod("c3")
	third := web
	third.id, third.keys = "c3", `,"onConflict":"replace"`
	h.succeeds(third)
	require.Equal(t, "0.0.0.0:8080->172.30.0.2:80 c3/net, [::]:8080->[fd00:30::2]:80 c3/net", h.published())
	for _, id := range []string{"c2", "c3"} {
		h.succeeds(cniCall{command: "DEL", id: id})
	}
	h.requireNothing()
}

// A port that nerdctl's process reserves is shared with it; one that another program serves is refused, by name.
func TestCNIHeld(t *testing.T) {
	h := newCNIHost(t)
	h.serve(t)
	h.pod("c1")
	labtest.EchoTCP(t, h.top.Backend1, "pod", ":80")
	// As nerdctl does: a listening socket, given to a process that does nothing with it.
	reserve := func(program string, args ...string) *labtest.Process {
		l, err := h.ns.Listen("tcp4", "0.0.0.0:8080")
		require.NoError(t, err)
		f, err := l.(interface{ File() (*os.File, error) }).File()
		require.NoError(t, err)
		cmd := exec.Command(labtest.Tool(t, program), args...)
		cmd.ExtraFiles = []*os.File{f}
		p := labtest.StartCmd(t, h.ns, cmd)
		require.NoError(t, f.Close())
		require.NoError(t, l.Close())
		return p
	}
	add := cniCall{command: "ADD", ports: webPort}
	name := filepath.Join(t.TempDir(), "nerdctl") // which has the socket as long as the plugin runs
	require.NoError(t, os.Symlink(labtest.Tool(t, "sleep"), name))
	hook := reserve(name, "infinity")
	h.succeeds(add)
	h.succeeds(cniCall{command: "DEL"})
	hook.Kill()
	reserver := reserve("sleep", "infinity")
	h.succeeds(add)
	for _, test := range []struct {
		from *lab.NS
		to   string
	}{{h.top.Client, "192.0.2.1:8080"}, {h.top.Client, "[2001:db8:1::1]:8080"}, {h.top.Host, "127.0.0.1:8080"}, {h.top.Host, "[::1]:8080"}, {h.top.Host, "192.0.2.1:8080"}} {
		labtest.Reaches(t, test.from, "tcp", test.to, "pod")
	}
	h.succeeds(cniCall{command: "DEL"})
	h.requireNothing()
	add.keys = `,"hold":"own"`
	e := h.fails(add)
	require.Equal(t, 11, e.Code)
	require.Equal(t, fmt.Sprintf("by sleep (pid %d)", reserver.Pid), e.Details)
	reserver.Kill()

	server := reserve("tail", "-f", "/dev/null")
	add.keys = ""
	e = h.fails(add)
	require.Equal(t, 11, e.Code)
	require.Equal(t, fmt.Sprintf("by tail (pid %d)", server.Pid), e.Details)
	h.requireNothing()
	add.keys = `,"hold":"shared"`
	h.succeeds(add)
	h.succeeds(cniCall{command: "DEL"})
	h.requireNothing()
}

// STATUS tells a daemon that is not there from a table that has gone too; ADD starts one if it may.
func TestCNIStatus(t *testing.T) {
	h := newCNIHost(t)
	h.pod("c1")
	require.Equal(t, 50, h.fails(cniCall{command: "STATUS"}).Code)
	daemon := h.serve(t)
	h.succeeds(cniCall{command: "STATUS"})
	h.succeeds(cniCall{command: "ADD", ports: webPort})
	daemon.Kill()
	require.Equal(t, 50, h.fails(cniCall{command: "STATUS"}).Code)
	labtest.Exec(t, h.ns, "nft", "delete", "table", "inet", "nftnat")
	require.Equal(t, 51, h.fails(cniCall{command: "STATUS"}).Code)
	require.Equal(t, 2, h.fails(cniCall{command: "STATUS", keys: `,"masqAll":true`}).Code)
	h.succeeds(cniCall{command: "DEL"})

	h.succeeds(cniCall{command: "ADD", ports: webPort, keys: `,"startDaemon":true`})
	require.Equal(t, "0.0.0.0:8080->172.30.0.2:80 c1/net, [::]:8080->[fd00:30::2]:80 c1/net", h.published())
	kill(t, h.daemon(t), unix.SIGKILL)
	h.succeeds(cniCall{command: "STATUS", keys: `,"startDaemon":true`})
	h.succeeds(cniCall{command: "DEL"})
	h.requireNothing()
	h.succeed(t, "purge")
	left, err := filepath.Glob(filepath.Join(filepath.Dir(h.socket), "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
