// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// occupy binds an address in ns with SO_REUSEADDR, or also with SO_REUSEPORT, like a service
// that shares its port.
func occupy(ns *lab.NS, network, address string, options ...int) (io.Closer, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		controlErr := raw.Control(func(fd uintptr) {
			for _, option := range options {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1))
			}
		})
		return errors.Join(controlErr, err)
	}}
	if addr, err := netip.ParseAddrPort(address); err == nil && addr.Addr().Is4() {
		network += "4" // otherwise package net makes [::] of 0.0.0.0
	}
	var held io.Closer
	err := ns.Do(func() (err error) {
		if strings.HasPrefix(network, "udp") {
			held, err = config.ListenPacket(context.Background(), network, address)
		} else {
			held, err = config.Listen(context.Background(), network, address)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return held, nil
}

// myself names this process as errors name the holder of a port.
func myself(t *testing.T) string {
	t.Helper()
	comm, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	return fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())
}

// A port that another process has cannot be published, and the error names the process.
func TestProxiedPortOfOthers(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	s.serve(t)
	s.succeed(t, "add --quiet udp 7000 172.30.0.2:80")
	for _, network := range []string{"tcp", "udp"} {
		for _, c := range []struct{ bound, want, says string }{
			{"0.0.0.0:8080", "8080 172.30.0.2:80", "0.0.0.0:8080"},
			{"0.0.0.0:8080", "8080 [fd00:30::2]:80", "0.0.0.0:8080"},
			{"[::]:8080", "8080 172.30.0.2:80", "[::]:8080"},
			{"127.0.0.1:8080", "8080 172.30.0.2:80", "127.0.0.1:8080"},
			{"[::1]:8080", "8080 172.30.0.2:80", "[::1]:8080"},
			{"192.0.2.1:8080", "8080 172.30.0.2:80 --no-proxy", "192.0.2.1:8080"},
			{"192.0.2.1:8080", "192.0.2.1:8080 172.30.0.2:80", "192.0.2.1:8080"},
			{"0.0.0.0:8080", "127.0.0.1:8080 172.30.0.2:80", "0.0.0.0:8080"},
			{"[::]:8080", "127.0.0.1:8080 172.30.0.2:80", "[::]:8080"},
			{"[2001:db8:1::1]:8080", "[::]:8080 [fd00:30::2]:80", "[2001:db8:1::1]:8080"},
			{"192.0.2.9:8080", "8070-8089 172.30.0.2:8070-8089", "192.0.2.9:8080"},
		} {
			t.Run(strings.ReplaceAll(network+" "+c.bound+" "+c.want, "/", " "), func(t *testing.T) {
				var options []int
				if network == "udp" { // with it, other sockets could share the port
					options = []int{unix.SO_REUSEADDR}
				}
				holder, err := occupy(top.Host, network, c.bound, options...)
				require.NoError(t, err)
				defer func() { require.NoError(t, holder.Close()) }()
				before := takeSnapshot(t, top.Host)
				r := s.run(t, "add "+network+" "+c.want)
				require.Equal(t, 3, r.Code, r.Stderr)
				require.Equal(t, fmt.Sprintf("nftnat: publish %s %s: %s %s is held by %s\n",
					network, strings.Fields(c.want)[0], network, c.says, myself(t)), r.Stderr)
				before.unchanged(t, top.Host)
				require.Equal(t, 1, s.status(t).Proxies)
			})
		}
		// The other ports can still be published.
		s.succeed(t, "add --quiet "+network+" 8070-8089 172.30.0.2:8070-8089")
		s.succeed(t, "rm "+network+" 8070-8089")
		// A port that is in use at one address is free at another one.
		holder, err := occupy(top.Host, network, "192.0.2.9:8080")
		require.NoError(t, err)
		s.succeed(t, "add --quiet "+network+" 192.0.2.1:8080 172.30.0.2:80")
		s.succeed(t, "rm "+network+" 192.0.2.1:8080")
		require.NoError(t, holder.Close())
	}
}

// No other process can bind a published port, with or without a proxy, and with any socket
// option. When it is unpublished, it is free.
func TestProxiedPortIsHeld(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	s.serve(t)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
		for _, flags := range []string{"", " --no-proxy"} {
			s.succeed(t, "add --quiet "+network+" 8080 172.30.0.2:80"+flags)
			if flags != "" {
				for _, address := range []string{"127.0.0.1:8080", "[::1]:8080"} {
					err := labtest.NoAnswer(t, top.Host, network, address)
					require.Error(t, err)
					require.Equal(t, network == "tcp", errors.Is(err, unix.ECONNREFUSED), err)
				}
			}
			for _, address := range []string{"0.0.0.0:8080", "[::]:8080", "127.0.0.1:8080", "[::1]:8080", "192.0.2.1:8080", ":8080"} {
				for _, options := range [][]int{nil, {unix.SO_REUSEADDR}, {unix.SO_REUSEPORT}, {unix.SO_REUSEADDR, unix.SO_REUSEPORT}} {
					_, err := occupy(top.Host, network, address, options...)
					require.ErrorIs(t, err, unix.EADDRINUSE, "%s %s with %v%s", network, address, options, flags)
				}
			}
			labtest.Reaches(t, top.Client, network, "192.0.2.1:8080", "backend")
			s.succeed(t, "rm "+network+" 8080")
			for _, address := range []string{":8080", "127.0.0.1:8080", "[::1]:8080"} {
				holder, err := occupy(top.Host, network, address)
				require.NoError(t, err)
				require.NoError(t, holder.Close())
			}
		}
		// From proxy to no proxy and back.
		s.succeed(t, "add --quiet "+network+" 8080 172.30.0.2:80")
		for range 2 {
			s.succeed(t, "add --quiet --replace --no-proxy "+network+" 8080 172.30.0.2:80")
			err := labtest.NoAnswer(t, top.Host, network, "127.0.0.1:8080")
			require.Error(t, err)
			require.Equal(t, network == "tcp", errors.Is(err, unix.ECONNREFUSED), err)
			_, err = occupy(top.Host, network, "127.0.0.1:8080", unix.SO_REUSEADDR)
			require.ErrorIs(t, err, unix.EADDRINUSE)
			s.succeed(t, "add --quiet --replace "+network+" 8080 172.30.0.2:80")
			labtest.Reaches(t, top.Host, network, "127.0.0.1:8080", "backend")
		}
		s.succeed(t, "rm "+network+" 8080")
	}
}

