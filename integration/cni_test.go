// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/cni"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// cniHost is a host on which a runtime executes the plugin.
type cniHost struct {
	*testing.T
	*testbed
	top *lab.Topology
}

func newCNIHost(t *testing.T) *cniHost {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	return &cniHost{T: t, testbed: newTestbed(t, top.Host), top: top}
}

// cniCall is one execution of the plugin. Empty fields have the values of a container "c1".
type cniCall struct {
	command, id, ifName, netNS string
	network, version, keys     string
	ports                      string // a JSON array; empty: there is no runtimeConfig
	prevResult                 string
	stdin                      string // in place of a configuration of the fields above
	program                    string // argv[0]
	env                        []string
}

// noVariable as a field of a cniCall leaves the variable out.
const noVariable = "-"

// podResult is what the plugins before have given to a container with both families: backend 1 of the topology.
const podResult = `{"cniVersion":"1.1.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/c1"}],` +
	`"ips":[{"address":"172.30.0.2/24","gateway":"172.30.0.1","interface":1},{"address":"fd00:30::2/64","interface":1}]}`

// Ports of containers as runtimes send them, and containerd.
const (
	webPort   = `[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]`
	goCNIPort = `[{"HostPort":8080,"ContainerPort":80,"Protocol":"TCP","HostIP":""}]`
)

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// config is the configuration that the runtime writes to the plugin.
func (c *cniCall) config() string {
	if c.stdin != "" {
		return c.stdin
	}
	text := fmt.Sprintf(`{"cniVersion":%q,"name":%q,"type":"nftnat-cni","capabilities":{"portMappings":true}`, or(c.version, "1.1.0"), or(c.network, "net"))
	if c.prevResult != noVariable {
		text += `,"prevResult":` + or(c.prevResult, podResult)
	}
	if c.ports != "" {
		text += `,"runtimeConfig":{"portMappings":` + c.ports + `}`
	}
	return text + c.keys + "}"
}

// prepare makes the process of a call.
func (h *cniHost) prepare(c cniCall) *exec.Cmd {
	h.Helper()
	cmd := bare(h.T)
	cmd.Args = []string{or(c.program, "/opt/cni/bin/nftnat-cni")}
	if c.program == "nftnat" {
		cmd.Args = []string{"nftnat", "cni"}
	}
	cmd.Stdin = strings.NewReader(c.config())
	for _, v := range []struct{ name, value string }{
		{"CNI_COMMAND", c.command}, {"CNI_CONTAINERID", or(c.id, "c1")}, {"CNI_IFNAME", or(c.ifName, "eth0")},
		{"CNI_NETNS", or(c.netNS, "/run/netns/"+or(c.id, "c1"))}, {"CNI_PATH", "/opt/cni/bin"}, {"NFTNAT_SOCKET", h.socket},
	} {
		if v.value != noVariable {
			cmd.Env = append(cmd.Env, v.name+"="+v.value)
		}
	}
	cmd.Env = append(cmd.Env, c.env...)
	return cmd
}

func (h *cniHost) call(c cniCall) labtest.Result {
	h.Helper()
	return labtest.Run(h.T, h.ns, h.prepare(c))
}

// succeeds makes a call that has to succeed, and returns its result.
func (h *cniHost) succeeds(c cniCall) string {
	h.Helper()
	r := h.call(c)
	require.Zero(h, r.Code, "%s %s: %s%s", c.command, c.config(), r.Stdout, r.Stderr)
	return r.Stdout
}

// cniError is the document of an error.
type cniError struct {
	Code         int
	Msg, Details string
}

// fails makes a call that has to fail, and returns the error.
func (h *cniHost) fails(c cniCall) (e cniError) {
	h.Helper()
	r := h.call(c)
	require.Equal(h, 1, r.Code, "%s %s: %s%s", c.command, c.config(), r.Stdout, r.Stderr)
	require.NoError(h, json.Unmarshal([]byte(r.Stdout), &e), r.Stdout)
	return e
}

// pod makes a network namespace with a name, as runtimes do, and removes it with the test, or before.
func (h *cniHost) pod(id string) (remove func()) {
	h.Helper()
	labtest.Exec(h.T, h.ns, "ip", "netns", "add", id)
	remove = sync.OnceFunc(func() { labtest.Exec(h.T, h.ns, "ip", "netns", "del", id) })
	h.Cleanup(remove)
	return remove
}

