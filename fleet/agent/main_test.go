// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// fleet is etcd and hosts with real daemons and agents, all of them processes.
type fleet struct {
	*etcdtest.Cluster
	dir            string
	program, agent string
	hosts          []*host
	env            []string
}

type host struct {
	*lab.NS
	name   string
	daemon *api.Client
	run    struct{ daemon, agent *labtest.Process }
	groups []string
}

// build builds the programs. What they need is in the cache of Go after the first time.
func build(tb testing.TB) (daemon, agent string) {
	tb.Helper()
	dir := tb.TempDir()
	for _, p := range []struct{ in, of string }{{"../..", "./cmd/nftnat"}, {"..", "./cmd/nftnat-fleet"}} {
		cmd := exec.Command(labtest.Tool(tb, "go"), "build", "-o", dir+"/", p.of)
		cmd.Dir, cmd.Env = p.in, append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(tb, err, "%s", out)
	}
	return filepath.Join(dir, "nftnat"), filepath.Join(dir, "nftnat-fleet")
}

func newFleet(t *testing.T, o etcdtest.Options) *fleet {
	t.Helper()
	f := &fleet{Cluster: etcdtest.New(t, o)}
	f.program, f.agent = build(t)
	var err error
	f.dir, err = os.MkdirTemp("/run", "fleet")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(f.dir) })
	f.env = append(os.Environ(), "NFTNAT_FLEET_ENDPOINTS="+strings.Join(f.Endpoints, ","))
	if f.CA != nil {
		ca, cert, key := f.CA.WriteFiles(t, f.CA.Client(t, "host"))
		f.env = append(f.env, "NFTNAT_FLEET_CACERT="+ca, "NFTNAT_FLEET_CERT="+cert, "NFTNAT_FLEET_KEY="+key)
	}
	for i, ns := range f.Hosts {
		h := &host{NS: ns, name: fmt.Sprintf("host%d", i+1), groups: []string{"edge"}}
		if i == len(f.Hosts)-1 {
			h.groups = []string{"core"}
		}
		h.daemon = api.NewClient(filepath.Join(f.dir, h.name+".sock"))
		f.hosts = append(f.hosts, h)
		f.serve(t, h)
		f.join(t, h)
	}
	return f
}

func (f *fleet) serve(t *testing.T, h *host) {
	t.Helper()
	h.run.daemon = labtest.Start(t, h.NS, f.program, "serve", "--socket", h.daemon.Path())
}

func (f *fleet) join(t *testing.T, h *host) {
	t.Helper()
	h.run.agent = labtest.StartCmd(t, h.NS, f.agentOf(h, h.name))
}

func (f *fleet) agentOf(h *host, name string) *exec.Cmd {
	cmd := exec.Command(f.agent, "agent", "--host", name, "--group", strings.Join(h.groups, ","), "--socket", h.daemon.Path(),
		"--listen", "", "--state-dir", filepath.Join(f.dir, h.Name()))
	cmd.Env = f.env
	return cmd
}

// do runs a command on the operator's machine.
func (f *fleet) do(t *testing.T, input string, args ...string) labtest.Result {
	t.Helper()
	cmd := exec.Command(f.agent, args...)
	cmd.Env, cmd.Stdin = f.env, strings.NewReader(input)
	return labtest.Run(t, f.Client, cmd)
}

func (f *fleet) apply(t *testing.T, file string, scope ...string) string {
	t.Helper()
	r := f.do(t, file, append([]string{"apply", "-f", "-"}, scope...)...)
	require.Zero(t, r.Code, r.Stderr)
	return r.Stdout
}

func (f *fleet) status(t *testing.T, h *host) (s keys.HostStatus) {
	t.Helper()
	r := f.do(t, "", "status", h.name, "--json")
	if r.Code != 0 {
		return s
	}
	var docs []keys.HostStatus
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &docs))
	return docs[0]
}

// answers waits until a port of a host is answered by the backend of a name.
func (f *fleet) answers(t *testing.T, h *host, port int, name string) {
	t.Helper()
	eventually(t, func() error {
		got, err := f.ask(t, h, port)
		if err == nil && got != name {
			err = fmt.Errorf("it is %q", got)
		}
		if err != nil {
			return fmt.Errorf("%s port %d is not answered by %q: %w", h.name, port, name, err)
		}
		return nil
	})
}

func (f *fleet) ask(t *testing.T, h *host, port int) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	name, _, err := lab.Ask(ctx, f.Members[0].NS, "tcp", netip.AddrPortFrom(h.V4, uint16(port)).String(), netip.AddrPort{})
	return name, err
}

func eventually(tb testing.TB, f func() error) {
	tb.Helper()
	var err error
	for end := time.Now().Add(labtest.Stretch(30 * time.Second)); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	require.NoError(tb, err)
}
