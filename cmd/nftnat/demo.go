// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

func newDemo(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show nftnat at work in temporary network namespaces",
		Long: "Make a client, a host and a backend in temporary network namespaces, publish tcp\n" +
			"8080 and udp 53 on the host, send requests from the client, show the answers, and\n" +
			"remove everything. The exit status is 0 only if all of it worked. Nothing outside\n" +
			"the namespaces is changed. If you are not root, the demo makes a user namespace and\n" +
			"runs in that.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTimeout)
			defer cancel()
			again, err := needsUserNamespace()
			switch {
			case err != nil:
				return err
			case again:
				return inUserNamespace(ctx)
			}
			return demo(ctx, cmd.OutOrStdout(), g.stderr)
		},
	}
}

// demoTimeout bounds the whole demonstration, which takes well under a second.
const demoTimeout = 30 * time.Second

// demonstration is the topology and where its output goes.
type demonstration struct {
	*lab.Topology
	out, errs io.Writer
}

func demo(ctx context.Context, out, errs io.Writer) (err error) {
	top, err := lab.Build(lab.Options{Parts: lab.PartBackend1})
	if errors.Is(err, fs.ErrPermission) {
		return namespaceError{fmt.Errorf("build namespaces: %w", err)}
	}
	if err != nil {
		return fmt.Errorf("build namespaces: %w", err)
	}
	defer func() { err = errors.Join(err, top.Close()) }()
	d := &demonstration{Topology: top, out: out, errs: errs}

	web, err := lab.EchoHTTP(top.Backend1, "web", ":80")
	if err != nil {
		return fmt.Errorf("start web server: %w", err)
	}
	defer func() { err = errors.Join(err, web.Close()) }()
	dns, err := lab.EchoUDP(top.Backend1, "dns", ":53")
	if err != nil {
		return fmt.Errorf("start udp server: %w", err)
	}
	defer func() { err = errors.Join(err, dns.Close()) }()

	fmt.Fprintf(out, "client %s -- host %s -- backend %s, each a network namespace of its own\n",
		top.Client.V4, top.Host.V4, top.Backend1.V4)
	return d.run(ctx)
}

// run publishes, asks, unpublishes and asks again.
func (d *demonstration) run(ctx context.Context) error {
	backend := d.Backend1.V4.String()
	tcp := netip.AddrPortFrom(d.Host.V4, 8080).String()
	udp := netip.AddrPortFrom(d.Host.V4, 53).String()
	steps := []func() error{
		func() error { return d.nftnat("add", "tcp", "8080", backend+":80", "--name", "web") },
		func() error { return d.nftnat("add", "udp", "53", backend, "--name", "dns") },
		func() error { return d.nftnat("ls") },
		func() error { return d.curl(ctx, tcp) },
		func() error { return d.ask(ctx, udp) },
		func() error { return d.nftnat("rm", "tcp", "8080") },
		func() error { return d.refused(ctx, tcp) },
		func() error { return d.nftnat("purge") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	fmt.Fprintln(d.out, "all of it worked; the namespaces are gone")
	return nil
}

// nftnat runs a command line of this program in the host's namespace.
func (d *demonstration) nftnat(args ...string) error {
	fmt.Fprintf(d.out, "host$ nftnat %s\n", strings.Join(args, " "))
	if status := run(append([]string{"--direct", "--netns", d.Host.Path()}, args...), strings.NewReader(""), d.out, d.errs); status != exitDone {
		return fmt.Errorf("nftnat %s: exit status %d", args[0], status)
	}
	return nil
}

// curl sends an HTTP request from the client, which must reach the backend with the
// client's own address.
func (d *demonstration) curl(ctx context.Context, addr string) error {
	fmt.Fprintf(d.out, "client$ curl http://%s/\n", addr)
	name, peer, err := lab.AskHTTP(ctx, d.Client, addr)
	if err != nil {
		return fmt.Errorf("request http://%s/: %w", addr, err)
	}
	return d.answered("web", name, peer)
}

// ask does so with a UDP datagram.
func (d *demonstration) ask(ctx context.Context, addr string) error {
	fmt.Fprintf(d.out, "client$ echo hello | nc -u %s\n", strings.ReplaceAll(addr, ":", " "))
	name, peer, err := lab.Ask(ctx, d.Client, "udp", addr, netip.AddrPort{})
	if err != nil {
		return fmt.Errorf("ask udp %s: %w", addr, err)
	}
	return d.answered("dns", name, peer)
}

func (d *demonstration) answered(want, name string, peer netip.AddrPort) error {
	fmt.Fprintf(d.out, "backend %q answers; it saw the client as %s\n", name, peer)
	if name != want || peer.Addr() != d.Client.V4 {
		return fmt.Errorf("the answer should be of %q, to %s", want, d.Client.V4)
	}
	return nil
}

// refused checks that the port does not answer any more.
func (d *demonstration) refused(ctx context.Context, addr string) error {
	fmt.Fprintf(d.out, "client$ curl http://%s/\n", addr)
	_, _, err := lab.AskHTTP(ctx, d.Client, addr)
	if err == nil {
		return fmt.Errorf("request http://%s/: it was answered after the port was unpublished", addr)
	}
	fmt.Fprintf(d.out, "refused, as it should be: %v\n", err)
	return nil
}

// envDemoNamespace is in the environment of a demo that was started in a user namespace
// of its own, so that it never starts another.
const envDemoNamespace = "NFTNAT_DEMO_NAMESPACE"

// needsUserNamespace reports whether this process may not make network namespaces, and
// has not tried a user namespace yet.
func needsUserNamespace() (bool, error) {
	if os.Getenv(envDemoNamespace) != "" {
		return false, nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("read capabilities: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0, nil
}

// inUserNamespace runs this command line again as root of new user and network
// namespaces. The error is a namespaceError if they cannot be made, and a shownError
// if the command failed there.
func inUserNamespace(ctx context.Context) error {
	// The child is ended when the thread that started it ends (prctl(2),
	// PR_SET_PDEATHSIG), so the thread is kept until it has.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	process, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), envDemoNamespace+"=1"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
			Pdeathsig:   unix.SIGKILL,
		},
	})
	if err != nil {
		return namespaceError{fmt.Errorf("create user namespace: %w", bare(err))}
	}
	stop := context.AfterFunc(ctx, func() { _ = process.Kill() })
	defer stop()
	state, err := process.Wait()
	if err != nil {
		return fmt.Errorf("wait for the demo in a user namespace: %w", err)
	}
	switch code := state.ExitCode(); code {
	case exitDone:
		return nil
	case -1:
		return fmt.Errorf("the demo in a user namespace ended: %s", state)
	default:
		return shownError(code)
	}
}

// bare is err without the path that os.StartProcess names, which did not cause it.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// namespaceError is why namespaces cannot be made. Whatever the kernel says (EPERM,
// ENOSPC where their number is limited to 0, EINVAL where it has none), it is
// fs.ErrPermission.
type namespaceError struct{ error }

func (e namespaceError) Unwrap() []error { return []error{e.error, fs.ErrPermission} }
