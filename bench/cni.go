// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/cni"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/nat"
)

const (
	// manyPods is how many pods there are where there are many.
	manyPods = 1000
	// podsARound is how many come and go in a round.
	podsARound = 10
)

// plugin is a CNI plugin in a namespace.
type plugin struct {
	name, path, backend string
	ns                  *lab.NS
	socket              string
}

// benchCNI measures the plugin as a runtime executes it, for a pod more and a pod less.
func benchCNI(rep *report, s settings) error {
	return withTools(func(t *tools) error {
		link := filepath.Join(t.dir, cni.Type)
		if err := os.Symlink(t.nftnat, link); err != nil {
			return err
		}
		add := rep.table("A pod with one port more, as a CNI runtime executes the plugin (ADD)", seconds)
		del := rep.table("A pod less (DEL)", seconds)
		portmap, err := buildPortmap(t.dir)
		if err != nil {
			add.note("portmap is left out: %v", err)
		}
		return inNamespace(func(theirs *lab.NS) error {
			return inNamespace(func(few *lab.NS) error {
				return inNamespace(func(many *lab.NS) error {
					var plugins []plugin
					if portmap != "" && installed(add, "nft") {
						plugins = append(plugins, plugin{name: "portmap, nftables, 1 pod", path: portmap, backend: "nftables", ns: theirs})
					}
					return withPods(t, few, 0, func(fewSocket string) error {
						return withPods(t, many, manyPods-1, func(manySocket string) error {
							plugins = append(plugins,
								plugin{name: "nftnat-cni, 1 pod", path: link, ns: few, socket: fewSocket},
								plugin{name: fmt.Sprintf("nftnat-cni, %d pods", manyPods), path: link, ns: many, socket: manySocket})
							return comeAndGo(t, plugins, s.rounds, add, del)
						})
					})
				})
			})
		})
	})
}

// comeAndGo has a pod come and go with each plugin in turn.
func comeAndGo(t *tools, plugins []plugin, rounds int, add, del *table) error {
	for range rounds * podsARound {
		for _, p := range plugins {
			for _, step := range []struct {
				command string
				took    *table
			}{{"ADD", add}, {"DEL", del}} {
				if err := t.measured(p.ns, step.took, nil, p.name, p.call(step.command)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// call prepares an execution.
func (p *plugin) call(command string) *exec.Cmd {
	keys := ""
	if p.backend != "" {
		keys = `,"backend":"` + p.backend + `"`
	}
	cmd := exec.Command(p.path)
	cmd.Env = append(os.Environ(),
		"CNI_COMMAND="+command, "CNI_CONTAINERID=pod", "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/pod", "CNI_PATH=/opt/cni/bin", "NFTNAT_SOCKET="+p.socket)
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"net","type":"portmap","prevResult":{"cniVersion":"1.0.0","ips":[{"address":"` +
		backend().String() + `/24"}]},"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}` + keys + `}`)
	return cmd
}

// withPods runs a daemon that has the ports of so many pods.
func withPods(t *tools, ns *lab.NS, count int, f func(socket string) error) error {
	d, err := startDaemon(ns, t.nftnat, filepath.Join(t.dir, fmt.Sprintf("%d.sock", count)))
	if err != nil {
		return err
	}
	defer d.end()
	client := api.NewClient(d.socket)
	for i := range count {
		_, err := client.Publish(context.Background(), nat.PublishOptions{}, nat.Mapping{
			Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(10000+i)), Backend: netip.AddrPortFrom(backend(), 80),
			Name: cni.OwnerName("net", fmt.Sprint("other", i), "eth0"),
		})
		if err != nil {
			return err
		}
	}
	return f(d.socket)
}

// buildPortmap builds portmap in the version that the tests have.
func buildPortmap(dir string) (string, error) {
	root, err := root()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "portmap")
	cmd := exec.Command("go", "build", "-C", filepath.Join(root, "integration/cni"), "-trimpath", "-ldflags", "-s -w", "-o", bin,
		"github.com/containernetworking/plugins/plugins/meta/portmap")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build portmap: %w: %s", err, out)
	}
	return bin, nil
}
