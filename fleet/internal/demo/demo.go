// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nftnat/nftnat/internal/lab"
)

// Options say which programs are shown, and where. Empty paths: see [Run].
type Options struct {
	Fleet string // nftnat-fleet
	Out   io.Writer
}

const (
	address = "192.0.2.100"
	site    = "http://" + address + "/"
	hosts   = 3
	// stepTime bounds every other wait.
	stepTime = 20 * time.Second
)

const mappings = `mappings:
- mapping: 192.0.2.100:80->192.0.2.50:80
  name: site
  masquerade: true
`

// demonstration is the network and what runs in it.
type demonstration struct {
	Options
	dir              string
	nftnat, etcd     string
	lan              *lab.LAN
	client, web, mid *lab.NS // mid: the machine of etcd
	hosts            []*lab.NS
	processes        []*process
	agents           []*process
}

// Run runs the demonstration. It needs root (fs.ErrPermission without), etcd in PATH, and
// nftnat in PATH or beside nftnat-fleet. Nothing outside the namespaces is changed, and nothing
// stays.
func Run(ctx context.Context, o Options) (err error) {
	d := &demonstration{Options: o}
	if d.etcd, err = exec.LookPath("etcd"); err != nil {
		return fmt.Errorf("find etcd (Debian: apt install etcd-server): %w", err)
	}
	if d.nftnat, err = exec.LookPath(filepath.Join(filepath.Dir(o.Fleet), "nftnat")); err != nil {
		if d.nftnat, err = exec.LookPath("nftnat"); err != nil {
			return fmt.Errorf("find nftnat: %w", err)
		}
	}
	if d.dir, err = os.MkdirTemp("", "nftnat-fleet-demo-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	if d.lan, err = lab.NewLAN(); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("the demo makes network namespaces, for which it has to be root: %w", err)
		}
		return err
	}
	defer func() { err = errors.Join(err, d.lan.Close()) }()
	defer d.stop()
	if err := d.build(); err != nil {
		return err
	}
	page, err := lab.EchoHTTP(d.web, "web", ":80")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, page.Close()) }()
	if err := d.start(ctx); err != nil {
		return err
	}
	return d.show(ctx)
}

// build makes the machines.
func (d *demonstration) build() error {
	for _, m := range []struct {
		name   string
		number byte
		ns     **lab.NS
	}{{"client", 2, &d.client}, {"etcd", 11, &d.mid}, {"web", 50, &d.web}} {
		var err error
		if *m.ns, err = d.lan.Add(m.name, m.number); err != nil {
			return err
		}
	}
	for i := range hosts {
		ns, err := d.lan.Add(name(i), byte(21+i))
		if err != nil {
			return err
		}
		d.hosts = append(d.hosts, ns)
	}
	d.say("a client, a web server, an etcd and three hosts, each a network namespace of its own")
	return nil
}

func name(i int) string { return fmt.Sprintf("edge%d", i+1) }

func (d *demonstration) endpoint() string { return fmt.Sprintf("http://%s:2379", d.mid.V4) }

func (d *demonstration) say(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }

// start starts etcd, the daemons and the agents.
func (d *demonstration) start(ctx context.Context) error {
	peer := fmt.Sprintf("http://%s:2380", d.mid.V4)
	if _, err := d.run(d.mid, d.etcd, "--name", "etcd", "--data-dir", filepath.Join(d.dir, "etcd"),
		"--listen-client-urls", d.endpoint(), "--advertise-client-urls", d.endpoint(),
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "etcd="+peer); err != nil {
		return err
	}
	if err := d.until(ctx, "etcd answers", func() bool { _, err := d.fleet(ctx, "get"); return err == nil }); err != nil {
		return err
	}
	for i, ns := range d.hosts {
		socket := filepath.Join(d.dir, name(i)+".sock")
		if _, err := d.run(ns, d.nftnat, "serve", "--socket", socket); err != nil {
			return err
		}
		if err := d.until(ctx, "the daemon of "+name(i)+" listens", func() bool { _, err := os.Stat(socket); return err == nil }); err != nil {
			return err
		}
		agent, err := d.run(ns, d.Fleet, "agent", "--endpoints", d.endpoint(), "--host", name(i), "--group", "edge",
			"--socket", socket, "--listen", "", "--state-dir", "")
		if err != nil {
			return err
		}
		d.agents = append(d.agents, agent)
		d.say("%s$ nftnat serve & nftnat-fleet agent --group edge &", name(i))
	}
	return nil
}

