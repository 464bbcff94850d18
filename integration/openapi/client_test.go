// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// daemon runs nftnat serve in a network namespace of its own, and returns its socket.
func daemon(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program, socket := filepath.Join(dir, "nftnat"), filepath.Join(dir, "s")
	build := exec.Command("go", "build", "-o", program, "./cmd/nftnat")
	build.Dir = "../.."
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	cmd := exec.Command(program, "serve", "--socket", socket)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		if os.Getenv("NFTNAT_TEST_NETNS") == "require" {
			require.NoError(t, err)
		}
		t.Skipf("no network namespace of its own: %v", err)
	}
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait())
	})
	return socket
}

func connect(t *testing.T, socket string) *ClientWithResponses {
	t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	c, err := NewClientWithResponses("http://nftnat", WithHTTPClient(&http.Client{Transport: transport}))
	require.NoError(t, err)
	return c
}

func ptr[T any](v T) *T { return &v }

// A generated client publishes, meets a conflict, lists, asks for the status, unpublishes
// and watches.
func TestGeneratedClient(t *testing.T) {
	ctx := t.Context()
	c := connect(t, daemon(t))
	require.Eventually(t, func() bool {
		r, err := c.GetHealthWithResponse(ctx)
		return err == nil && r.StatusCode() == 200 && string(r.Body) == "ok\n"
	}, time.Minute, 20*time.Millisecond)

	events, err := c.StreamEvents(ctx, nil)
	require.NoError(t, err)
	defer func() { _ = events.Body.Close() }()

	web := Request{Proto: "tcp", Port: ptr(8080), Backend: "172.17.0.2:80", Name: ptr("web")}
	published, err := c.PublishMappingsWithResponse(ctx, nil, []Request{web, {Proto: "udp", Backend: "[fd00::2]:53", Ttl: ptr("1h")}})
	require.NoError(t, err)
	require.Equal(t, 201, published.StatusCode(), "%s", published.Body)
	made := *published.JSON201
	require.Len(t, made, 2)
	require.Equal(t, Mapping{Proto: "tcp", Port: 8080, Backend: "172.17.0.2:80", Name: "web", Proxy: true}, made[0])
	require.Equal(t, 49153, made[1].Port)
	require.WithinDuration(t, time.Now().Add(time.Hour), *made[1].Expires, 10*time.Minute)

	web.Backend = "172.17.0.3:80"
	refused, err := c.PublishMappingsWithResponse(ctx, nil, []Request{web})
	require.NoError(t, err)
	require.Equal(t, 409, refused.StatusCode(), "%s", refused.Body)
	problem := *refused.ApplicationproblemJSON409
	require.Equal(t, "conflict", string(problem.Code))
	require.Equal(t, made[0], *problem.Have)

	replaced, err := c.PublishMappingsWithResponse(ctx, &PublishMappingsParams{Replace: ptr(true)}, []Request{web})
	require.NoError(t, err)
	require.Equal(t, 201, replaced.StatusCode(), "%s", replaced.Body)

	list, err := c.ListMappingsWithResponse(ctx, nil)
	require.NoError(t, err)
	require.Len(t, *list.JSON200, 2)
	require.Equal(t, "172.17.0.3:80", (*list.JSON200)[0].Backend)

	status, err := c.GetStatusWithResponse(ctx)
	require.NoError(t, err)
	require.Equal(t, 200, status.StatusCode(), "%s", status.Body)
	require.Equal(t, 1, status.JSON200.Mappings.Tcp.Ipv4)
	require.Equal(t, 1, status.JSON200.Mappings.Udp.Ipv6)
	self, err := c.GetDaemonWithResponse(ctx)
	require.NoError(t, err)
	require.Equal(t, 200, self.StatusCode(), "%s", self.Body)
	require.Equal(t, status.JSON200.Pid, self.JSON200.Pid)
	require.Equal(t, status.JSON200.Table.Name, self.JSON200.Table)
	require.Positive(t, *self.JSON200.Created)

	explained, err := c.ExplainWithResponse(ctx, &ExplainParams{Proto: "tcp", Frontend: "8080", From: ptr("192.0.2.2")})
	require.NoError(t, err)
	require.Equal(t, 200, explained.StatusCode(), "%s", explained.Body)
	require.Equal(t, "172.17.0.3:80", explained.JSON200.Mapping.Backend)
	require.NotEqual(t, "passes", string(explained.JSON200.Verdict), "there is no route")
	unexplained, err := c.ExplainWithResponse(ctx, &ExplainParams{Proto: "udp", Frontend: "8080"})
	require.NoError(t, err)
	require.Equal(t, 404, unexplained.StatusCode(), "%s", unexplained.Body)
	require.Equal(t, "over tcp", (*unexplained.ApplicationproblemJSON404.Near)[0].Why)

	network, err := c.CreateNetworkWithResponse(ctx, NetworkRequest{Name: "inside", Prefix: "172.30.0.0/24"})
	require.NoError(t, err)
	require.Equal(t, 201, network.StatusCode(), "%s", network.Body)
	endpoint, err := c.AttachEndpointWithResponse(ctx, nil, EndpointSpec{Name: "dns", Ports: ptr([]string{"53:53/udp"})})
	require.NoError(t, err)
	require.Equal(t, 201, endpoint.StatusCode(), "%s", endpoint.Body)
	require.Equal(t, "172.30.0.2", endpoint.JSON201.Address)

	gone, err := c.UnpublishMappingWithResponse(ctx, "tcp", "8080", nil)
	require.NoError(t, err)
	require.Equal(t, 200, gone.StatusCode(), "%s", gone.Body)
	require.Len(t, *gone.JSON200, 1)
	again, err := c.UnpublishMappingWithResponse(ctx, "tcp", "8080", nil)
	require.NoError(t, err)
	require.Equal(t, 404, again.StatusCode())
	require.Equal(t, "not-found", string(again.ApplicationproblemJSON404.Code))

	state, err := c.GetStateWithResponse(ctx)
	require.NoError(t, err)
	require.Len(t, state.JSON200.Networks, 1)
	require.Equal(t, "dns", state.JSON200.Endpoints[0].Name)

	line := make([]byte, len(`{"type":"published"`))
	_, err = io.ReadFull(events.Body, line)
	require.NoError(t, err)
	require.Equal(t, `{"type":"published"`, string(line))
}