// A chosen port is one that no mapping and no process has.
func TestProxiedChoice(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	s.serve(t)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
		var holders []io.Closer
		for _, address := range []string{"0.0.0.0:49153", "127.0.0.1:49154", "[::]:49155", "192.0.2.9:49158"} {
			holder, err := occupy(top.Host, network, address)
			require.NoError(t, err)
			holders = append(holders, holder)
		}
		require.Equal(t, "49156->172.30.0.2:80"+suffix(network)+"\n", s.succeed(t, "add --quiet "+network+" 0 172.30.0.2:80"))
		labtest.Reaches(t, top.Host, network, "127.0.0.1:49156", "backend")
		// 49157 alone is too few; 49159 and 49160 are next.
		require.Equal(t, "49159-49160->172.30.0.2:80-81"+suffix(network)+"\n", s.succeed(t, "add --quiet "+network+" 0 172.30.0.2:80-81"))
		// A port that is held at one address can be chosen at another one.
		s.succeed(t, "add --quiet "+network+" 192.0.2.1:49158 172.30.0.2:80")
		for _, holder := range holders {
			require.NoError(t, holder.Close())
		}
		// The others were released.
		s.succeed(t, "add --quiet "+network+" 49153-49155 172.30.0.2:49153-49155")
	}
	require.Equal(t, 2*(1+2+1+3), s.status(t).Proxies)
}

// If no port is left to choose, nothing is published and nothing is held.
func TestProxiedNoChoice(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	require.NoError(t, top.Host.Sysctl("net.ipv4.ip_local_reserved_ports", "49153-65533"))
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	s.serve(t)
	var holders []io.Closer
	for _, port := range []string{"65534", "65535"} {
		holder, err := occupy(top.Host, "tcp", ":"+port)
		require.NoError(t, err)
		holders = append(holders, holder)
	}
	r := s.run(t, "add --quiet tcp 0 172.30.0.2:80")
	require.Equal(t, 3, r.Code, r.Stderr)
	require.Equal(t, "[]\n", s.succeed(t, "ls --json"))
	for _, holder := range holders {
		require.NoError(t, holder.Close())
	}
	require.Equal(t, "65534->172.30.0.2:80\n", s.succeed(t, "add --quiet tcp 0 172.30.0.2:80"))
}

// A client's source port is in use as well, and for some time after the connection.
func TestProxiedPortOfClients(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	s.serve(t)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
		client := dialFlow(t, top.Host, network, "172.30.0.2:80")
		require.Equal(t, "backend", client.name(t))
		add := fmt.Sprintf("add %s %d 172.30.0.2:80", network, client.local().Port())
		r := s.run(t, add)
		require.Equal(t, 3, r.Code, r.Stderr)
		require.Contains(t, r.Stderr, fmt.Sprintf(": %s %s is held by %s as a client of 172.30.0.2:80: try again\n", network, client.local(), myself(t)))
		require.NoError(t, client.conn.Close())
		if network == "udp" {
			s.succeed(t, add)
			continue
		}
		await(t, "TIME_WAIT", func() bool {
			r = s.run(t, add)
			require.Equal(t, 3, r.Code, r.Stderr)
			return strings.HasSuffix(r.Stderr, fmt.Sprintf(": tcp %s is held by a connection with 172.30.0.2:80 that ended less than a minute ago: try again\n", client.local()))
		})
	}
}
