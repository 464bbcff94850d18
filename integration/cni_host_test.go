// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

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
