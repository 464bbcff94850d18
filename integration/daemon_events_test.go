// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// follow starts nftnat events, and returns a function that returns the lines printed since
// the last call.
func (s *testbed) follow(t *testing.T) func() []api.Event {
	t.Helper()
	p := labtest.StartCmd(t, s.ns, s.command(t, "events"))
	await(t, "events to be followed", func() bool {
		s.succeed(t, "add --quiet tcp 1 172.30.0.2:80")
		s.succeed(t, "rm tcp 1")
		return strings.HasSuffix(p.Output(), "\n")
	})
	var skip int
	await(t, "the last of the first events", func() bool {
		last := len(p.Output())
		done := strings.Count(p.Output(), `"unpublished"`) > 0 && last == skip
		skip = last
		return done
	})
	return func() []api.Event {
		var events []api.Event
		for line := range strings.Lines(p.Output()[skip:]) {
			if !strings.HasSuffix(line, "\n") {
				break // the line is not complete yet
			}
			var ev api.Event
			require.NoError(t, json.Unmarshal([]byte(line), &ev), line)
			events = append(events, ev)
		}
		return events
	}
}

// Events come in the order of the changes, one line a port.
func TestDaemonEvents(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	s := newTestbed(t, top.Host)
	s.serve(t)
	events := s.follow(t)
	s.succeed(t, "add --quiet tcp 8080-8081 172.30.0.2:80-81 --name web")
	s.succeed(t, "add --quiet --replace tcp 8081 172.30.0.3:80")
	s.succeed(t, "add --quiet udp 53 172.30.0.2 --ttl 500ms")
	// A refused change is no event.
	require.Equal(t, 3, s.run(t, "add tcp 8080 172.30.0.2:80").Code)
	await(t, "the end of the mapping", func() bool { return len(events()) >= 5 })
	s.succeed(t, "rm tcp 8080-8081")
	await(t, "all events", func() bool { return len(events()) >= 7 })

	type brief struct {
		what    api.EventType
		mapping string
	}
	var got []brief
	var before time.Time
	for _, ev := range events() {
		require.NotNil(t, ev.Mapping)
		require.False(t, ev.Time.Before(before))
		before = ev.Time
		require.Equal(t, ev.Mapping.Proto == "udp", ev.Mapping.Expires != nil)
		if ev.Type == api.EventExpired {
			require.False(t, ev.Time.Before(*ev.Mapping.Expires))
		}
		got = append(got, brief{ev.Type, strconv.Itoa(int(ev.Mapping.Port)) + " " + ev.Mapping.Backend + " " + ev.Mapping.Name})
	}
	require.Equal(t, []brief{
		{api.EventPublished, "8080 172.30.0.2:80 web"},
		{api.EventPublished, "8081 172.30.0.2:81 web"},
		{api.EventPublished, "8081 172.30.0.3:80 web"},
		{api.EventPublished, "53 172.30.0.2:53 "},
		{api.EventExpired, "53 172.30.0.2:53 "},
		{api.EventUnpublished, "8080 172.30.0.2:80 web"},
		{api.EventUnpublished, "8081 172.30.0.3:80 web"},
	}, got)
}

// A mapping ends at its time by itself, and with it its proxy.
func TestDaemonTimeToLive(t *testing.T) {
	labtest.LongOnly(t, "4 s in which mappings with a time to live end")
	t.Parallel() // it waits
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.serve(t)
	soon := " --ttl " + labtest.Stretch(2*time.Second).String()
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
		s.succeed(t, "add --quiet "+network+" 8080 172.30.0.2:80"+soon)
		s.succeed(t, "add --quiet "+network+" 8081 172.30.0.2:80 --ttl 1h")
		s.succeed(t, "add --quiet "+network+" 127.0.0.1:8082 172.30.0.2:80"+soon)
		for _, address := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8082"} {
			labtest.Reaches(t, top.Host, network, address, "backend")
		}
		for _, address := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8082"} {
			await(t, "the proxy to end", func() bool {
				_, _, err := askWithin(top.Host, network, address, netip.AddrPort{}, silence)
				return errors.Is(err, unix.ECONNREFUSED)
			})
		}
		// Other programs can bind the port.
		holder, err := occupy(top.Host, network, "0.0.0.0:8080")
		require.NoError(t, err)
		require.NoError(t, holder.Close())
		labtest.Reaches(t, top.Host, network, "127.0.0.1:8081", "backend")
	}
	require.Equal(t, 2, s.status(t).Proxies)
}

