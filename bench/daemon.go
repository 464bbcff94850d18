// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// daemon is a running nftnat daemon.
type daemon struct {
	ns     *lab.NS
	socket string
	cmd    *exec.Cmd
}

// withDaemon runs a daemon in the namespace.
func withDaemon(t *tools, ns *lab.NS, f func(*daemon) error) error {
	d, err := startDaemon(ns, t.nftnat, filepath.Join(t.dir, "nftnat.sock"))
	if err != nil {
		return err
	}
	defer d.end()
	return f(d)
}

// startDaemon starts a daemon and waits until it is ready (sd_notify(3)).
func startDaemon(ns *lab.NS, program, socket string) (*daemon, error) {
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket + ".notify", Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer func() { _, _ = told.Close(), os.Remove(told.LocalAddr().String()) }()
	d := &daemon{ns, socket, exec.Command(program, "serve", "--socket", socket, "--quiet")}
	d.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+told.LocalAddr().String())
	d.cmd.Stderr = os.Stderr
	if err := ns.Do(d.cmd.Start); err != nil {
		return nil, fmt.Errorf("start daemon: %w", err)
	}
	if err := told.SetDeadline(time.Now().Add(readiness)); err != nil {
		d.end()
		return nil, err
	}
	word := make([]byte, 256)
	n, err := told.Read(word)
	if err == nil && string(word[:n]) != "READY=1" {
		err = fmt.Errorf("it said %q", word[:n])
	}
	if err != nil {
		_ = d.cmd.Process.Signal(unix.SIGQUIT) // it prints its goroutines
		_ = d.cmd.Wait()
		return nil, fmt.Errorf("wait for daemon: %w", err)
	}
	return d, nil
}

// end ends the daemon and waits for it.
func (d *daemon) end() {
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	_ = d.cmd.Wait()
}

// settleTime is the wait before the memory of a daemon is read, and uses the number of requests
// between two readings.
const (
	settleTime = 2 * time.Second
	uses       = 50
)

// idle notes the memory of a daemon when it has started, and when it has been used.
func (d *daemon) idle(name string, r *table) error {
	time.Sleep(settleTime)
	d.memory(name, "started", r)
	for range uses {
		for _, args := range [][]string{
			{"add", "--quiet", "tcp", "40000", backend().String() + ":80"}, {"rm", "tcp", "40000"}, {"ls", "--json"}, {"status"},
		} {
			if err := exec.Command(d.cmd.Path, append([]string{"--socket", d.socket}, args...)...).Run(); err != nil {
				return fmt.Errorf("nftnat %s: %w", args[0], err)
			}
		}
	}
	time.Sleep(settleTime)
	d.memory(name, "used", r)
	return nil
}

// memory notes what a daemon has: resident, and what processes share divided among them
// (proc_pid_smaps(5)).
func (d *daemon) memory(name, when string, r *table) {
	for _, kind := range []string{"Rss", "Pss"} {
		r.add(fmt.Sprintf("%s, %s, %s", name, when, strings.ToUpper(kind)), smaps(d.cmd.Process.Pid, kind)/1024)
	}
}