// published is what "ls" prints, with the names of owners replaced.
func (h *cniHost) published() string {
	h.Helper()
	var texts []string
	ms, err := h.api.Mappings(context.Background())
	require.NoError(h, err)
	for _, m := range ms {
		texts = append(texts, strings.TrimSpace(m.String()+" "+h.ownerOf(m.Name)))
	}
	return strings.Join(texts, ", ")
}

// ownerOf is the container and the network of a name, if it is one of the tests.
func (h *cniHost) ownerOf(name string) string {
	for _, id := range []string{"c1", "c2", "c3", strings.Repeat("f", 64)} {
		for _, network := range []string{"net", "net2"} {
			if name == cni.OwnerName(network, id, "eth0") || name == cni.OwnerName(network, id, "eth1") {
				return id + "/" + network
			}
		}
	}
	return name
}

// requireNothing checks that nothing is published and nothing recorded.
func (h *cniHost) requireNothing() {
	h.Helper()
	require.Empty(h, h.published())
	require.NoDirExists(h, cni.RecordsDir(h.socket))
}

// What portmap does with everything that can be wrong with a call, this plugin does.
func TestCNIContract(t *testing.T) {
	h := newCNIHost(t)
	h.pod("c1")
	versions := `"supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`
	for _, program := range []string{"nftnat-cni", "portmap", "nftnat"} {
		// It does not read its input.
		require.Equal(t, `{"cniVersion":"1.1.0",`+versions+"}\n",
			h.succeeds(cniCall{program: program, command: "VERSION", stdin: "{", id: noVariable, netNS: noVariable, ifName: noVariable}))
	}
	r := h.call(cniCall{command: noVariable})
	require.Zero(t, r.Code)
	require.Empty(t, r.Stdout)
	require.Equal(t, "CNI nftnat-cni plugin v"+thisVersion+"\nCNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n", r.Stderr)

	for _, test := range []struct {
		about        string
		call         cniCall
		code         int
		msg, details string
	}{
		{"no result before", cniCall{command: "ADD", prevResult: noVariable}, 999, "must be called as chained plugin", ""},
		{"no variables", cniCall{command: "ADD", id: noVariable, netNS: noVariable, ifName: noVariable}, 4,
			"required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing", ""},
		{"no path", cniCall{command: "ADD", env: []string{"CNI_PATH="}}, 4, "required env variables [CNI_PATH] missing", ""},
		{"id", cniCall{command: "ADD", id: ".c1"}, 4, "invalid characters in containerID", ".c1"},
		{"interface", cniCall{command: "ADD", ifName: "a/b"}, 4, "interface name contains / or : or whitespace characters", ""},
		{"command", cniCall{command: "EAT"}, 4, "unknown CNI_COMMAND: EAT", ""},
		{"no JSON", cniCall{command: "ADD", stdin: "{"}, 6, "error unmarshall network config: unexpected end of JSON input", ""},
		{"no JSON for DEL", cniCall{command: "DEL", stdin: "{"}, 6, "error unmarshall network config: unexpected end of JSON input", ""},
		{"no name", cniCall{command: "ADD", stdin: "{}"}, 7, "missing network name", ""},
		{"name", cniCall{command: "ADD", network: "a b"}, 7, "invalid characters found in network name", "a b"},
		{"version", cniCall{command: "ADD", version: "9.0.0"}, 1, "incompatible CNI versions",
			`config is "9.0.0", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]`},
		{"CHECK of an old version", cniCall{command: "CHECK", version: "0.3.1"}, 1, "config version does not allow CHECK", ""},
		{"CHECK without a result", cniCall{command: "CHECK", prevResult: noVariable}, 999, "Required prevResult missing", ""},
		{"STATUS of an old version", cniCall{command: "STATUS", version: "1.0.0"}, 1, "config version does not allow STATUS", ""},
		{"GC of an old version", cniCall{command: "GC", version: "1.0.0"}, 1, "config version does not allow GC", ""},
		{"no daemon", cniCall{command: "ADD", ports: webPort}, 11, "ask " + h.socket + ": no server answers: no such file or directory", ""},
		{"no daemon, STATUS", cniCall{command: "STATUS"}, 50, "ask " + h.socket + ": no server answers: no such file or directory", ""},
	} {
		e := h.fails(test.call)
		require.Equal(t, cniError{test.code, test.msg, test.details}, e, test.about)
	}

	// Nothing to do needs no daemon, and starts none.
	for _, version := range []string{"", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		ip := `"ips":[{"address":"172.30.0.2/24"}]`
		switch version {
		case "", "0.1.0", "0.2.0":
			ip = `"ip4":{"ip":"172.30.0.2/24"}`
		case "0.3.0", "0.3.1", "0.4.0":
			ip = `"ips":[{"address":"172.30.0.2/24","version":"4"}]`
		}
		conf := fmt.Sprintf(`{"name":"net","type":"portmap","cniVersion":%q,"prevResult":{"cniVersion":%q,%s,"dns":{}}}`, version, version, ip)
		out := h.succeeds(cniCall{command: "ADD", stdin: conf})
		require.JSONEq(t, fmt.Sprintf(`{"cniVersion":%q,%s}`, or(version, "0.1.0"), ip), withoutEmptyDNS(t, out), version)
		require.Contains(t, out, "\n    \"", "it is indented")
	}
	require.Empty(t, h.succeeds(cniCall{command: "DEL", netNS: noVariable}))
	require.Empty(t, h.succeeds(cniCall{command: "DEL", netNS: noVariable, prevResult: noVariable, ports: webPort}))
	require.Empty(t, h.succeeds(cniCall{command: "GC"}))
	require.Empty(t, h.succeeds(cniCall{command: "CHECK"}))
	require.NoFileExists(t, h.socket)

	h.serve(t)
	require.Empty(t, h.succeeds(cniCall{command: "STATUS"}))
	// The work is done, and then it is found wrong.
	r = h.call(cniCall{command: "ADD", netNS: "/proc/self/ns/net", ports: webPort})
	require.Equal(t, 1, r.Code)
	docs := json.NewDecoder(strings.NewReader(r.Stdout))
	var result map[string]any
	var e cniError
	require.NoError(t, docs.Decode(&result))
	require.NoError(t, docs.Decode(&e))
	require.Contains(t, result, "ips")
	require.Equal(t, cniError{8, "plugin's netns and netns from CNI_NETNS should not be the same", ""}, e)
	require.Contains(t, h.published(), "0.0.0.0:8080->172.30.0.2:80 c1/net")
	h.succeeds(cniCall{command: "DEL", netNS: noVariable})
	h.requireNothing()
}

