// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/agent"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/internal/buildinfo"
)

// An agent has little to keep, and its garbage is mostly what etcd told at its start.
const (
	garbagePercent = 30
	memoryLimit    = 16 << 20
)

func newAgent(g *global) *cobra.Command {
	var o agent.Options
	var socket, own, dir string
	name, _ := os.Hostname()
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Make this host's daemon have what the fleet wants",
		Long: "agent runs on each host, beside its nftnat daemon. It needs the daemon's socket, and for floating\n" +
			"addresses CAP_NET_ADMIN and CAP_NET_RAW. It ends if another agent has its name.",
		Example: "  nftnat-fleet agent --endpoints https://etcd1:2379,https://etcd2:2379 --group edge",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := keys.ValidateName("host", o.Host); err != nil {
				return err
			}
			if o.TTL < 2*time.Second || o.TTL > time.Minute || o.TTL%time.Second != 0 {
				return usageError{fmt.Errorf("--ttl %s: a lease has whole seconds, 2 to 60", o.TTL)}
			}
			if o.Store, err = g.options(); err != nil {
				return err
			}
			if dir != "" {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return err
				}
				o.StateFile = filepath.Join(dir, o.Host+".json")
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(garbagePercent)
			}
			if os.Getenv("GOMEMLIMIT") == "" {
				debug.SetMemoryLimit(memoryLimit)
			}
			if own != "" {
				if o.Listener, err = api.Listen(own, socketGroup(socket)); err != nil {
					return err
				}
				defer o.Listener.Close()
			}
			o.Daemon, o.Version = api.NewClient(socket), buildinfo.Version
			o.Log = slog.New(slog.NewTextHandler(g.stderr, nil))
			if err = agent.Run(cmd.Context(), o); errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
				return nil // it was asked to end
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Host, "host", name, "the `NAME` of this host, which no other has")
	flags.StringSliceVar(&o.Groups, "group", nil, "a `NAME` of a group that this host is in; may be given several times")
	flags.StringVar(&socket, "socket", cmp.Or(os.Getenv("NFTNAT_SOCKET"), defaultSocket), "ask the daemon at the socket `PATH`")
	flags.StringVar(&own, "listen", cmp.Or(os.Getenv("NFTNAT_FLEET_AGENT"), defaultAgent), "serve the commands of this host, which lease from shared networks, at the socket `PATH`; empty: nowhere")
	flags.StringVar(&dir, "state-dir", "/var/lib/nftnat-fleet", "keep the lease and the newest revision in this `DIRECTORY`; empty: nowhere")
	flags.DurationVar(&o.TTL, "ttl", 5*time.Second, "how long etcd takes this host for alive without an answer")
	return cmd
}

// socketGroup is the group of the daemon's socket, whose members may lease; -1: that of the process.
func socketGroup(path string) int {
	info, err := os.Stat(path)
	if err != nil {
		return -1
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(stat.Gid)
}
