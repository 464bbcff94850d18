// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

func newAdd(g *global) *cobra.Command {
	var (
		name    string
		ttl     string
		noProxy bool
		replace bool
		kill    bool
	)
	cmd := &cobra.Command{
		Use:   "add PROTO FRONTEND BACKEND",
		Short: "Publish a port, or a range of ports",
		Long: "Publish a port of this host, or a range of ports, to a backend.\n\n" +
			"PROTO is tcp or udp. FRONTEND is PORT, FIRST-LAST, ADDR:PORT, [V6]:PORT,\n" +
			"ADDR:FIRST-LAST, or 0 for the next free port. BACKEND is ADDR, ADDR:PORT or\n" +
			"ADDR:FIRST-LAST; without ports it has those of the frontend.\n\n" +
			"Repeating a command changes nothing, except that the time of --ttl starts again. A\n" +
			"repeat without --ttl removes the time limit. With --replace, the mapping keeps its\n" +
			"name unless --name gives another one.",
		Example: "  nftnat add tcp 8080 172.17.0.2:80\n" +
			"  nftnat add udp 192.0.2.1:53 172.17.0.2 --name dns\n" +
			"  nftnat add tcp 8000-8009 172.17.0.2:9000-9009\n" +
			"  nftnat add tcp 0 '[fd00::2]:80' --ttl 1h",
		Args: usage(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := nat.ParseMapping(args[0], args[1], args[2])
			if err != nil {
				return err
			}
			m.Name, m.NoProxy = name, noProxy
			if cmd.Flags().Changed("ttl") {
				left, err := nat.ParseTTL(ttl)
				if err != nil {
					return err
				}
				m.Expires = time.Now().Add(left).UTC().Truncate(time.Millisecond)
			}
			if kill && !replace {
				return usageError{errors.New("--kill ends connections to what --replace replaces")}
			}
			if err := m.Validate(); err != nil {
				return err
			}
			return g.with(cmd.Context(), writing, func(p publisher) error {
				stop := g.showProgress(cmd.Context(), p)
				done, err := p.Publish(cmd.Context(), nat.PublishOptions{Replace: replace, Kill: kill}, m)
				stop()
				if err != nil {
					return err
				}
				return g.printMappings(cmd, done)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "`NAME` of the owner, at most 63 bytes")
	flags.StringVar(&ttl, "ttl", "", "unpublish automatically after this `TIME`, such as 90s, 1h30m, 1d or 2w")
	flags.BoolVar(&noProxy, "no-proxy", false, "serve only what netfilter translates: not localhost")
	flags.BoolVar(&replace, "replace", false, "if the frontend is published already, give it this backend")
	flags.BoolVar(&kill, "kill", false, "with --replace, end TCP connections to the old backend as well")
	cmd.ValidArgsFunction = completeFirst("tcp", "udp")
	for _, flag := range []string{"name", "ttl"} { // the flags are there, which is the only error
		complete := g.complete(mappingNames)
		if flag == "ttl" {
			complete = cobra.FixedCompletions([]string{"1h", "1d", "2w"}, cobra.ShellCompDirectiveNoFileComp)
		}
		_ = cmd.RegisterFlagCompletionFunc(flag, complete)
	}
	return offer(cmd, toDaemon+forJSON)
}

// printMappings prints each mapping on a line of its own, a range as one, or as an
// array of JSON documents, ranges expanded.
func (g *global) printMappings(cmd *cobra.Command, ms []nat.Mapping) error {
	if g.json {
		return printJSON(cmd.OutOrStdout(), api.Mappings(ms))
	}
	for _, m := range ms {
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), m); err != nil {
			return err
		}
	}
	return nil
}