// withoutEmptyDNS removes what some versions of results have and others have not.
func withoutEmptyDNS(t *testing.T, text string) string {
	t.Helper()
	var doc map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &doc), text)
	delete(doc, "dns")
	done, err := json.Marshal(doc)
	require.NoError(t, err)
	return string(done)
}

// Clients reach a container by its ports from ADD to DEL, from everywhere.
func TestCNIPod(t *testing.T) {
	h := newCNIHost(t)
	h.pod("c1")
	h.serve(t)
	for _, addr := range []string{":80", ":81"} {
		tcp, err := lab.EchoTCP(h.top.Backend1, "pod", addr)
		require.NoError(t, err)
		udp, err := lab.EchoUDP(h.top.Backend1, "pod", addr)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, tcp.Close()); require.NoError(t, udp.Close()) })
	}
	reaches := func(from *lab.NS, network, to string) bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		name, _, err := lab.Ask(ctx, from, network, to, netip.AddrPort{})
		return err == nil && name == "pod"
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
		want        bool
	}{
		{h.top.Client, "tcp", "192.0.2.1:8080", true}, {h.top.Client, "udp", "192.0.2.1:8080", true},
		{h.top.Client, "tcp", "[2001:db8:1::1]:8080", true}, {h.top.Client, "udp", "[2001:db8:1::1]:8080", true},
		{h.top.Host, "tcp", "127.0.0.1:8080", true}, {h.top.Host, "tcp", "[::1]:8080", true}, {h.top.Host, "udp", "127.0.0.1:8080", true},
		{h.top.Host, "tcp", "127.0.0.1:8081", true}, {h.top.Client, "tcp", "192.0.2.1:8081", false},
		{h.top.Client, "tcp", "192.0.2.1:8082", true}, {h.top.Client, "tcp", "[2001:db8:1::1]:8084", true},
		{h.top.Backend1, "tcp", "192.0.2.1:8080", true}, {h.top.Backend2, "tcp", "192.0.2.1:8080", true},
	} {
		require.Equal(t, test.want, reaches(test.from, test.network, test.to), "%s %s from %s", test.network, test.to, test.from)
	}
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
	require.False(t, reaches(h.top.Client, "tcp", "192.0.2.1:8080"))
}

