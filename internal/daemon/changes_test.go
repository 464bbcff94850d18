// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

func mapped(t *testing.T, name, text string) nat.Mapping {
	t.Helper()
	m, err := nat.ParseMappingText(text)
	require.NoError(t, err)
	m.Name = name
	return m
}

// logTo writes lines without their time and level.
func logTo(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutTime}))
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
		return slog.Attr{}
	}
	return a
}

func TestChangeLog(t *testing.T) {
	var told bytes.Buffer
	l := newChangeLog(logTo(&told))
	web := []nat.Mapping{mapped(t, "web", "8080->172.17.0.2:80"), mapped(t, "", "9000-9009->172.17.0.3:9000-9009/udp")}
	for _, o := range []api.Outcome{
		{Operation: api.OpPublish, Mappings: web},
		{Operation: api.OpReplace, Mappings: web[:1]},
		{Operation: api.OpUnpublish, Mappings: web[1:]},
		{Operation: api.OpAttach, Name: "dns", Address: "172.30.0.2", Mappings: []nat.Mapping{mapped(t, "dns", "53->172.30.0.2:53/udp")}},
		{Operation: api.OpDetach, Name: "dns", Mappings: []nat.Mapping{mapped(t, "dns", "53->172.30.0.2:53/udp")}},
		{Operation: api.OpCreateNetwork, Name: "inside", Address: "172.30.0.0/24"},
		{Operation: api.OpRemoveNetwork, Name: "inside"},
		{Operation: api.OpApply, Changes: []nat.Change{
			{Old: web[0]}, {New: web[1]}, {Old: web[0], New: mapped(t, "api", "8080->172.17.0.4:80")},
			{Before: "network a 10.0.0.0/24"}, {After: "endpoint b 10.0.0.2"},
		}},
		{Operation: api.OpPublish, Code: api.CodeConflict, Err: errors.New("it is taken")},
	} {
		o.UID, o.PID = 1000, 4711
		l.outcome(o)
	}
	l.event(nat.Event{Kind: nat.EventPublished, Mappings: web}) // has been logged with who asked for it
	l.event(nat.Event{Kind: nat.EventExpired, Mappings: web})
	l.event(nat.Event{Kind: nat.EventRepaired})
	require.Equal(t, `msg=published uid=1000 pid=4711 name=web mapping=8080->172.17.0.2:80
msg=published uid=1000 pid=4711 mapping=9000-9009->172.17.0.3:9000-9009/udp
msg=replaced uid=1000 pid=4711 name=web mapping=8080->172.17.0.2:80
msg=unpublished uid=1000 pid=4711 mapping=9000-9009->172.17.0.3:9000-9009/udp
msg=attached uid=1000 pid=4711 name=dns address=172.30.0.2
msg=published uid=1000 pid=4711 name=dns mapping=53->172.30.0.2:53/udp
msg=unpublished uid=1000 pid=4711 name=dns mapping=53->172.30.0.2:53/udp
msg=detached uid=1000 pid=4711 name=dns
msg="created network" uid=1000 pid=4711 name=inside prefix=172.30.0.0/24
msg="removed network" uid=1000 pid=4711 name=inside
msg=applied uid=1000 pid=4711 name=web old=8080->172.17.0.2:80
msg=applied uid=1000 pid=4711 new=9000-9009->172.17.0.3:9000-9009/udp
msg=applied uid=1000 pid=4711 name=api old=8080->172.17.0.2:80 new=8080->172.17.0.4:80
msg=applied uid=1000 pid=4711 was="network a 10.0.0.0/24"
msg=applied uid=1000 pid=4711 is="endpoint b 10.0.0.2"
msg=refused uid=1000 pid=4711 operation=publish reason=conflict error="it is taken"
msg=expired name=web mapping=8080->172.17.0.2:80
msg=expired mapping=9000-9009->172.17.0.3:9000-9009/udp
`, told.String())
	require.Equal(t, map[refusal]int{{api.OpPublish, api.CodeConflict}: 1}, l.refused)
	require.Equal(t, 1, l.made[api.OpPublish])
}

// A change of very many mappings is a bounded number of lines, and the last one counts them.
func TestChangeLogIsBounded(t *testing.T) {
	var told bytes.Buffer
	l := newChangeLog(logTo(&told))
	ms := make([]nat.Mapping, 60000)
	for i := range ms {
		ms[i] = mapped(t, "", "8080->172.17.0.2:80")
	}
	l.outcome(api.Outcome{Operation: api.OpPublish, Mappings: ms})
	lines := strings.Split(strings.TrimSuffix(told.String(), "\n"), "\n")
	require.Len(t, lines, mostLines+1)
	require.Equal(t, "msg=published uid=0 pid=0 total=60000 not_listed=59900", lines[mostLines])
}

// Of a gateway's leases, which anybody in a LAN may cause, one line a second is logged, and renewals are not.
// What others do at the same time is logged all the same.
func TestChangeLogOfLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told bytes.Buffer
		l := newChangeLog(slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{ReplaceAttr: withoutTime})))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { l.leases.Run(ctx) })
		lease := []nat.Mapping{mapped(t, "pmp:", "8000->192.168.1.2:8000")}
		web := []nat.Mapping{mapped(t, "pmp:", "8080->172.17.0.2:80")}
		for range 50 {
			l.outcome(api.Outcome{Operation: api.OpPublish, Agent: api.GatewayAgent, Mappings: lease, UID: 790, PID: 5})
			l.outcome(api.Outcome{Operation: api.OpPublish, Agent: api.GatewayAgent, Mappings: lease, Renewed: true})
			l.outcome(api.Outcome{Operation: api.OpUnpublish, Agent: api.GatewayAgent, Mappings: lease})
			l.event(nat.Event{Kind: nat.EventExpired, Mappings: lease})
		}
		l.outcome(api.Outcome{Operation: api.OpPublish, Mappings: web, PID: 6})
		l.outcome(api.Outcome{Operation: api.OpPublish, Mappings: web, PID: 7, Renewed: true})
		l.event(nat.Event{Kind: nat.EventExpired, Mappings: []nat.Mapping{lease[0], mapped(t, "web", "8080->172.17.0.2:80")}})
		time.Sleep(10 * time.Second)
		l.outcome(api.Outcome{Operation: api.OpReplace, Agent: api.GatewayAgent, Mappings: lease, UID: 790, PID: 5})
		cancel()
		running.Wait()
		require.Equal(t, `msg=published uid=790 pid=5 name=pmp: mapping=8000->192.168.1.2:8000
msg=published uid=0 pid=6 name=pmp: mapping=8080->172.17.0.2:80
msg=published uid=0 pid=7 name=pmp: mapping=8080->172.17.0.2:80
msg=expired name=web mapping=8080->172.17.0.2:80
msg="more leases were published, unpublished or have expired" not_listed=150
msg=replaced uid=790 pid=5 name=pmp: mapping=8000->192.168.1.2:8000
`, told.String())
	})
}
