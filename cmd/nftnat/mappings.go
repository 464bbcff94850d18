// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

func newAdd(g *global) *cobra.Command {
	var (
		name, ttl                      string
		noProxy, proxyOnly, masquerade bool
		replace, kill                  bool
		ifName, hold                   string
		from                           []string
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
			"name unless --name gives another one.\n\n" +
			"With --masquerade or --proxy-only the backend sees this host as the client: for\n" +
			"backends that have no route back to the clients. --from, which can be repeated,\n" +
			"says who may reach the port; clients on this host always may.\n\n" +
			"With --hold shared, the port is published though another program has it, which must\n" +
			"not be used for that: nerdctl, podman and dockerd keep the ports of containers so.",
		Example: "  nftnat add tcp 8080 172.17.0.2:80\n" +
			"  nftnat add udp 192.0.2.1:53 172.17.0.2 --name dns\n" +
			"  nftnat add tcp 8000-8009 172.17.0.2:9000-9009\n" +
			"  nftnat add tcp 0 '[fd00::2]:80' --ttl 1h\n" +
			"  nftnat add tcp 25565 10.8.0.2 --masquerade --from 192.0.2.0/24",
		Args: usage(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := nat.ParseMapping(args[0], args[1], args[2])
			if err != nil {
				return err
			}
			m.Name, m.NoProxy, m.ProxyOnly, m.Masquerade = name, noProxy, proxyOnly, masquerade
			if m.From, err = nat.ParseSources(from...); err != nil {
				return err
			}
			if m.Hold, err = nat.ParseHold(hold); err != nil {
				return err
			}
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
			how := nat.PublishOptions{Replace: replace, Kill: kill, IfName: ifName}
			if cmd.Flags().Changed("if-name") {
				if !replace {
					return usageError{errors.New("--if-name is about what --replace replaces")}
				}
				if err := nat.ValidateName(ifName); err != nil {
					return err
				}
			}
			if proxyOnly && g.direct {
				return usageError{errors.New("--proxy-only needs the daemon: with --direct nobody is served")}
			}
			if err := m.Validate(); err != nil {
				return err
			}
			return change(g, cmd, func(p publisher, ctx context.Context) ([]nat.Mapping, error) {
				return p.Publish(ctx, how, m)
			}, g.mappingDoc, printMappings, same)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "`NAME` of the owner")
	flags.StringVar(&ttl, "ttl", "", "unpublish automatically after this `TIME`, such as 90s, 1h30m, 1d or 2w")
	flags.BoolVar(&noProxy, "no-proxy", false, "serve only what netfilter translates: not localhost")
	flags.BoolVar(&proxyOnly, "proxy-only", false, "serve by a proxy only: the backend sees this host as the client")
	flags.BoolVar(&masquerade, "masquerade", false, "give clients this host's address towards the backend")
	flags.StringArrayVar(&from, "from", nil, "let only clients from this `CIDR` or address reach the port")
	flags.BoolVar(&replace, "replace", false, "if the frontend is published already, give it this backend")
	flags.BoolVar(&kill, "kill", false, "with --replace, end TCP connections to the old backend as well")
	flags.StringVar(&ifName, "if-name", "", "with --replace, replace only what has this `NAME`")
	flags.StringVar(&hold, "hold", nat.HoldOwn.String(), "own: keep other programs from using the port; shared: another one has it")
	cmd.ValidArgsFunction = completeProto()
	completeFlag(cmd, "name", g.complete(mappingNames))
	completeFlag(cmd, "if-name", g.complete(mappingNames))
	completeFlag(cmd, "hold", cobra.FixedCompletions([]string{"own", "shared"}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "ttl", cobra.FixedCompletions([]string{"1h", "1d", "2w"}, cobra.ShellCompDirectiveNoFileComp))
	return offer(cmd, toDaemon+forPorts)
}

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
			"backend. --name alone removes all mappings of a name in one transaction; with a port,\n" +
			"it is removed only if it still has that name.\n\n" +
			"UDP flows end at once. Established TCP connections go on, unless --kill is given.",
		Example: "  nftnat rm tcp 8080\n  nftnat rm 53/udp\n  nftnat rm udp 192.0.2.1:53\n" +
			"  nftnat rm '8080->172.17.0.2:80'\n  nftnat rm --name web\n" +
			"  nftnat rm tcp 8080 --name web",
		RunE: func(cmd *cobra.Command, args []string) error {
			what, err := removal(args, name, cmd.Flags().Changed("name"))
			if err != nil {
				return err
			}
			what.Kill = kill
			return show(g, cmd, writing, func(p publisher, ctx context.Context) ([]nat.Mapping, error) {
				return p.Remove(ctx, what)
			}, g.mappingDoc, printMappings)
		},
	}
	cmd.Args = usage(func(_ *cobra.Command, args []string) error {
		named := cmd.Flags().Changed("name")
		protoAlone := len(args) == 1 && (args[0] == "tcp" || args[0] == "udp")
		if len(args) > 2 || !named && len(args) == 0 || protoAlone {
			return errors.New("wrong number of arguments")
		}
		return nil
	})
	cmd.Flags().StringVar(&name, "name", "", "unpublish what has this name: all, or the port given")
	cmd.Flags().BoolVar(&kill, "kill", false, "end established TCP connections to the backend as well")
	cmd.ValidArgsFunction = g.completeRemoved
	completeFlag(cmd, "name", g.complete(mappingNames))
	return offer(cmd, toDaemon+forPorts)
}

