// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

// The exit status, that of nftnat.
const (
	exitDone         = 0
	exitFailed       = 1
	exitBadInput     = 2 // nothing was changed
	exitConflict     = 3
	exitNotFound     = 4
	exitNotPermitted = 5
)

// usageError is bad input that was noticed on the command line itself.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// global are the flags that every verb has.
type global struct {
	endpoints []string
	prefix    string
	cacert    string
	cert      string
	key       string
	timeout   time.Duration
	json      bool

	stderr io.Writer
}

// run runs a command line and returns its exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	root := newRoot(stderr)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "nftnat-fleet: %s\n", printable.Line(strings.ReplaceAll(err.Error(), "\n", "; ")))
		return exitStatus(err)
	}
	return exitDone
}

func exitStatus(err error) int {
	var bad usageError
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, store.ErrDenied):
		return exitNotPermitted
	case errors.As(err, &bad), errors.Is(err, nat.ErrInvalid):
		return exitBadInput
	case errors.Is(err, nat.ErrConflict), errors.Is(err, nat.ErrExhausted):
		return exitConflict
	case errors.Is(err, nat.ErrNotFound):
		return exitNotFound
	}
	return exitFailed
}

// usage makes cobra's error about the number of arguments a usageError.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			_, form, _ := strings.Cut(cmd.Use, " ")
			return usageError{fmt.Errorf("wrong arguments: use %q", strings.TrimSpace(cmd.CommandPath()+" "+form))}
		}
		return nil
	}
}

// verbs are the commands, each made with the flags of all.
func verbs() []func(*global) *cobra.Command {
	return []func(*global) *cobra.Command{newAgent, newApply, newDiff, newGet, newStatus, newFloat, newHandOver, newDemo, newNetwork, newLease, newRelease, newPublish, newForget, newResume, newVersion}
}

func newRoot(stderr io.Writer) *cobra.Command {
	g := &global{stderr: stderr}
	root := &cobra.Command{
		Use:           "nftnat-fleet",
		Short:         "Keep the mappings of many hosts in etcd",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          usage(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.StringSliceVar(&g.endpoints, "endpoints", fromEnvironment("NFTNAT_FLEET_ENDPOINTS", "http://127.0.0.1:2379"), "where etcd's members listen for clients: `URL,URL`")
	flags.StringVar(&g.prefix, "prefix", keys.Prefix, "keep everything below this `KEY`")
	flags.StringVar(&g.cacert, "cacert", os.Getenv("NFTNAT_FLEET_CACERT"), "the `FILE` of the authority that signed the members' certificates")
	flags.StringVar(&g.cert, "cert", os.Getenv("NFTNAT_FLEET_CERT"), "the `FILE` of this client's certificate")
	flags.StringVar(&g.key, "key", os.Getenv("NFTNAT_FLEET_KEY"), "the `FILE` of its key")
	flags.DurationVar(&g.timeout, "timeout", 5*time.Second, "how long etcd may take for an answer")
	flags.BoolVar(&g.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, verb := range verbs() {
		root.AddCommand(verb(g))
	}
	return root
}

// fromEnvironment is a list from a variable, or the default.
func fromEnvironment(name, otherwise string) []string {
	if text := os.Getenv(name); text != "" {
		return strings.Split(text, ",")
	}
	return []string{otherwise}
}

// options are those of the store. Certificates are read again for each connection, so that new ones
// need no restart.
func (g *global) options() (store.Options, error) {
	o := store.Options{Endpoints: g.endpoints, Prefix: g.prefix, Timeout: g.timeout}
	if !strings.HasSuffix(o.Prefix, "/") {
		return o, usageError{fmt.Errorf("prefix %q does not end with a slash", g.prefix)}
	}
	if g.cacert == "" && g.cert == "" && g.key == "" {
		return o, nil
	}
	if (g.cert == "") != (g.key == "") {
		return o, usageError{errors.New("--cert and --key belong together")}
	}
	if g.cacert == "" {
		return o, usageError{errors.New("--cert needs --cacert, the authority of etcd's members")}
	}
	pem, err := os.ReadFile(g.cacert)
	if err != nil {
		return o, usageError{err}
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
		return o, usageError{fmt.Errorf("%s has no certificate", g.cacert)}
	}
	if g.cert == "" {
		return o, nil
	}
	load := func() (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(g.cert, g.key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", g.cert, g.key, err)
		}
		return &c, nil
	}
	if _, err := load(); err != nil {
		return o, usageError{err}
	}
	o.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return o, nil
}

// open connects to etcd.
func (g *global) open(ctx context.Context) (*store.Store, error) {
	o, err := g.options()
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, o)
}

func newVersion(*global) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "nftnat-fleet", buildinfo.Version)
			return err
		},
	}
}
