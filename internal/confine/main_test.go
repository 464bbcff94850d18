// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// envChild makes this program a process that confines itself, and says what it does.
const envChild = "CONFINE_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(envChild); text != "" {
		os.Exit(childMain(text))
	}
	os.Exit(labtest.MainWithScratch(m))
}

// order is what a child does.
type order struct {
	Options Options
	// Before are system calls that fail before it begins, as on another kernel.
	Before map[int]unix.Errno
	// Enter is the namespace that it enters first.
	Enter string
	// Operations are those that it tries when it is confined.
	Operations map[string][]string
}

// answer is what a child has found.
type answer struct {
	Capabilities    []string
	NoNewPrivileges bool
	Landlock        int
	SystemCalls     int
	Missing         []string
	// Operations are what became of them: "ok" or the name of an errno.
	Operations map[string]string
	// Threads are the status and the network namespace of each thread.
	Threads []thread
}

type thread struct{ Status, NetNS string }

// run runs a child with what was ordered; prepare may change the command.
func run(t *testing.T, o order, prepare func(*exec.Cmd)) answer {
	t.Helper()
	labtest.Require(t)
	text, err := json.Marshal(o)
	require.NoError(t, err)
	path, err := program()
	require.NoError(t, err)
	cmd := exec.Command(path)
	cmd.Env = []string{envChild + "=" + string(text)}
	if prepare != nil {
		prepare(cmd)
	}
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		t.Fatalf("%v: %s%s", err, out, failed.Stderr)
	}
	require.NoError(t, err)
	var a answer
	require.NoError(t, json.Unmarshal(out, &a), string(out))
	return a
}

// program is this program as one without cgo, which the race detector needs.
var program = sync.OnceValues(func() (string, error) {
	if err := allThreads(unix.SYS_GETPID, 0, 0); !errors.Is(err, ErrCgo) {
		return os.Executable()
	}
	path := filepath.Join(labtest.Scratch(), "confine.test")
	cmd := exec.Command("go", "test", "-c", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return path, nil
})

func childMain(text string) int {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	a, err := obey(o)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(a)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
