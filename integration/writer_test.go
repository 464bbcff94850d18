// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
)

// While a daemon is being killed, clients can connect until the kernel has closed its
// listener, and are reset. A command that makes a change tries again, and starts another
// daemon.
func TestWriterMeetsDyingDaemon(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	listener, err := net.Listen("unix", s.socket)
	require.NoError(t, err)
	dead := make(chan error, 1)
	go func() {
		defer close(dead)
		for i := range 6 {
			nc, err := listener.Accept()
			if err != nil {
				dead <- err
				return
			}
			// Closing it with an unread request is a reset, otherwise an end of file.
			_, err = nc.Read(make([]byte, 1+4096*(i%2)))
			_ = nc.Close()
			if err != nil {
				dead <- err
				return
			}
		}
		dead <- listener.Close()
	}()
	require.Equal(t, "8080->172.30.0.2:80\n", s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80"))
	require.NoError(t, <-dead)
	require.NotZero(t, s.status(t).PID)
}
