// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/nat"
)

func newRm(g *global) *cobra.Command {
	var (
		name string
		kill bool
	)
	cmd := &cobra.Command{
		Use:     "rm PROTO FRONTEND | FRONTEND[/PROTO] | MAPPING | --name N",
		Aliases: []string{"remove", "delete"},
		Short:   "Unpublish a port, a range of ports, or all mappings of a name",
		Long: "Unpublish a port or a range of ports, and print what was published. PROTO and\n" +
			"FRONTEND are as given to add; without PROTO it is tcp. MAPPING is a line that add\n" +
			"printed, in quotes because of the \">\": it is removed only if it still leads to that\n" +
			"backend. --name removes all mappings of a name in one transaction.\n\n" +
			"UDP flows end at once. Established TCP connections go on, unless --kill is given.",
		Example: "  nftnat rm tcp 8080\n  nftnat rm 53/udp\n  nftnat rm udp 192.0.2.1:53\n" +
			"  nftnat rm '8080->172.17.0.2:80'\n  nftnat rm --name web",
		RunE: func(cmd *cobra.Command, args []string) error {
			what, err := removal(args, name, cmd.Flags().Changed("name"))
			if err != nil {
				return err
			}
			what.Kill = kill
			return g.with(cmd.Context(), writing, func(p publisher) error {
				stop := g.showProgress(cmd.Context(), p)
				gone, err := p.Remove(cmd.Context(), what)
				stop()
				if err != nil {
					return err
				}
				return g.printMappings(cmd, gone)
			})
		},
	}
	cmd.Args = usage(func(_ *cobra.Command, args []string) error {
		named := cmd.Flags().Changed("name")
		protoAlone := len(args) == 1 && (args[0] == "tcp" || args[0] == "udp")
		if named && len(args) != 0 || !named && len(args) != 1 && len(args) != 2 || protoAlone {
			return errors.New("wrong number of arguments")
		}
		return nil
	})
	cmd.Flags().StringVar(&name, "name", "", "unpublish all mappings of this name")
	cmd.Flags().BoolVar(&kill, "kill", false, "end established TCP connections to the backend as well")
	cmd.ValidArgsFunction = g.completeRemoved
	_ = cmd.RegisterFlagCompletionFunc("name", g.complete(mappingNames)) // the flag is there, which is the only error
	return offer(cmd, toDaemon+forJSON)
}

// removal reads what is to be unpublished: PROTO FRONTEND, FRONTEND[/PROTO] or the text of
// a mapping, or nothing where a name is given.
func removal(args []string, name string, named bool) (nat.Removal, error) {
	switch {
	case named:
		return nat.Removal{Name: name}, nat.ValidateName(name)
	case len(args) == 1:
		return parseRemoved(args[0])
	}
	proto, err := nat.ParseProto(args[0])
	if err != nil {
		return nat.Removal{}, err
	}
	return removalOf(proto, args[1])
}

// parseRemoved reads FRONTEND[/PROTO] or the text of a mapping.
func parseRemoved(text string) (nat.Removal, error) {
	if strings.Contains(text, "->") {
		m, err := nat.ParseMappingText(text)
		if err == nil && m.Frontend.Port() == 0 {
			err = &nat.InvalidError{What: "mapping", Input: text, Reason: "port 0 names no mapping"}
		}
		if err == nil {
			err = m.Validate()
		}
		if err != nil {
			return nat.Removal{}, err
		}
		return nat.Removal{Mappings: []nat.Mapping{m}, Exact: true}, nil
	}
	frontend, word, given := strings.Cut(text, "/")
	proto := nat.TCP
	if given {
		var err error
		if proto, err = nat.ParseProto(word); err != nil {
			return nat.Removal{}, err
		}
	}
	if strings.HasSuffix(frontend, "-") { // 8080->172.17.0.2:80 without quotes
		return nat.Removal{}, usageError{fmt.Errorf(`invalid frontend %q: a mapping is quoted, as in '8080->172.17.0.2:80', for a shell takes ">" for itself`, frontend)}
	}
	return removalOf(proto, frontend)
}

func removalOf(proto nat.Proto, text string) (nat.Removal, error) {
	frontend, more, err := nat.ParseFrontend(text)
	if err != nil {
		return nat.Removal{}, err
	}
	return nat.Removal{Mappings: []nat.Mapping{{Proto: proto, Frontend: frontend, More: more}}}, nil
}
