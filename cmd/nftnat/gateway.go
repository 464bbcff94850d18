// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nftnat/nftnat/gateway"
)

// defaultGatewaySocket is where a gateway answers what leases there are.
const defaultGatewaySocket = "/run/nftnat/gateway.sock"

func newGateway(g *global) *cobra.Command {
	var (
		log                 logFlags
		igd, rules, address string
		pcp                 bool
		o                   gateway.Options
	)
	cmd := &cobra.Command{
		Use:   "gateway --lan IF... --wan IF",
		Short: "Serve hosts of a LAN that ask for ports: NAT-PMP, PCP, UPnP IGD",
		Long: "Serve the hosts of a LAN that ask for ports of the WAN by NAT-PMP, PCP or UPnP IGD, as a\n" +
			"client of the daemon. What it gives is a mapping with a time-out that the kernel keeps,\n" +
			"named pmp, pcp: and the nonce, or igd: and the description. It keeps no file: after a\n" +
			"restart it knows the leases by these names.\n\n" +
			"A host gets ports for itself only. Rules are as in miniupnpd's configuration, and the\n" +
			"first one that is about the host and both ports decides; without any, ports from 1024\n" +
			"on are given, and with some, what none allows is refused:\n\n" +
			"  --deny \"0-65535 192.168.1.9 0-65535\" --allow \"1024-65535 192.168.1.0/24 1024-65535\"\n\n" +
			"Once its sockets are open, the process has no capability, and can open no file.",
		Example: "  nftnat gateway --lan br-lan --wan eth0",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			log.complete(cmd.Flags().Changed)
			if err := refuseEmpty(cmd.Flags(), "lan", "wan", "rules", "listen", "external-ip"); err != nil {
				return err
			}
			if g.log, err = log.logger(g.stderr); err != nil {
				return err
			}
			if o.IGD, err = gateway.ParseIGD(igd); err != nil {
				return usageError{fmt.Errorf("--igd: %w", err)}
			}
			// In Options, zero is the default.
			if o.Quota < 1 {
				return usageError{fmt.Errorf("--quota: %d is less than 1", o.Quota)}
			}
			if least := min(o.MinLifetime, o.MaxLifetime); least < time.Second {
				return usageError{fmt.Errorf("--min-lifetime and --max-lifetime: %s is less than a second", least)}
			}
			if address != "" {
				if o.ExternalIP, err = netip.ParseAddr(address); err != nil {
					return usageError{fmt.Errorf("--external-ip: %q is no address", address)}
				}
			}
			if rules != "" {
				if err := readRules(&o, rules); err != nil {
					return err
				}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			signal.Ignore(syscall.SIGPIPE) // the process that reads the log may have ended
			o.NoPCP, o.Daemon, o.Confine, o.Log = !pcp, g.socketPath(), true, g.logger()
			err = gateway.Run(ctx, o)
			if errors.As(err, new(*gateway.OptionError)) {
				err = usageError{err}
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.LAN, "lan", nil, "serve the hosts on the device `IF`; may be given more than once")
	flags.StringVar(&o.WAN, "wan", "", "give ports of the device `IF`")
	flags.BoolVar(&pcp, "pcp", true, "serve NAT-PMP and PCP")
	flags.StringVar(&igd, "igd", gateway.IGDv1.String(), "serve UPnP IGD as `VERSION` v1 or v2, or off")
	flags.Var(&ruleFlag{&o.Rules, "allow"}, "allow", "allow hosts ports: `RULE` is \"PORTS ADDR[/MASK] PORTS\", of the WAN and of the hosts")
	flags.Var(&ruleFlag{&o.Rules, "deny"}, "deny", "deny hosts ports, by a `RULE` as of --allow")
	flags.StringVar(&rules, "rules", "", "read rules from `FILE`, each a line that begins with allow or deny")
	flags.IntVar(&o.Quota, "quota", gateway.DefaultQuota, "give a host at most `N` ports")
	flags.DurationVar(&o.MinLifetime, "min-lifetime", gateway.DefaultMin, "give ports for at least this `TIME`")
	flags.DurationVar(&o.MaxLifetime, "max-lifetime", gateway.DefaultMax, "give ports for at most this `TIME`")
	flags.StringVar(&address, "external-ip", "", "say that the WAN has the address `ADDR`")
	flags.StringVar(&o.Presentation, "presentation-url", "", "tell clients of UPnP the `URL` of a page about the gateway")
	flags.StringVar(&o.Socket, "listen", defaultGatewaySocket, "answer what leases there are at the socket `PATH`")
	log.add(cmd)
	for _, name := range []string{"lan", "wan"} {
		completeFlag(cmd, name, completeDevices)
	}
	completeFlag(cmd, "igd", cobra.FixedCompletions([]string{"v1", "v2", "off"}, cobra.ShellCompDirectiveNoFileComp))
	return offer(cmd, "socket quiet")
}

// ruleFlag appends a rule to those that were given before, of either flag.
type ruleFlag struct {
	rules *[]string
	word  string
}

var _ pflag.Value = (*ruleFlag)(nil)

func (f *ruleFlag) String() string { return "" }

func (f *ruleFlag) Set(s string) error {
	rule := f.word + " " + s
	if err := gateway.CheckRule(rule); err != nil {
		return err
	}
	*f.rules = append(*f.rules, rule)
	return nil
}

func (f *ruleFlag) Type() string { return "RULE" }

// readRules reads the rules of a file, which take the place of flags.
func readRules(o *gateway.Options, path string) error {
	if o.Rules != nil {
		return usageError{errors.New("--rules is given, and --allow or --deny as well")}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return usageError{err}
	}
	o.Rules = strings.Split(string(text), "\n")
	if err := gateway.CheckRules(o.Rules); err != nil {
		return usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return nil
}

// completeDevices completes the names of network devices.
func completeDevices(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	all, _ := net.Interfaces() // none is completed then
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
