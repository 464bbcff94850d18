// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// besidePage is the page whose lines the tests run unchanged.
const besidePage = "../docs/beside.md"

// besideBlock is a fenced block of the page. Readers do not see the name after its language.
var besideBlock = regexp.MustCompile("(?ms)^```(\\w+) (\\w[^\n]*)\n(.*?)^```$")

// recipes are the blocks of the page about one program, by name.
type recipes struct {
	t      *testing.T
	blocks map[string]string
	used   map[string]bool
}

// readRecipes reads the blocks whose names begin with the name of the program. It fails the
// test at the end if one was not used.
func readRecipes(t *testing.T, about string) *recipes {
	t.Helper()
	text, err := os.ReadFile(besidePage)
	require.NoError(t, err)
	r := &recipes{t: t, blocks: map[string]string{}, used: map[string]bool{}}
	for _, block := range besideBlock.FindAllStringSubmatch(string(text), -1) {
		name := block[2]
		if len(name) > len(about) && name[:len(about)+1] == about+" " {
			require.NotContains(t, r.blocks, name)
			r.blocks[name] = block[3]
		}
	}
	t.Cleanup(func() {
		for name := range r.blocks {
			if !t.Failed() && !t.Skipped() && !r.used[name] {
				t.Errorf("%s: no test uses the block %q", besidePage, name)
			}
		}
	})
	return r
}

// text is the text of a block.
func (r *recipes) text(name string) string {
	r.t.Helper()
	require.Contains(r.t, r.blocks, name, besidePage)
	r.used[name] = true
	return r.blocks[name]
}

// Each fenced block of the page is run by a test.
func TestBesidePage(t *testing.T) {
	text, err := os.ReadFile(besidePage)
	require.NoError(t, err)
	blocks := besideBlock.FindAllStringSubmatch(string(text), -1)
	require.Equal(t, strings.Count("\n"+string(text), "\n```"), 2*len(blocks), "a block has no name")
	for _, block := range blocks {
		about, _, _ := strings.Cut(block[2], " ")
		require.Contains(t, []string{"ufw", "firewalld", "docker", "nftables", "saved", "sysctl", "rp_filter", "fail2ban", "libvirt", "policy"}, about)
	}
}

// besideHost is a host that runs nftnat and, under a real systemd, another program that
// filters packets.
type besideHost struct {
	*testing.T
	*recipes

	top     *lab.Topology
	testbed *testbed
	machine *boottest.Machine
}

// newBesideHost boots a host on which a program is installed. Nothing is published yet,
// and the host does not forward.
func newBesideHost(t *testing.T, about, program string) *besideHost {
	t.Helper()
	boottest.Require(t)
	labtest.Tool(t, program)
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	labtest.EchoTCP(t, top.Client, "outside", ":80")
	return &besideHost{
		T: t, recipes: readRecipes(t, about), top: top, testbed: newTestbed(t, top.Host),
		machine: boottest.Boot(t, top.Host, nil),
	}
}

// publish starts the daemon, and publishes what the page says is published.
func (h *besideHost) publish() *labtest.Process {
	h.Helper()
	p := h.testbed.serve(h.T)
	h.testbed.succeed(h.T, "add tcp 8080 172.30.0.2:80")
	h.testbed.succeed(h.T, "add tcp 8081 [fd00:30::2]:80")
	h.testbed.succeed(h.T, "network create inside 172.30.0.0/24")
	return p
}

// restart ends the daemon and starts one after the other program has started.
func (h *besideHost) restart(p *labtest.Process, args ...string) *labtest.Process {
	h.Helper()
	require.NoError(h, p.Signal(unix.SIGTERM))
	require.Zero(h, p.Wait(), p.Output())
	return h.testbed.serve(h.T, args...)
}

// recipe runs the lines of a block in the host.
func (h *besideHost) recipe(name string) {
	h.Helper()
	h.machine.Exec("sh", "-euc", h.text(name))
}

// besidePath is a way that packets take.
type besidePath int

// The ways that the page distinguishes.
const (
	pathIn4     besidePath = iota // a client, by netfilter, IPv4
	pathIn6                       // the same, IPv6
	pathProxied                   // a client of the other family, by a proxy
	pathLocal                     // the host itself, by a proxy on 127.0.0.1
	pathHairpin                   // a backend, to a published port of its host
	pathOut                       // a backend, to a server outside
)

var besidePaths = []besidePath{pathIn4, pathIn6, pathProxied, pathLocal, pathHairpin, pathOut}

// from returns the sender, the address, and the name that answers.
func (h *besideHost) from(p besidePath) (from *lab.NS, to, name string) {
	switch p {
	case pathIn4:
		return h.top.Client, "192.0.2.1:8080", "web"
	case pathIn6:
		return h.top.Client, "[2001:db8:1::1]:8081", "web"
	case pathProxied:
		return h.top.Client, "[2001:db8:1::1]:8080", "web"
	case pathLocal:
		return h.top.Host, "127.0.0.1:8080", "web"
	case pathHairpin:
		return h.top.Backend1, "192.0.2.1:8080", "web"
	case pathOut:
		return h.top.Backend1, "192.0.2.2:80", "outside"
	}
	panic(fmt.Sprint("no such path: ", p))
}

// besideSilence is how long an answer is waited for on a path where packets are dropped.
const besideSilence = 400 * time.Millisecond

// onlyOpen checks that these paths are open and all others closed (dropped or rejected), all
// at the same time.
func (h *besideHost) onlyOpen(open ...besidePath) {
	h.Helper()
	var asked sync.WaitGroup
	failures := make([]string, len(besidePaths))
	for i, p := range besidePaths {
		from, to, want := h.from(p)
		open := slices.Contains(open, p)
		asked.Go(func() {
			ctx := context.Background()
			if !open {
				short, cancel := context.WithTimeout(ctx, labtest.Stretch(besideSilence))
				defer cancel()
				ctx = short
			}
			got, _, err := lab.Ask(ctx, from, "tcp", to, netip.AddrPort{})
			if open && (err != nil || got != want) || !open && err == nil {
				failures[i] = fmt.Sprintf("%s asks %s: open should be %t; %q answers, %v", from, to, open, got, err)
			}
		})
	}
	asked.Wait()
	require.Empty(h.T, strings.Join(slices.DeleteFunc(failures, func(s string) bool { return s == "" }), "\n"))
}

// allOpen checks that all paths are open.
func (h *besideHost) allOpen() {
	h.Helper()
	h.onlyOpen(besidePaths...)
}

// table lists nftnat's table with handles, which differ if it was recreated.
func (h *besideHost) table() string {
	h.Helper()
	return labtest.Exec(h.T, h.top.Host, "nft", "-a", "list", "table", "inet", "nftnat")
}

// shell runs other lines in the host.
func (h *besideHost) shell(lines string) { h.Helper(); h.machine.Exec("sh", "-euc", lines) }