// After --replace, new connections and the datagrams of existing flows go to the new backend.
// An existing connection stays at the old one. A UDP socket of this host that eBPF has connected to
// the old one ends.
func TestDaemonReplace(t *testing.T) {
	bothWays(t, replaceBackends)
}

func replaceBackends(t *testing.T, loopback string) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "one", ":80")
		labtest.Echo(t, top.Backend2, network, "two", ":80")
	}
	s := newTestbed(t, top.Host)
	s.loopback = loopback
	s.serve(t)
	backends := []struct{ name, address string }{
		{"two", "172.30.0.3:80"}, {"one", "[fd00:30::2]:80"}, {"two", "[fd00:30::3]:80"}, {"one", "172.30.0.2:80"},
	}
	for _, network := range []string{"tcp", "udp"} {
		s.succeed(t, "add --quiet "+network+" 8080 172.30.0.2:80")
	}
	clients := []struct {
		ns      *lab.NS
		address string
	}{
		{top.Host, "127.0.0.1:8080"}, {top.Host, "[::1]:8080"}, {top.Client, "192.0.2.1:8080"}, {top.Client, "[2001:db8:1::1]:8080"},
	}
	var datagrams, connections []*flow
	for _, c := range clients {
		datagrams = append(datagrams, dialFlow(t, c.ns, "udp", c.address))
		connections = append(connections, dialFlow(t, c.ns, "tcp", c.address))
	}
	for _, f := range append(datagrams, connections...) {
		require.Equal(t, "one", f.name(t))
	}
	for _, b := range backends {
		for _, network := range []string{"tcp", "udp"} {
			s.succeed(t, "add --quiet --replace "+network+" 8080 "+b.address)
		}
		for i, c := range clients {
			name, err := datagrams[i].ask()
			if loopback == "bpf" && c.ns == top.Host && (errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EDESTADDRREQ)) { // else a proxy has it
				datagrams[i] = dialFlow(t, c.ns, "udp", c.address)
				name, err = datagrams[i].ask()
			}
			require.NoError(t, err, "%s from the same port, now to %s", c.address, b.address)
			require.Equal(t, b.name, name)
			labtest.Reaches(t, c.ns, "tcp", c.address, b.name)
			labtest.Reaches(t, c.ns, "udp", c.address, b.name)
			goesOn(t, connections[i])
		}
		require.Equal(t, 2, s.status(t).Proxies)
	}
}

// With --kill the existing connections end as well, and no others do.
func TestDaemonReplaceKill(t *testing.T) {
	bothWays(t, replaceAndKill)
}

