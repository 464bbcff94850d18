// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// backends listen on the operator's machine, to which hosts masquerade.
func (f *fleet) mapping(port, backend int, name string) string {
	return fmt.Sprintf("  - {mapping: \"%d->%s:%d\", masquerade: true, name: %s}\n", port, f.Client.V4, backend, name)
}

func (f *fleet) byHand(t *testing.T, h *host, text string, backend int) nat.Mapping {
	t.Helper()
	m, err := nat.ParseMappingText(fmt.Sprintf("%s->%s:%d", text, f.Client.V4, backend))
	require.NoError(t, err)
	m.Masquerade = true
	_, err = h.daemon.Publish(t.Context(), nat.PublishOptions{}, m)
	require.NoError(t, err)
	return m
}

func TestFleet(t *testing.T) {
	f := newFleet(t, etcdtest.Options{Hosts: 3})
	labtest.EchoTCP(t, f.Client, "first", ":9001")
	labtest.EchoTCP(t, f.Client, "second", ":9002")
	labtest.EchoTCP(t, f.Client, "third", ":9003")

	// One command, and all hosts publish it.
	out := f.apply(t, "mappings:\n"+f.mapping(8080, 9001, "web"), "--all")
	require.Contains(t, out, "+ mapping web of all: ")
	for _, h := range f.hosts {
		f.answers(t, h, 8080, "first")
	}
	require.Empty(t, f.apply(t, "mappings:\n"+f.mapping(8080, 9001, "web"), "--all"), "again, and nothing changes")

	// Host before group before all.
	f.apply(t, "mappings:\n"+f.mapping(8080, 9002, "web"), "--group", "edge")
	f.apply(t, "mappings:\n"+f.mapping(8080, 9003, "web"), "--host", "host1")
	for h, want := range map[*host]string{f.hosts[0]: "third", f.hosts[1]: "second", f.hosts[2]: "first"} {
		f.answers(t, h, 8080, want)
	}

	// What is bad for one host stops there, and others have it. Mappings made by hand stay.
	mine := f.byHand(t, f.hosts[2], "9090", 9003)
	f.apply(t, "mappings:\n"+f.mapping(8080, 9001, "web")+f.mapping(9090, 9001, "taken")+f.mapping(9091, 9002, "free"), "--all")
	for _, h := range f.hosts {
		f.answers(t, h, 9091, "second")
	}
	f.answers(t, f.hosts[0], 9090, "first")
	f.answers(t, f.hosts[2], 9090, "third")
	eventually(t, func() error {
		s := f.status(t, f.hosts[2])
		if len(s.Errors) != 1 || s.Errors[0].Key != "desired/all/mapping/taken" || !strings.Contains(s.Errors[0].Reason, "tcp 9090 is published") {
			return fmt.Errorf("status: %+v", s)
		}
		return nil
	})
	text := f.do(t, "", "status")
	require.Regexp(t, `host3 .* 1 errors`, text.Stdout)
	require.Contains(t, text.Stdout, "host3: desired/all/mapping/taken (revision ")
	_, err := f.hosts[2].daemon.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{mine}})
	require.NoError(t, err)
	f.answers(t, f.hosts[2], 9090, "first") // what was in its way is gone

	// What of the fleet's is removed by hand comes back.
	_, err = f.hosts[1].daemon.Remove(t.Context(), nat.Removal{Name: "fleet:web"})
	require.NoError(t, err)
	f.answers(t, f.hosts[1], 8080, "second")

	// Bad input changes nothing.
	for _, x := range []struct {
		file string
		args []string
		code int
		says string
	}{
		{"mappings: [nonsense]", []string{"--all"}, 2, "nonsense"},
		{"mappings: []", nil, 2, "say for which hosts"},
		{"mappings: []", []string{"--all", "--host", "x"}, 2, "exclude one another"},
		{"mappings: []", []string{"--host", "a/b"}, 2, "a name is letters"},
		{"endpoints: [{name: a, address: 10.0.0.2}]\nnetworks: [{name: n, prefix: 10.0.0.0/24}]", []string{"--all"}, 2, "endpoints are their hosts'"},
		{"mappings:\n" + f.mapping(1, 2, strings.Repeat("x", 60)), []string{"--all"}, 2, "at most 57 bytes"},
	} {
		r := f.do(t, x.file, append([]string{"apply", "-f", "-"}, x.args...)...)
		require.Equal(t, x.code, r.Code, r.Stderr)
		require.Contains(t, r.Stderr, x.says)
	}
	require.Equal(t, 4, f.do(t, "", "status", "nobody").Code)

	// A daemon that is killed is back, and its agent with it.
	f.hosts[0].run.daemon.Kill()
	f.apply(t, "mappings:\n"+f.mapping(8080, 9003, "web")+f.mapping(7000, 9001, "more"), "--host", "host1")
	f.serve(t, f.hosts[0])
	f.answers(t, f.hosts[0], 7000, "first")

	// So is an agent, at once: it goes on with its lease.
	f.hosts[1].run.agent.Kill()
	f.join(t, f.hosts[1])
	f.apply(t, "mappings:\n"+f.mapping(8080, 9003, "web"), "--group", "edge")
	f.answers(t, f.hosts[1], 8080, "third")

	// Another agent of its name is refused, and says who has it.
	second := f.agentOf(f.hosts[2], "host1")
	second.Args = append(second.Args, "--state-dir", f.dir+"/second")
	r := labtest.Run(t, f.hosts[2].NS, second)
	require.Equal(t, 3, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, `another agent has the name "host1": that at `+f.hosts[0].V4.String())

	// More keys than a transaction has are applied together.
	var many strings.Builder
	for i := range 500 {
		many.WriteString(f.mapping(20000+i, 9001, fmt.Sprintf("m%d", i)))
	}
	f.apply(t, "mappings:\n"+many.String(), "--all")
	for _, h := range f.hosts {
		f.answers(t, h, 20499, "first")
	}
	eventually(t, func() error {
		s := f.status(t, f.hosts[2])
		if s.Mappings != 500 || len(s.Errors) != 0 {
			return fmt.Errorf("status: %+v", s)
		}
		return nil
	})
	file := f.do(t, "", "get", "--all")
	require.Empty(t, f.apply(t, file.Stdout, "--all"), "what get prints is what apply reads")
}

