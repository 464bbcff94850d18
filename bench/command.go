// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
)

// commands is how many times a command is run in a round.
const commands = 20

// benchCommand measures commands to a daemon that runs.
func benchCommand(rep *report, s settings) error {
	return withTools(func(t *tools) error {
		if err := rep.add(t, s); err != nil {
			return err
		}
		return rep.addRange(t, s)
	})
}

// add measures one mapping more by a command. There is a turn of each variant after the
// other, for what else the machine does lasts longer than one of them.
func (rep *report) add(t *tools, s settings) error {
	took := rep.table("One mapping more by a command", seconds)
	memory := rep.table("One mapping more by a command, memory of the command at most", "KiB")
	for range s.rounds {
		err := inNamespace(func(theirs *lab.NS) error {
			if err := withEngine(theirs, func(e *engine.Engine) error { return applied(e, 1) }); err != nil {
				return err
			}
			return inNamespace(func(ours *lab.NS) error {
				return withDaemon(t, ours, func(d *daemon) error {
					for port := range commands {
						if err := addOnce(t, d, theirs, port+1, took, memory); err != nil {
							return err
						}
					}
					return nil
				})
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func addOnce(t *tools, d *daemon, theirs *lab.NS, port int, took, memory *table) error {
	if installed(took, "nft") {
		element := fmt.Sprintf("{ %d : %s . %d }", port, backend(), port)
		err := t.process(theirs, took, memory, "nft add element", "nft", "add", "element", "inet", "nftnat", "tcp4", element)
		if err != nil {
			return err
		}
	}
	if err := t.process(d.ns, took, memory, "a Go program that says hello", t.hello); err != nil {
		return err
	}
	if err := t.process(d.ns, took, memory, "nftnat version", t.nftnat, "version"); err != nil {
		return err
	}
	if err := t.process(d.ns, took, memory, "nftnat add, daemon running", t.nftnat,
		"--socket", d.socket, "add", "tcp", strconv.Itoa(port), backend().String()); err != nil {
		return err
	}
	return t.process(d.ns, took, memory, "nftnat add --no-proxy, daemon running", t.nftnat,
		"--socket", d.socket, "add", "--no-proxy", "tcp", strconv.Itoa(commands+port), backend().String())
}

// applied fills a table with so many mappings.
func applied(e *engine.Engine, count int) error {
	_, err := e.Apply(context.Background(), mappings(firstPort, count)...)
	return err
}

// otherFiles is how many descriptors a daemon has besides those of ports, and more.
const otherFiles = 100

// addRange measures a range of ports in one command.
func (rep *report) addRange(t *tools, s settings) error {
	count, note := s.portRange, ""
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if most := int(min(limit.Max, 1<<16)) - otherFiles; count > most {
		note = fmt.Sprintf("asked for were %d ports; a process can have %d descriptors here", count, limit.Max)
		count = most
	}
	took := rep.table(fmt.Sprintf("%d UDP ports by one command", count), seconds)
	memory := rep.table(fmt.Sprintf("%d UDP ports by one command, memory (RSS) of the daemon then", count), "KiB")
	if note != "" {
		took.note("%s", note)
	}
	ports := fmt.Sprintf("%d-%d", firstPort, firstPort+count-1)
	for range min(s.rounds, 3) {
		for _, v := range []struct {
			name string
			args []string
		}{
			{"nftnat add udp FIRST-LAST --no-proxy", []string{"--no-proxy"}},
			{"nftnat add udp FIRST-LAST", nil},
		} {
			err := inNamespace(func(ns *lab.NS) error {
				return withDaemon(t, ns, func(d *daemon) error {
					args := append([]string{"--socket", d.socket, "add", "udp", ports, backend().String()}, v.args...)
					if err := t.process(ns, took, nil, v.name, t.nftnat, args...); err != nil {
						return err
					}
					memory.add(v.name, smaps(d.cmd.Process.Pid, "Rss")/1024)
					return nil
				})
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
