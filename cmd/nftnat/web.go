// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/confine"
	"github.com/nftnat/nftnat/web"
)

func newWeb(g *global) *cobra.Command {
	var (
		log               logFlags
		listen, tokenFile string
		gateway           string
		hosts             []string
	)
	cmd := &cobra.Command{
		Use:   "web --listen ADDR",
		Short: "Serve a page of what is published",
		Long: "Serve a page over HTTP: what is published, by whom, until when and how much it is used,\n" +
			"what is wrong and why, and the leases of the gateway. The page follows what happens, and\n" +
			"can be read without script; /status.json has the same for programs.\n\n" +
			"Everybody who can reach ADDR can read it: let it be an address of the LAN. Nobody can\n" +
			"change anything, unless --token-file is given: then clients that send the token can\n" +
			"publish and unpublish. There is no TLS.\n\n" +
			"Requests must have been sent to ADDR, or to a name of --host. SIGTERM ends it.",
		Example: "  nftnat web --listen 192.168.1.1:8081 --host router.lan",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			log.complete(cmd.Flags().Changed)
			if err := refuseEmpty(cmd.Flags(), "token-file", "gateway"); err != nil {
				return err
			}
			o := web.Options{Daemon: api.NewClient(g.socketPath()), Gateway: api.NewClient(gateway)}
			if g.log, err = log.logger(g.stderr); err != nil {
				return err
			}
			o.Log = g.logger()
			for _, h := range hosts {
				name, err := web.ParseName(h)
				if err != nil {
					return err
				}
				o.Names = append(o.Names, name)
			}
			if listen == "" {
				return usageError{fmt.Errorf("--listen says where, such as 192.168.1.1:8081")}
			}
			if tokenFile != "" {
				if o.Token, err = web.ReadToken(tokenFile); err != nil {
					return usageError{err}
				}
			}
			o.Title, _ = os.Hostname() // for people
			if o.Listener, err = net.Listen("tcp", listen); err != nil {
				return usageError{err}
			}
			if r := confine.Apply(confine.Options{}); len(r.Missing) != 0 {
				for _, err := range r.Missing {
					o.Log.Warn("the page keeps more than it needs", "error", err)
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			o.Log.Info("serving the page", "address", o.Listener.Addr())
			return web.Run(ctx, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&listen, "listen", "", "serve the page at this TCP `ADDR`")
	flags.StringVar(&tokenFile, "token-file", "", "let clients that have the token in `FILE` change what is published")
	flags.StringArrayVar(&hosts, "host", nil, "answer requests to this `NAME` of the host too")
	flags.StringVar(&gateway, "gateway", defaultGatewaySocket, "ask the gateway at the socket `PATH`, if one answers")
	log.add(cmd)
	return offer(cmd, "socket quiet")
}