func replaceAndKill(t *testing.T, loopback string) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoTCP(t, top.Backend1, "one", ":80")
	labtest.EchoTCP(t, top.Backend2, "two", ":80")
	s := newTestbed(t, top.Host)
	s.loopback = loopback
	s.serve(t)
	clients := []struct {
		ns      *lab.NS
		address string
	}{
		{top.Host, "127.0.0.1:8080"}, {top.Host, "[::1]:8080"}, {top.Client, "192.0.2.1:8080"}, {top.Client, "[2001:db8:1::1]:8080"},
	}
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	s.succeed(t, "add --quiet tcp 8081 172.30.0.2:80")
	others := []*flow{
		dialFlow(t, top.Host, "tcp", "127.0.0.1:8081"), dialFlow(t, top.Client, "tcp", "192.0.2.1:8081"),
		dialFlow(t, top.Client, "tcp", "[2001:db8:1::1]:8081"),
	}
	for _, f := range others {
		require.Equal(t, "one", f.name(t))
	}
	was := "one"
	for _, b := range []struct{ name, address string }{{"two", "172.30.0.3:80"}, {"one", "[fd00:30::2]:80"}, {"two", "172.30.0.3:80"}} {
		var live []*flow
		for _, c := range clients {
			f := dialFlow(t, c.ns, "tcp", c.address)
			require.Equal(t, was, f.name(t))
			live = append(live, f)
		}
		s.succeed(t, "add --quiet --replace --kill tcp 8080 "+b.address)
		for i, c := range clients {
			_, err := live[i].ask()
			if loopback == "bpf" && c.ns == top.Host && errors.Is(err, unix.ECONNABORTED) { // else a proxy had it
				err = unix.ECONNRESET
			}
			require.ErrorIs(t, err, unix.ECONNRESET, c.address)
			labtest.Reaches(t, c.ns, "tcp", c.address, b.name)
		}
		was = b.name
	}
	// Connections to the new backend do not end.
	stays := dialFlow(t, top.Host, "tcp", "127.0.0.1:8080")
	require.Equal(t, "two", stays.name(t))
	s.succeed(t, "add --quiet --replace --kill tcp 8080 172.30.0.3:80 --name other")
	for _, f := range append(others, stays) {
		goesOn(t, f)
	}
	r := s.run(t, "add --kill tcp 8082 172.30.0.3:80")
	require.Equal(t, 2, r.Code)
	require.Contains(t, r.Stderr, "nftnat: --kill ends connections to what --replace replaces")
}

// The same if netfilter serves one of the backends, and a proxy the other one because it has
// the other family.
func TestDaemonReplaceFamily(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "one", ":80")
		labtest.Echo(t, top.Backend2, network, "two", ":80")
	}
	s := newTestbed(t, top.Host)
	s.serve(t)
	for _, c := range []struct{ frontend, asked string }{
		{"192.0.2.1:8080", "192.0.2.1:8080"}, {"[2001:db8:1::1]:8080", "[2001:db8:1::1]:8080"},
		{"0.0.0.0:8081", "192.0.2.1:8081"}, {"[::]:8081", "[2001:db8:1::1]:8081"},
	} {
		for _, network := range []string{"tcp", "udp"} {
			s.succeed(t, "add --quiet "+network+" "+c.frontend+" 172.30.0.2:80")
			live := dialFlow(t, top.Client, network, c.asked)
			require.Equal(t, "one", live.name(t))
			for _, b := range []struct{ name, address string }{
				{"two", "[fd00:30::3]:80"}, {"one", "172.30.0.2:80"}, {"two", "172.30.0.3:80"}, {"one", "[fd00:30::2]:80"}, {"two", "172.30.0.3:80"},
			} {
				s.succeed(t, "add --quiet --replace "+network+" "+c.frontend+" "+b.address)
				labtest.Reaches(t, top.Client, network, c.asked, b.name)
				name, err := live.ask()
				require.NoError(t, err, "%s from the same port, now to %s", c.asked, b.address)
				if network == "udp" {
					require.Equal(t, b.name, name)
				}
			}
			s.succeed(t, "rm "+network+" "+c.frontend)
		}
	}
}

