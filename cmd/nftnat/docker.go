// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/docker"
	"github.com/nftnat/nftnat/internal/buildinfo"
)

// verbDockerProxy is the verb, and the name of the program, that dockerd executes.
const verbDockerProxy = "docker-proxy"

// dockerProxy runs docker-proxy if the command line asks for it, without making commands, which
// takes as long as all of its work.
func dockerProxy(args []string, stdout, stderr io.Writer) (status int, asked bool) {
	p := docker.Process{
		Socket: cmp.Or(os.Getenv(envSocket), defaultSocket), Args: args,
		Version: buildinfo.Version, Stdout: stdout, Stderr: stderr,
		Text: func(err error) string { return nameHolder("", err) },
	}
	switch {
	case docker.Is(args):
		p.Flags = args[1:]
	case len(args) > 1 && args[1] == verbDockerProxy && !isHelp(args[2:]):
		p.Flags = args[2:]
	default:
		return 0, false
	}
	return p.Run(), true
}

// isHelp reports whether arguments ask for the help of nftnat's command: the flags of
// docker-proxy have one dash.
func isHelp(args []string) bool { return len(args) == 1 && args[0] == "--help" }

// newDockerProxy makes the command for the help; dockerProxy runs it.
func newDockerProxy(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   verbDockerProxy + " -proto PROTO -host-ip ADDR -host-port PORT -container-ip ADDR -container-port PORT",
		Short: "Publish a port as docker-proxy does, for dockerd",
		Long: "Publish a port for as long as the process runs, with the flags and descriptors of\n" +
			"Docker's docker-proxy, for dockerd of version 20.10 or later:\n\n" +
			"  \"userland-proxy-path\": \"/usr/local/libexec/nftnat/docker-proxy\"\n\n" +
			"in /etc/docker/daemon.json, where that is a link to nftnat. The daemon publishes the\n" +
			"port, and the process that waits takes some 10 KiB. Without a daemon, the process\n" +
			"carries the port itself until one answers.\n\n" +
			"Environment: NFTNAT_SOCKET, the daemon's socket; " + docker.EnvMode + ", full, proxy-only,\n" +
			"or auto, which is proxy-only where dockerd makes rules of its own.\n\n" +
			"Exit status: 0 told to stop; 1 failed, and dockerd was told why; 2 bad flags.",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if isHelp(args) {
				return cmd.Help()
			}
			if status, _ := dockerProxy(append([]string{"nftnat", verbDockerProxy}, args...), cmd.OutOrStdout(), g.stderr); status != 0 {
				return shownError(status)
			}
			return nil
		},
	}
	return offer(cmd, "")
}

func newDocker(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "docker",
		Short: "Declare Docker's networks",
		Args:  usage(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDockerWatch(g))
	return offer(cmd, "")
}

func newDockerWatch(g *global) *cobra.Command {
	var log logFlags
	w := docker.Watch{}
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Declare Docker's networks, and follow them",
		Long: "Declare the networks of Docker's bridges as networks of nftnat, which gives containers\n" +
			"a way out and lets others reach published ports only, and follow them as they come and\n" +
			"go. It is for a dockerd with \"iptables\": false and \"ip6tables\": false in its\n" +
			"configuration, which makes no rules of its own. SIGTERM ends it; the networks stay.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			log.complete(cmd.Flags().Changed)
			if err := refuseEmpty(cmd.Flags(), "docker"); err != nil {
				return err
			}
			if g.log, err = log.logger(g.stderr); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			w.Networks, w.Log = api.NewClient(g.socketPath()), g.logger()
			return w.Run(ctx)
		},
	}
	cmd.Flags().StringVar(&w.Docker, "docker", docker.DefaultSocket, "ask dockerd at the socket `PATH`")
	log.add(cmd)
	return offer(cmd, "socket quiet")
}
