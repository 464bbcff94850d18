// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/engine"
)

func newRm(g *global) *cobra.Command {
	var kill bool
	cmd := &cobra.Command{
		Use:   "rm PROTO FRONTEND",
		Short: "Unpublish a port, or a range of ports",
		Long: "Unpublish a port, or a range of ports. PROTO and FRONTEND are those that it was\n" +
			"published with. Flows over UDP end at once; connections over TCP that are established\n" +
			"go on, unless --kill ends them too.",
		Example: "  nftnat rm tcp 8080\n  nftnat rm udp 192.0.2.1:53",
		Args:    usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			proto, err := engine.ParseProto(args[0])
			if err != nil {
				return err
			}
			frontend, more, err := engine.ParseFrontend(args[1])
			if err != nil {
				return err
			}
			m := engine.Mapping{Proto: proto, Frontend: frontend, More: more}
			return g.with(cmd.Context(), writing, func(p publisher) error {
				unpublish := p.Unpublish
				if kill {
					unpublish = p.Kill
				}
				stop := g.showProgress(cmd.Context(), p)
				gone, err := unpublish(cmd.Context(), m)
				stop()
				if err != nil {
					return err
				}
				return g.printMappings(cmd, gone)
			})
		},
	}
	cmd.Flags().BoolVar(&kill, "kill", false, "end established TCP connections as well")
	return cmd
}
