// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package boottest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestMain(m *testing.M) { os.Exit(labtest.Main(m)) }

// A machine has its own processes, users and files and the network of its namespace,
// and shuts down. It cannot change the host: neither its files nor the settings of the
// kernel that have nothing to do with the network.
func TestBoot(t *testing.T) {
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "host")
	m := boottest.Boot(t, ns, map[string]string{"/opt/made/machine.go": "machine.go"})
	require.Equal(t, "systemd\n", m.Exec("cat", "/proc/1/comm"))
	require.Equal(t, "machine\n", m.Exec("uname", "-n"))
	require.Empty(t, m.Exec("systemctl", "--failed", "--plain", "--no-legend"))
	m.Exec("test", "-f", "/opt/made/machine.go")
	require.NoFileExists(t, "/opt/made/machine.go")
	labtest.EchoTCP(t, ns, "web", "127.0.0.1:80")
	m.Exec("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/80")

	m.Exec("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
	for _, path := range []string{"/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/made"} {
		require.NotZero(t, m.Run("dd", "if=/dev/zero", "of="+path, "bs=1", "count=1").Code, path)
	}

	m.Write("/etc/systemd/system/greet.service", "[Service]\nUser=nobody\nExecStart=echo hello\n", 0o644)
	m.Exec("systemctl", "daemon-reload")
	m.Exec("systemctl", "start", "greet")
	require.Eventually(t, func() bool { return m.Property("greet", "ActiveState") == "inactive" }, labtest.Stretch(30*time.Second), 10*time.Millisecond)
	require.Equal(t, "success", m.Property("greet", "Result"))
	require.Contains(t, m.Journal("greet"), "hello\n")
	require.Equal(t, "nobody\n", m.As("nobody", "id", "-nu").Stdout)
	require.Equal(t, 1, m.As("nobody", "touch", "/etc/nobody").Code)
	m.Shutdown()
}

// A machine that is not shut down is killed with all its processes.
func TestBootKills(t *testing.T) {
	boottest.Require(t)
	labtest.LeakCheck(t)
	ns := labtest.NewNS(t, "host")
	var command *labtest.Process
	var space string
	t.Run("machine", func(t *testing.T) {
		m := boottest.Boot(t, ns, nil)
		command = labtest.StartCmd(t, ns, m.Command("sleep", "1000"))
		m.Exec("systemd-run", "sleep", "1000")
		var err error
		space, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.Pid))
		require.NoError(t, err)
	})
	<-command.Done()
	processes, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	require.NoError(t, err)
	for _, path := range processes {
		if of, err := os.Readlink(path); err == nil { // it may have ended
			require.NotEqual(t, space, of, path)
		}
	}
}