// Without etcd everything goes on, and with it again what was changed meanwhile is applied. All of it with
// certificates.
func TestEtcdAway(t *testing.T) {
	f := newFleet(t, etcdtest.Options{Hosts: 2, TLS: true})
	labtest.EchoTCP(t, f.Client, "first", ":9001")
	labtest.EchoTCP(t, f.Client, "second", ":9002")
	f.apply(t, "mappings:\n"+f.mapping(8080, 9001, "web"), "--all")
	for _, h := range f.hosts {
		f.answers(t, h, 8080, "first")
	}

	// A host that is cut off is dead for etcd, and goes on.
	cut := f.hosts[0]
	require.NoError(t, f.LAN.Cut(cut.NS))
	f.apply(t, "mappings:\n"+f.mapping(8080, 9002, "web"), "--all")
	f.answers(t, f.hosts[1], 8080, "second")
	eventually(t, func() error {
		if r := f.do(t, "", "status"); !strings.Contains(r.Stdout, "host2") || strings.Contains(r.Stdout, "host1") {
			return fmt.Errorf("host1 is dead and is shown:\n%s", r.Stdout)
		}
		return nil
	})
	ms, err := cut.daemon.Mappings(t.Context())
	require.NoError(t, err)
	require.Len(t, ms, 1)
	require.NoError(t, f.LAN.Reconnect(cut.NS))
	f.answers(t, cut, 8080, "second")
	eventually(t, func() error {
		if r := f.do(t, "", "status", "host1"); !strings.Contains(r.Stdout, "applied") {
			return fmt.Errorf("host1 is back: %s", r.Stdout+r.Stderr)
		}
		return nil
	})

	for _, m := range f.Members {
		m.Kill()
	}
	r := f.do(t, "mappings: []", "apply", "-f", "-", "--all", "--timeout", "1s")
	require.Equal(t, 1, r.Code)
	require.Contains(t, r.Stderr, "connection refused")
	// A daemon that is restarted meanwhile finds its table; an agent waits.
	cut.run.daemon.Kill()
	f.serve(t, cut)
	f.hosts[1].run.agent.Kill()
	f.join(t, f.hosts[1])
	for _, h := range f.hosts {
		f.answers(t, h, 8080, "second")
	}
	for _, m := range f.Members {
		m.Start()
	}
	f.AwaitReady(t)
	f.apply(t, "mappings:\n"+f.mapping(8080, 9001, "web"), "--all")
	for _, h := range f.hosts {
		f.answers(t, h, 8080, "first")
	}
}
