// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What a client may meet.
const (
	meetsAnswer  = "the answer"
	meetsNothing = "nothing, until it gives up"
	meetsRefusal = "connection refused"
	meetsNoRoute = "no route to host"
	meetsOther   = "the answer of another backend"
	meetsHalf    = "short answers; long ones hang"
)

const (
	faultFrontend = "192.0.2.1:8080"            // where the client asks, unless a fault says otherwise
	faultQuery    = "tcp 8080 --from 192.0.2.2" // what explain is asked
)

// fault is something that keeps a published port from answering.
type fault struct {
	name string // the heading of its section
	// inject brings it about, and undo takes it away again. Each line begins with the machine: "host: ip route add ...".
	inject, undo string
	// run and stop are for what shell commands do not do.
	run, stop func(t *testing.T, b *faultBed)
	// meets is what the client sees. It asks ask, an address and port.
	meets, ask string
	// explain is the command's arguments. Empty: "tcp 8080 --from 192.0.2.2".
	explain string
	// direct publishes with --direct, without a daemon.
	direct bool
	kind   string   // of the cause
	thing  []string // that the cause's thing and text name
	passes bool     // explain says so, for it is no fault
	// words follow on the page.
	words string
}

// faultBed is the machines on which faults are brought about. The client is 192.0.2.2; the host has 192.0.2.1 and
// 192.0.2.9 on lan0, 198.51.100.1 on far0, and 172.30.0.1 on br0; the backend is 172.30.0.2.
type faultBed struct {
	*lab.Topology
	*testbed
}

func newFaultBed(t *testing.T, loopback string, direct bool) *faultBed {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartFar, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	labtest.EchoTCP(t, top.Backend2, "other", ":81")
	b := &faultBed{top, newTestbed(t, top.Host)}
	b.loopback = loopback
	labtest.Exec(t, top.Host, "ip", "route", "replace", "default", "via", "192.0.2.2")
	if direct {
		b.args = []string{"--direct"}
	} else {
		b.serve(t)
	}
	b.succeed(t, "add tcp 8080 172.30.0.2:80")
	b.succeed(t, "add tcp 192.0.2.9:8081 172.30.0.2:80")
	return b
}

func (b *faultBed) machine(name string) *lab.NS {
	return map[string]*lab.NS{"host": b.Host, "client": b.Client, "backend": b.Backend1, "router": b.Far}[name]
}

// do runs lines of a fault.
func (b *faultBed) do(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		name, command, ok := strings.Cut(strings.TrimSpace(line), ": ")
		require.True(t, ok, "%q names its machine", line)
		if text, ok := strings.CutPrefix(command, "nft '"); ok {
			labtest.ExecInput(t, b.machine(name), strings.TrimSuffix(text, "'")+"\n", "nft", "-f", "-")
			continue
		}
		labtest.Exec(t, b.machine(name), "sh", "-ec", command)
	}
}

// meets connects as the client, and says what it sees.
func (b *faultBed) meets(t *testing.T, addr string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	network := "tcp"
	name, _, err := lab.Ask(ctx, b.Client, network, addr, netip.AddrPort{})
	switch {
	case err == nil && name == "backend" && !b.sendsMuch(t, addr):
		return meetsHalf
	case err == nil && name == "backend":
		return meetsAnswer
	case err == nil:
		return meetsOther
	case errors.Is(err, unix.ECONNREFUSED):
		return meetsRefusal
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES):
		return meetsNoRoute
	}
	return meetsNothing
}