// removal reads what is to be unpublished: PROTO FRONTEND, FRONTEND[/PROTO] or the text of
// a mapping, where a name is given only if it has it; or nothing, and all of the name.
func removal(args []string, name string, named bool) (nat.Removal, error) {
	var r nat.Removal
	var err error
	switch len(args) {
	case 0:
	case 1:
		r, err = parseRemoved(args[0])
	default:
		var proto nat.Proto
		if proto, err = nat.ParseProto(args[0]); err == nil {
			r, err = removalOf(proto, args[1])
		}
	}
	if r.Name = name; err == nil && named {
		err = nat.ValidateName(name)
	}
	return r, err
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

func newLs(g *global) *cobra.Command {
	var (
		name string
		wide bool
	)
	cmd := &cobra.Command{
		Use:        "ls [PROTO]",
		Aliases:    []string{"list"},
		SuggestFor: []string{"show"},
		Short:      "List what is published",
		Long: "List what is published: a table in which consecutive ports are one range, or\n" +
			"with --json an array with an object for each port, or with --ranges for each range.\n" +
			"With --wide also how many connections each has, which takes longer: all that the\n" +
			"kernel tracks are read.",
		Example: "  nftnat ls\n  nftnat ls udp --name dns\n  nftnat ls --wide\n  nftnat ls --json --ranges",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted, err := filterOf(args, name, cmd.Flags().Changed("name"))
			if err != nil {
				return err
			}
			if wide {
				return show(g, cmd, reading, func(p publisher, ctx context.Context) (wideList, error) {
					return connectionsOf(ctx, p, wanted)
				}, g.wideDocs, func(w io.Writer, l wideList) error { return l.print(w) })
			}
			return show(g, cmd, reading, func(p publisher, ctx context.Context) ([]nat.Mapping, error) {
				ms, err := p.Mappings(ctx)
				return slices.DeleteFunc(ms, func(m nat.Mapping) bool { return !wanted(m) }), err
			}, func(ms []nat.Mapping) mappingDoc {
				if g.ranges {
					ms = nat.Collapse(ms)
				}
				return g.mappingDoc(ms)
			}, listMappings)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "list only mappings of this name")
	cmd.Flags().BoolVar(&wide, "wide", false, "list how many connections each has")
	cmd.ValidArgsFunction = completeProto()
	completeFlag(cmd, "name", g.complete(mappingNames))
	return offer(cmd, toDaemon+forPorts)
}

// filterOf is what is listed: all, or what is of a protocol or a name.
func filterOf(args []string, name string, named bool) (func(nat.Mapping) bool, error) {
	var proto nat.Proto
	if len(args) == 1 {
		var err error
		if proto, err = nat.ParseProto(args[0]); err != nil {
			return nil, err
		}
	}
	if named {
		if err := nat.ValidateName(name); err != nil {
			return nil, err
		}
	}
	name = nat.Name(name)
	return func(m nat.Mapping) bool { return (proto == 0 || m.Proto == proto) && (!named || m.Name == name) }, nil
}

// timeLeft is the time until at, in the largest unit that has at least two.
func timeLeft(at, now time.Time) string {
	left := at.Sub(now)
	switch {
	case left < 2*time.Minute:
		return fmt.Sprintf("in %ds", max(left/time.Second, 0))
	case left < 2*time.Hour:
		return fmt.Sprintf("in %dm", left/time.Minute)
	case left < 48*time.Hour:
		return fmt.Sprintf("in %dh", left/time.Hour)
	}
	return fmt.Sprintf("in %dd", left/(24*time.Hour))
}

func listMappings(w io.Writer, ms []nat.Mapping) error {
	return listColumns(w, nat.Collapse(ms), "", nil)
}

// listColumns prints mappings with a column more, unless its head is "".
func listColumns(w io.Writer, ms []nat.Mapping, more string, column func(nat.Mapping) string) error {
	options := slices.ContainsFunc(ms, func(m nat.Mapping) bool { return optionText(m) != "" })
	return printTable(w, func(w io.Writer) {
		head := "PROTO\tFRONTEND\tBACKEND\tNAME\tPROXY\tEXPIRES"
		if more != "" {
			head += "\t" + more
		}
		if options {
			head += "\tOPTIONS"
		}
		fmt.Fprintln(w, head)
		for _, m := range ms {
			expires := "never"
			if !m.Expires.IsZero() {
				expires = timeLeft(m.Expires, time.Now())
			}
			if more != "" {
				expires += "\t" + column(m)
			}
			if options {
				expires += "\t" + optionText(m)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n",
				m.Proto, m.FrontendText(), m.BackendText(), printable.Text(m.Name), proxyText(m), expires)
		}
	})
}

// proxyText says what a proxy does for a mapping.
func proxyText(m nat.Mapping) string {
	if m.ProxyOnly {
		return "only"
	}
	return yesOrNo(!m.NoProxy)
}

// optionText says what few mappings have; "" for the others.
func optionText(m nat.Mapping) string {
	var words []string
	if m.Masquerade {
		words = append(words, "masquerade")
	}
	if !m.From.IsZero() {
		words = append(words, "from "+m.From.String())
	}
	if m.Hold != nat.HoldOwn {
		words = append(words, m.Hold.String())
	}
	return strings.Join(words, ", ")
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