// show shows it.
func (d *demonstration) show(ctx context.Context) error {
	steps := []func(context.Context) error{
		func(ctx context.Context) error {
			return d.command(ctx, "", "float", "create", address, "--group", "edge", "--dev", lab.MachineLink)
		},
		func(ctx context.Context) error {
			return d.command(ctx, mappings, "apply", "--group", "edge", "-f", "-")
		},
		func(ctx context.Context) error { return d.serves(ctx, "") },
		d.curl,
		d.kill,
		d.curl,
		d.handOver,
		d.curl,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.say("all of it worked; the namespaces are gone")
	return nil
}

// fleet runs a command of nftnat-fleet on the client's machine.
func (d *demonstration) fleet(ctx context.Context, args ...string) (string, error) {
	return d.input(ctx, "", args...)
}

func (d *demonstration) input(ctx context.Context, in string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.Fleet, append(args, "--endpoints", d.endpoint())...)
	cmd.Stdin = strings.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	// It is in the namespace of the thread that starts it.
	if err := d.client.Do(cmd.Run); err != nil {
		return "", fmt.Errorf("nftnat-fleet %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// command runs and shows a command.
func (d *demonstration) command(ctx context.Context, in string, args ...string) error {
	line := "$ nftnat-fleet " + strings.Join(args, " ")
	if in != "" {
		line += " <<EOF\n" + in + "EOF"
	}
	d.say("%s", line)
	out, err := d.input(ctx, in, args...)
	if err == nil && out != "" {
		d.say("%s", strings.TrimRight(out, "\n"))
	}
	return err
}

// holder is the host that serves the address; empty: none.
func (d *demonstration) holder(ctx context.Context) string {
	out, err := d.fleet(ctx, "float", "ls")
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(out, "\n") {
		// ADDRESS FOR DEV HOLDER STATE; FOR has two words.
		if f := strings.Fields(line); len(f) > 5 && f[0] == address && f[5] == "serving" {
			return f[4]
		}
	}
	return ""
}

// serves waits until a host other than one serves the address and its page, and shows the list.
func (d *demonstration) serves(ctx context.Context, not string) error {
	err := d.until(ctx, "a host serves "+address, func() bool {
		h := d.holder(ctx)
		if h == "" || h == not {
			return false
		}
		actx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, _, err := lab.AskHTTP(actx, d.client, address+":80")
		return err == nil
	})
	if err != nil {
		return err
	}
	return d.command(ctx, "", "float", "ls")
}

// curl gets the page, which says by which host it was reached: that is its client.
func (d *demonstration) curl(ctx context.Context) error {
	d.say("client$ curl %s", site)
	who, peer, err := lab.AskHTTP(ctx, d.client, address+":80")
	if err != nil {
		return err
	}
	via := d.by(peer.Addr())
	d.say("the server %q answers, reached by way of %s", who, via)
	if holder := d.holder(ctx); via != holder {
		return fmt.Errorf("the request went by %s, and not by the holder, %s", via, holder)
	}
	return nil
}

// by is the name of the host with an address.
func (d *demonstration) by(a netip.Addr) string {
	for i, ns := range d.hosts {
		if ns.V4 == a {
			return name(i)
		}
	}
	return a.String()
}

// kill has the holder die: its power is off.
func (d *demonstration) kill(ctx context.Context) error {
	holder := d.holder(ctx)
	for i, ns := range d.hosts {
		if name(i) != holder {
			continue
		}
		d.say("%s dies: its agent is killed, and its cable is cut", holder)
		d.agents[i].kill()
		if err := d.lan.Cut(ns); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := d.serves(ctx, holder); err != nil {
		return err
	}
	d.say("%.1f s after it died, another host serves", time.Since(begin).Seconds())
	return nil
}

// handOver moves the address to the third host.
func (d *demonstration) handOver(ctx context.Context) error {
	holder := d.holder(ctx)
	for i := range d.hosts {
		if name(i) == holder || d.agents[i].ended() {
			continue
		}
		if err := d.command(ctx, "", "handover", address, name(i)); err != nil {
			return err
		}
		return d.serves(ctx, holder)
	}
	return errors.New("there is no third host")
}

// until waits for a condition. If it does not come, the error has what the processes said.
func (d *demonstration) until(ctx context.Context, what string, done func() bool) error {
	limit := stepTime
	for end := time.Now().Add(limit); !done(); {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait until %s: not after %v\n%s", what, limit, d.output())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}