// A container with one family is reached by clients of both. All ports are published or none.
func TestCNIOneFamily(t *testing.T) {
	h := newCNIHost(t)
	h.pod("c1")
	h.serve(t)
	tcp, err := lab.EchoTCP(h.top.Backend1, "pod", ":80")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tcp.Close()) })
	h.succeeds(cniCall{command: "ADD", ports: goCNIPort, prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"172.30.0.2/24"}]}`})
	require.Equal(t, "8080->172.30.0.2:80 c1/net", h.published())
	for _, to := range []string{"192.0.2.1:8080", "[2001:db8:1::1]:8080"} {
		name, _, err := lab.Ask(t.Context(), h.top.Client, "tcp", to, netip.AddrPort{})
		require.NoError(t, err, to)
		require.Equal(t, "pod", name)
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
	tcp, err := lab.EchoTCP(h.top.Backend1, "pod", ":80")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tcp.Close()) })
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
	reserver := reserve("sleep", "infinity")
	h.succeeds(add)
	for _, test := range []struct {
		from *lab.NS
		to   string
	}{{h.top.Client, "192.0.2.1:8080"}, {h.top.Client, "[2001:db8:1::1]:8080"}, {h.top.Host, "127.0.0.1:8080"}, {h.top.Host, "[::1]:8080"}, {h.top.Host, "192.0.2.1:8080"}} {
		name, _, err := lab.Ask(t.Context(), test.from, "tcp", test.to, netip.AddrPort{})
		require.NoError(t, err, test.to)
		require.Equal(t, "pod", name, test.to)
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

// Broken and hostile input gets an error, and changes nothing.
func TestCNIHostile(t *testing.T) {
	h := newCNIHost(t)
	h.serve(t)
	h.pod("c1")
	h.pod("c2")
	h.succeeds(cniCall{command: "ADD", ports: webPort})
	before, ruleset := h.published(), nft(t, h.ns, "list", "ruleset")
	port := func(fields string) string {
		return `[{"hostPort":9000,"containerPort":80,"protocol":"tcp"` + fields + `}]`
	}
	for _, test := range []struct {
		call cniCall
		code int
	}{
		{cniCall{stdin: strings.Repeat("[", 100000)}, 6},
		{cniCall{stdin: `{"name":"net","cniVersion":1}`}, 6},
		{cniCall{stdin: "\x00"}, 6},
		{cniCall{stdin: `{"name":["net"]}`}, 6},
		{cniCall{network: strings.Repeat("/", 300)}, 7},
		{cniCall{network: "../../x"}, 7},
		{cniCall{id: "../../x"}, 4},
		{cniCall{id: "-rf"}, 4},
		{cniCall{ifName: strings.Repeat("e", 16)}, 4},
		{cniCall{ifName: ".."}, 4},
		{cniCall{ports: `{}`}, 999},
		{cniCall{ports: `[[]]`}, 999},
		{cniCall{ports: `[{"hostPort":"9000"}]`}, 999},
		{cniCall{ports: `[{"hostPort":9000.5,"containerPort":80,"protocol":"tcp"}]`}, 999},
		{cniCall{ports: `[{"hostPort":1e400,"containerPort":80,"protocol":"tcp"}]`}, 999},
		{cniCall{ports: `[null]`}, 999},
		{cniCall{ports: `[{}]`}, 999},
		{cniCall{ports: `[{"hostPort":0,"containerPort":80,"protocol":"tcp"}]`}, 999},
		{cniCall{ports: `[{"hostPort":-8080,"containerPort":80,"protocol":"tcp"}]`}, 999},
		{cniCall{ports: `[{"hostPort":4294976296,"containerPort":80,"protocol":"tcp"}]`}, 7},
		{cniCall{ports: `[{"hostPort":9000,"containerPort":65616,"protocol":"tcp"}]`}, 7},
		{cniCall{ports: `[{"hostPort":9000,"containerPort":80,"protocol":"sctp"}]`}, 2},
		{cniCall{ports: `[{"hostPort":9000,"containerPort":80,"protocol":"tcp; flush ruleset"}]`}, 7},
		{cniCall{ports: port(`,"hostIP":"0"`)}, 7},
		{cniCall{ports: port(`,"hostIP":"192.0.2.1 dport 22"`)}, 7},
		{cniCall{ports: port(`,"hostIP":"fe80::1%lo"`)}, 7},
		{cniCall{ports: port(``), keys: `,"conditionsV4":["-j","ACCEPT"]`}, 2},
		{cniCall{ports: port(``), keys: `,"conditionsV6":["ip6 saddr ::/0"]`}, 2},
		{cniCall{ports: port(``), keys: `,"externalSetMarkChain":"KUBE-MARK-MASQ"`}, 2},
		{cniCall{ports: port(``), keys: `,"masqAll":true`}, 2},
		{cniCall{ports: port(``), keys: `,"socket":1`}, 999},
		{cniCall{ports: port(``), keys: `,"table":"a b"`}, 7},
		{cniCall{ports: port(``), keys: `,"socket":"` + strings.Repeat("x", 500) + `"`}, 999},
		{cniCall{ports: port(``), prevResult: `[]`}, 999},
		{cniCall{ports: port(``), prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"300.0.0.1/8"}]}`}, 999},
		{cniCall{ports: port(``), prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"127.0.0.1/8"}]}`}, 7},
		{cniCall{ports: port(``), prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"0.0.0.0/0"}]}`}, 7},
		{cniCall{ports: port(``), prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"192.0.2.1/24"}]}`}, 7},
		{cniCall{ports: port(``), version: "0.4.0", prevResult: `{"cniVersion":"0.4.0","ips":[null]}`}, 999},
	} {
		test.call.command = "ADD"
		if test.call.id == "" {
			test.call.id = "c2"
		}
		e := h.fails(test.call)
		text := test.call.config()
		require.Equal(t, test.code, e.Code, "%.200s: %s", text, e.Msg)
		require.NotContains(t, e.Msg, "\n")
		require.Equal(t, before, h.published(), "%.200s", text)
	}
	require.Equal(t, ruleset, nft(t, h.ns, "list", "ruleset"))
	names, err := os.ReadDir(cni.RecordsDir(h.socket))
	require.NoError(t, err)
	require.Len(t, names, 1)
	h.succeeds(cniCall{command: "DEL"})
	h.requireNothing()
}

// Two hundred containers come and go at the same time.
func TestCNIParallel(t *testing.T) {
	h := newCNIHost(t)
	h.serve(t)
	h.pod("c1")
	const count = 200
	settings := h.settings()
	nobody := func(int) bool { return false }
	require.Empty(t, h.each("ADD", count, nobody))
	require.Equal(t, 2*count, h.countPorts())
	require.Empty(t, h.each("CHECK", 20, nobody))
	require.Empty(t, h.each("DEL", count, nobody))
	h.requireNothing()
	require.Equal(t, settings, h.settings())
	h.succeed(t, "purge")
	require.Empty(t, nft(t, h.ns, "list", "ruleset"))
}

// Containers come and go while daemon and plugins are killed. What the runtime then does again leaves everything
// published once, and nothing in the end.
func TestCNIKill(t *testing.T) {
	h := newCNIHost(t)
	daemon := h.serve(t)
	h.pod("c1")
	count := labtest.RoundsOf(t, "NFTNAT_CNI_PODS", "containers", 30, 200)
	settings := h.settings()
	nobody := func(int) bool { return false }
	for _, command := range []string{"ADD", "DEL"} {
		// The daemon ends in the middle, and another one is started.
		restarted := make(chan struct{})
		go func() {
			defer close(restarted)
			time.Sleep(50 * time.Millisecond)
			daemon.Kill()
		}()
		h.each(command, count, func(i int) bool { return i%2 == 0 })
		<-restarted
		daemon = h.serve(t)
		require.Empty(t, h.each(command, count, nobody))
		if command == "ADD" {
			require.Equal(t, 2*count, h.countPorts())
			require.Empty(t, h.each("CHECK", count, nobody))
		}
	}
	h.requireNothing()
	require.Equal(t, settings, h.settings())
	h.succeed(t, "purge")
	require.Empty(t, nft(t, h.ns, "list", "ruleset"))
}

// settings are those of the kernel that plugins change, without forwarding, which stays on.
func (h *cniHost) settings() string {
	h.Helper()
	return labtest.Exec(h.T, h.ns, "sysctl", "--all", "--ignore", "--pattern", "route_localnet|rp_filter|accept_local")
}

// countPorts is how many ports are published.
func (h *cniHost) countPorts() (ports int) {
	h.Helper()
	ms, err := h.api.Mappings(context.Background())
	require.NoError(h, err)
	for _, m := range ms {
		ports += int(m.More) + 1
	}
	return ports
}

// each makes a call for so many containers of two ports, 16 at a time. Some plugins are killed, each a bit later than the one before. It
// returns which calls did not succeed.
func (h *cniHost) each(command string, count int, killed func(i int) bool) (failed []string) {
	h.Helper()
	var (
		mu   sync.Mutex
		wait sync.WaitGroup
	)
	slots := make(chan struct{}, 16)
	for i := range count {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			cmd := h.prepare(cniCall{
				command: command, id: fmt.Sprint("pod", i), netNS: "/run/netns/c1", prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"172.30.0.2/24"}]}`,
				ports: fmt.Sprintf(`[{"hostPort":%d,"containerPort":80,"protocol":"tcp"},{"hostPort":%d,"containerPort":80,"protocol":"udp"}]`, 10000+i, 10000+i),
			})
			if killed(i) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%40)*500*time.Microsecond)
				defer cancel()
				limited := exec.CommandContext(ctx, cmd.Path)
				limited.Args, limited.Env, limited.Stdin = cmd.Args, cmd.Env, cmd.Stdin
				// The error is that of the context if it is done before the start.
				_ = h.ns.Do(limited.Run)
				return
			}
			if r := labtest.Run(h.T, h.ns, cmd); r.Code != 0 {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, r.Stdout)
			}
		})
	}
	wait.Wait()
	return failed
}

