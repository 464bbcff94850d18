// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/huin/goupnp/dcps/internetgateway1"
	natpmp "github.com/jackpal/go-nat-pmp"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "portclients:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("see doc.go")

func run(args []string) error {
	switch {
	case len(args) > 2 && args[0] == "natpmp":
		gateway := net.ParseIP(args[1])
		if gateway == nil {
			return errUsage
		}
		return askNATPMP(natpmp.NewClientWithTimeout(gateway, 10*time.Second), args[2], args[3:])
	case len(args) == 2 && args[0] == "upnp" && args[1] == "discover":
		clients, _, err := internetgateway1.NewWANIPConnection1Clients()
		for _, c := range clients {
			fmt.Println(c.Location)
		}
		return err
	case len(args) > 2 && args[0] == "upnp":
		location, err := url.Parse(args[1])
		if err != nil {
			return err
		}
		clients, err := internetgateway1.NewWANIPConnection1ClientsByURL(location)
		if err != nil {
			return err
		}
		if len(clients) != 1 {
			return fmt.Errorf("%d services at %s, not one", len(clients), location)
		}
		return askUPnP(clients[0], args[2], args[3:])
	}
	return errUsage
}

// numbers parses the arguments that are numbers.
func numbers(args ...string) ([]int, error) {
	var all []int
	for _, arg := range args {
		n, err := strconv.Atoi(arg)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

func askNATPMP(c *natpmp.Client, verb string, args []string) error {
	switch {
	case verb == "address" && len(args) == 0:
		a, err := c.GetExternalAddress()
		if err != nil {
			return err
		}
		fmt.Println(net.IP(a.ExternalIPAddress[:]), a.SecondsSinceStartOfEpoc)
		return nil
	case verb == "map" && len(args) == 4:
		n, err := numbers(args[1:]...)
		if err != nil {
			return err
		}
		m, err := c.AddPortMapping(args[0], n[0], n[1], n[2])
		if err != nil {
			return err
		}
		fmt.Println(m.InternalPort, m.MappedExternalPort, m.PortMappingLifetimeInSeconds)
		return nil
	}
	return errUsage
}

func askUPnP(c *internetgateway1.WANIPConnection1, verb string, args []string) error {
	switch {
	case verb == "address" && len(args) == 0:
		a, err := c.GetExternalIPAddress()
		if err != nil {
			return err
		}
		fmt.Println(a)
		return nil
	case verb == "add" && len(args) == 5:
		n, err := numbers(args[1], args[2], args[4])
		if err != nil {
			return err
		}
		return c.AddPortMapping("", uint16(n[0]), strings.ToUpper(args[0]), uint16(n[1]), args[3], true, "portclients", uint32(n[2]))
	case verb == "rm" && len(args) == 2:
		n, err := numbers(args[1])
		if err != nil {
			return err
		}
		return c.DeletePortMapping("", uint16(n[0]), strings.ToUpper(args[0]))
	case verb == "list" && len(args) == 0:
		for i := uint16(0); ; i++ {
			_, external, proto, internal, client, _, text, _, err := c.GetGenericPortMappingEntry(i)
			if err != nil {
				if strings.Contains(err.Error(), "713") {
					return nil // that was the last
				}
				return err
			}
			fmt.Println(proto, external, client, internal, text)
		}
	}
	return errUsage
}