// sendsMuch has 200 kB echoed.
func (b *faultBed) sendsMuch(t *testing.T, addr string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	c, err := b.Client.Dial(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	require.NoError(t, c.SetDeadline(deadline))
	sent := bytes.Repeat([]byte("x"), 200_000)
	go func() {
		_, _ = c.Write(sent)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	return err == nil && len(got) >= len(sent)
}

// explains returns what explain prints, how it ends, and its document. Both are asked until they agree,
// for a host does not stand still.
func (b *faultBed) explains(t *testing.T, args string) (text string, code int, doc api.Explanation) {
	t.Helper()
	for range 20 {
		r := b.run(t, "explain "+args)
		require.Empty(t, r.Stderr)
		j := b.run(t, "explain --json "+args)
		doc = api.Explanation{}
		require.NoError(t, json.Unmarshal([]byte(j.Stdout), &doc), j.Stdout)
		text, code = r.Stdout, r.Code
		if r.Code == j.Code && strings.Contains(strings.SplitN(text, "\n", 2)[0], shortVerdict(doc.Verdict)) {
			return text, code, doc
		}
	}
	require.Fail(t, "explain says one thing and then another", text)
	return
}

// shortVerdict is the verdict of a document as the text has it.
func shortVerdict(verdict string) string {
	if verdict == "uncertain" {
		return "may be stopped"
	}
	return verdict
}

// try brings a fault about, compares what the client meets with what explain says, and undoes it.
// It returns what explain printed.
func (f fault) try(t *testing.T, b *faultBed) (printed string) {
	t.Helper()
	t.Cleanup(func() {
		if f.stop != nil {
			f.stop(t, b)
		}
		b.do(t, f.undo)
	})
	b.do(t, f.inject)
	if f.run != nil {
		f.run(t, b)
	}
	require.Equal(t, f.meets, b.meets(t, cmp.Or(f.ask, faultFrontend)), "what the client meets")
	text, code, doc := b.explains(t, cmp.Or(f.explain, faultQuery))
	for i := 0; i < 20 && doc.Verdict == "uncertain" && f.kind == report.KindConntrack; i++ {
		text, code, doc = b.explains(t, faultQuery) // of a moment without room
	}
	if f.passes {
		require.Zero(t, code, text)
		return text
	}
	require.Equal(t, 1, code, text)
	require.Equal(t, "stopped", doc.Verdict, text)
	require.Equal(t, f.kind, doc.Cause.Kind, text)
	for _, thing := range f.thing {
		require.Contains(t, doc.Cause.Thing+"\n"+doc.Cause.What, thing, text)
	}
	require.NotEmpty(t, doc.Cause.Remedy, text)
	return text
}

// Each fault of docs/troubleshooting.md is brought about; explain names it, and passes again when it is
// undone. With -update the page is written anew.
func TestFaults(t *testing.T) {
	for _, way := range labtest.Some(t, "ways to serve localhost with faults", 2, waysOfLoopback) {
		t.Run(way, func(t *testing.T) { everyFault(t, way) })
	}
}

func everyFault(t *testing.T, loopback string) {
	t.Helper()
	requireBPF(t)
	beds := map[bool]*faultBed{}
	printed := map[string]string{}
	faults := eighteenFaults()
	for _, f := range faults {
		if beds[f.direct] == nil {
			beds[f.direct] = newFaultBed(t, loopback, f.direct)
		}
		b := beds[f.direct]
		passed := t.Run(strings.ReplaceAll(f.name, " ", "_"), func(t *testing.T) {
			require.Equal(t, meetsAnswer, b.meets(t, faultFrontend), "before the fault")
			printed[f.name] = f.try(t, b)
		})
		require.True(t, passed)
		require.Equal(t, meetsAnswer, b.meets(t, faultFrontend), "after the fault")
		text := b.run(t, "explain "+faultQuery)
		require.Zero(t, text.Code, "after %s: %s", f.name, text.Stdout)
	}
	if len(printed) == len(faults) { // all of them were run
		requirePage(t, "troubleshooting.md", troubleshooting(faults, printed))
		var have strings.Builder
		for _, block := range docBlocks(t, "docs/troubleshooting.md") {
			have.WriteString(block.text)
		}
		for _, f := range faults {
			require.Contains(t, have.String(), withoutCounts(printed[f.name]))
		}
	}
}