// "cni install" and "cni uninstall" edit a list in place, and keep what it is.
func TestCNIInstall(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	dir := t.TempDir()
	list, link, bin := filepath.Join(dir, "10-net.conflist"), filepath.Join(dir, "link.conflist"), filepath.Join(dir, "bin")
	const before = "{\n  \"name\": \"net\", \"x\": 1,\n  \"plugins\": [{\"type\": \"bridge\"},\n    {\"type\": \"portmap\", \"capabilities\": {\"portMappings\": true}, \"snat\": true}]\n}\n"
	require.NoError(t, os.WriteFile(list, []byte(before), 0o640))
	require.NoError(t, os.Chown(list, 0, 0))
	require.NoError(t, os.Symlink(list, link))
	require.NoError(t, os.Mkdir(bin, 0o755))
	program, err := program()
	require.NoError(t, err)
	run := func(verb string, args ...string) labtest.Result {
		return labtest.Run(t, ns, bare(t, append([]string{"cni", verb, "--conflist", link, "--bin-dir", bin}, args...)...))
	}
	for i, want := range []string{filepath.Join(bin, "nftnat-cni") + " leads to " + program + "\n" + link + " has nftnat-cni\n", ""} {
		r := run("install")
		require.Zero(t, r.Code, r.Stderr)
		require.Equal(t, want, r.Stdout, i)
		require.Zero(t, strings.Compare(textOf(t, list), strings.Replace(before, `"portmap"`, `"nftnat-cni", "replaces": "portmap"`, 1)))
	}
	r := run("install", "--hold", "shared", "--socket", "/x")
	require.Zero(t, r.Code, r.Stderr)
	require.Contains(t, textOf(t, list), `"type": "nftnat-cni", "hold": "shared", "socket": "/x", "replaces"`)
	info, err := os.Lstat(list)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode())
	info, err = os.Lstat(link)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink)
	// The link is the plugin.
	version := bare(t)
	version.Path, version.Args, version.Env = filepath.Join(bin, "nftnat-cni"), []string{filepath.Join(bin, "nftnat-cni")}, []string{"CNI_COMMAND=VERSION", "CNI_PATH=x"}
	require.Contains(t, labtest.Run(t, ns, version).Stdout, `"cniVersion":"1.1.0"`)

	require.Equal(t, 2, run("install", "--hold", "tight").Code)
	for i, want := range []string{link + " does not have nftnat-cni\nremoved " + filepath.Join(bin, "nftnat-cni") + "\n", ""} {
		r = run("uninstall")
		require.Zero(t, r.Code, r.Stderr)
		require.Equal(t, want, r.Stdout, i)
		require.Zero(t, strings.Compare(textOf(t, list), before))
	}
	require.NoError(t, os.WriteFile(list, []byte("{"), 0o600))
	r = run("install")
	require.Equal(t, 2, r.Code)
	require.Contains(t, r.Stderr, "nftnat: edit "+list+": it is not JSON")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 3, "no temporary file stays")
}