// status and metrics describe the daemon.
func TestDaemonStatus(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	s := newTestbed(t, top.Host)
	s.loopback = "proxy" // which is what it is about
	p := s.serve(t, "--metrics", "127.0.0.1:9100")
	for _, line := range []string{
		"tcp 8080-8082 172.30.0.2:80-82", "tcp 127.0.0.1:8083 172.30.0.2:80", "udp [::1]:53 [fd00:30::2]:80", "tcp 8084 [fd00:30::2]:80 --no-proxy",
	} {
		s.succeed(t, "add --quiet "+line)
	}
	// What is silent for a second is a flow still, and a connection is one while it
	// is open.
	for _, c := range [][2]string{{"tcp", "127.0.0.1:8080"}, {"tcp", "127.0.0.1:8083"}, {"udp", "[::1]:53"}} {
		f := dialFlow(t, top.Host, c[0], c[1])
		require.Equal(t, "backend", f.name(t))
	}

	var st api.Status
	require.NoError(t, json.Unmarshal([]byte(s.succeed(t, "status --json")), &st))
	require.Equal(t, p.Pid, st.PID)
	require.Equal(t, inode(t, top.Host), st.NetNS)
	require.NotEmpty(t, st.Version)
	require.False(t, st.Started.IsZero())
	require.Equal(t, "nftnat", st.Table.Name)
	require.Equal(t, api.MappingCounts{
		TCP: api.FamilyCounts{IPv4: 4, IPv6: 1}, UDP: api.FamilyCounts{IPv6: 1},
	}, st.Mappings)
	require.Equal(t, 5, st.Proxies)
	require.Equal(t, api.FlowCounts{TCP: 2, UDP: 1}, st.Flows)
	require.NotNil(t, st.Conntrack)
	require.Positive(t, st.Conntrack.Count)
	require.Positive(t, st.Conntrack.Max)
	require.Equal(t, api.ForwardingOn, st.Forwarding.IPv4)
	require.NotEqual(t, api.ForwardingOff, st.Forwarding.IPv6)
	require.Equal(t, []string{}, st.Warnings)
	text := s.succeed(t, "status")
	for _, l := range st.MissingFeatures {
		require.Regexp(t, `(?m)^no `+l.Name+` +`+regexp.QuoteMeta(l.Fallback)+`$`, text)
	}
	require.Len(t, st.MissingFeatures, strings.Count(text, "\nno "))
	_, single := sysctls(t, top.Host)["ipv6/conf/all/force_forwarding"]
	require.Equal(t, !single, slices.ContainsFunc(st.MissingFeatures, func(l api.MissingFeature) bool { return l.Name == "force_forwarding" }))
	for _, want := range []string{
		"inet nftnat", "tcp 4 ipv4, 1 ipv6; udp 0 ipv4, 1 ipv6", "5, carrying 2 connections and 1 UDP flows", "ipv4 on",
	} {
		require.Contains(t, text, want)
	}

	resp, err := s.client().Get("http://nftnat/metrics")
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	overTCP := labtest.Exec(t, top.Host, "curl", "--silent", "--show-error", "--fail", "--max-time", "10", "http://127.0.0.1:9100/metrics")
	for _, metrics := range []string{string(body), overTCP} {
		for _, want := range []string{
			`nftnat_mappings{family="ipv4",proto="tcp"} 4`, `nftnat_mappings{family="ipv6",proto="tcp"} 1`,
			`nftnat_mappings{family="ipv4",proto="udp"} 0`, `nftnat_mappings{family="ipv6",proto="udp"} 1`,
			`nftnat_proxies 5`, `nftnat_mappings_without_proxy 0`,
			`nftnat_proxy_flows{proto="tcp"} 2`, `nftnat_proxy_flows{proto="udp"} 1`, `nftnat_proxy_flows_total 3`,
			`nftnat_proxy_refused_dials_total 0`, `process_open_fds `, `go_goroutines `,
		} {
			require.Contains(t, metrics, "\n"+want)
		}
		require.Regexp(t, `\nnftnat_proxy_bytes_total\{to="backend"\} [1-9]`, metrics)
		require.Regexp(t, `\nnftnat_proxy_bytes_total\{to="client"\} [1-9]`, metrics)
	}
	// Nothing else is served over TCP, because there is no authentication.
	r := labtest.Run(t, top.Host, command(t, "curl", "--silent", "--fail", "--max-time", "10", "http://127.0.0.1:9100/v1/mappings"))
	require.NotZero(t, r.Code)
}
