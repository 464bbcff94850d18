// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/fleet/float"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/internal/printable"
)

func newFloat(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "float",
		Short: "Addresses that are each on one living host of several",
		Long: "A floating address is on the interface of one host of a group, the holder. When the holder\n" +
			"dies, or loses etcd, another takes the address. What is mapped on it is published by the\n" +
			"holder alone.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newFloatCreate(g), newFloatList(g), newFloatRemove(g))
	return cmd
}

func newFloatCreate(g *global) *cobra.Command {
	var scope scopeChoice
	var dev string
	cmd := &cobra.Command{
		Use:   "create ADDR --dev IF --host NAME|--group NAME|--all",
		Short: "Have an address on one living host",
		Long: "Have an address on one living host of those named, on the interface IF there. If the interface\n" +
			"of a host has another name, say it for that host with --host. An address that a host has\n" +
			"already by other means is not taken over there.",
		Example: "  nftnat-fleet float create 192.0.2.100 --group edge --dev eth0",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := keys.ParseFloat(args[0])
			if err != nil {
				return err
			}
			sc, err := scope.required(cmd)
			if err != nil {
				return err
			}
			if dev == "" {
				return usageError{errors.New("--dev is missing: the interface on which the address is to be")}
			}
			st, err := g.open(cmd.Context())
			if err != nil {
				return err
			}
			_, err = float.Create(cmd.Context(), st, sc, a, dev)
			return errors.Join(err, st.Close())
		},
	}
	scope.add(cmd)
	cmd.Flags().StringVar(&dev, "dev", "", "the interface `IF` that the holder has the address on")
	return cmd
}

func newFloatRemove(g *global) *cobra.Command {
	var scope scopeChoice
	cmd := &cobra.Command{
		Use:   "rm ADDR --host NAME|--group NAME|--all",
		Short: "Have an address no longer on any host",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := keys.ParseFloat(args[0])
			if err != nil {
				return err
			}
			sc, err := scope.required(cmd)
			if err != nil {
				return err
			}
			st, err := g.open(cmd.Context())
			if err != nil {
				return err
			}
			return errors.Join(float.Remove(cmd.Context(), st, sc, a), st.Close())
		},
	}
	scope.add(cmd)
	return cmd
}

func newFloatList(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List floating addresses and who holds them",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := g.open(cmd.Context())
			if err != nil {
				return err
			}
			rows, err := float.List(cmd.Context(), st)
			if err := errors.Join(err, st.Close()); err != nil {
				return err
			}
			if g.json {
				return printFloatsJSON(cmd.OutOrStdout(), rows)
			}
			return printFloats(cmd.OutOrStdout(), rows)
		},
	}
}

func printFloats(out io.Writer, rows []float.Row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tFOR\tDEV\tHOLDER\tSTATE\tEPOCH\tSINCE")
	for _, r := range rows {
		holder, state, epoch, since := "-", "free", "-", "-"
		if r.Holder.Host != "" {
			holder, state = printable.Text(r.Holder.Host), "taking"
		}
		if r.Holder.Serving {
			state = "serving"
		}
		if r.Epoch.Number != 0 {
			epoch, since = fmt.Sprint(r.Epoch.Number), r.Epoch.Since.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Addr, r.Scope, printable.Text(r.Dev), holder, state, epoch, since)
	}
	return w.Flush()
}

// floatDocument is a row as JSON.
type floatDocument struct {
	Address string     `json:"address"`
	Group   string     `json:"group,omitempty"`
	Host    string     `json:"host,omitempty"`
	Dev     string     `json:"dev"`
	Holder  string     `json:"holder,omitempty"` // empty: nobody
	Serving bool       `json:"serving"`
	Epoch   uint64     `json:"epoch"`
	Since   *time.Time `json:"since,omitempty"`
}

func printFloatsJSON(out io.Writer, rows []float.Row) error {
	docs := make([]floatDocument, 0, len(rows))
	for _, r := range rows {
		d := floatDocument{
			Address: r.Addr.String(), Group: r.Scope.Group(), Host: r.Scope.Host(), Dev: r.Dev,
			Holder: r.Holder.Host, Serving: r.Holder.Serving, Epoch: r.Epoch.Number,
		}
		if d.Epoch != 0 {
			d.Since = &r.Epoch.Since
		}
		docs = append(docs, d)
	}
	return json.NewEncoder(out).Encode(docs)
}

func newHandOver(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "handover ADDR HOST",
		Short: "Move a floating address to a host, with no connection refused",
		Long: "The holder hands the address over: HOST publishes what is mapped on it, adds it and announces\n" +
			"it, and only then does the old holder remove it. Open connections go on if their backend\n" +
			"sees the clients' addresses, and are reset if it sees the host's (--masquerade, --proxy-only).",
		Args: usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := keys.ParseFloat(args[0])
			if err != nil {
				return err
			}
			if err := keys.ValidateName("host", args[1]); err != nil {
				return err
			}
			st, err := g.open(cmd.Context())
			if err != nil {
				return err
			}
			return errors.Join(float.HandOver(cmd.Context(), st, a, args[1]), st.Close())
		},
	}
}
