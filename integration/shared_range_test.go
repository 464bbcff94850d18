// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A shared range is found in the kernel when the daemon was killed, passed on by a takeover, restored from the file
// after a reboot, and over when its time is.
func TestSharedRange(t *testing.T) {
	for _, loopback := range []string{"bpf", "proxy"} {
		t.Run(loopback, func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
			s := newTestbed(t, top.Host)
			s.loopback = loopback
			file := stateFile(t)
			daemon := s.serve(t, "--state", file)
			const port = 10007
			networks := []string{"tcp", "udp"}
			var held []io.Closer
			for _, network := range networks {
				labtest.Echo(t, top.Backend1, network, "one", ":10007")
				held = append(held, holdShared(t, top.Host, network, port))
				s.succeed(t, "add --quiet "+network+" 10000-10099 172.30.0.2 --hold shared --name web")
			}
			before := s.export(t)
			require.Contains(t, before, `{mapping: "10000-10099->172.30.0.2:10000-10099", name: web, hold: shared}`)
			check := func() {
				t.Helper()
				require.Equal(t, before, s.export(t))
				for _, network := range networks {
					for _, to := range []string{"127.0.0.1", "127.0.0.5", "::1", "192.0.2.1"} {
						labtest.Reaches(t, top.Host, network, net.JoinHostPort(to, "10007"), "one")
					}
					labtest.Reaches(t, top.Client, network, "192.0.2.1:10007", "one")
				}
				for _, h := range held {
					requireNobodyCame(t, h)
				}
				require.NotEmpty(t, s.status(t).Warnings, "of clients who come to the program")
			}
			check()
			daemon.Kill()
			daemon = s.serve(t, "--state", file)
			check()
			next := s.serve(t, "--state", file, "--takeover")
			require.Zero(t, daemon.Wait(), daemon.Output())
			check()
			s.reboot(t, next)
			daemon = s.serve(t, "--state", file)
			check()

			s.succeed(t, "rm --name web")
			for _, network := range networks {
				s.succeed(t, "add --quiet "+network+" 10000-10099 172.30.0.2 --hold shared --ttl 2s")
				labtest.Reaches(t, top.Host, network, "127.0.0.1:10007", "one")
			}
			await(t, "the ranges to end", func() bool { return len(s.ports(t)) == 0 })
			await(t, "no proxies", func() bool { return s.status(t).Proxies == 0 })
			for i, network := range networks {
				for _, to := range []string{"127.0.0.1:10007", "192.0.2.1:10007"} {
					c, err := top.Host.Dial(t.Context(), network, to)
					require.NoError(t, err)
					_, err = c.Write([]byte("for the program"))
					require.NoError(t, err)
					came(t, held[i])
					require.NoError(t, c.Close())
				}
			}
			require.NoError(t, daemon.Signal(unix.SIGTERM))
			require.Zero(t, daemon.Wait(), daemon.Output())
		})
	}
}
