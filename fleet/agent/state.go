// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// stateFile is what an agent knows from before.
type stateFile struct {
	path string // empty: nothing is kept
	lock *os.File

	mu    sync.Mutex
	saved time.Time

	Instance string           `json:"instance"`
	Boot     string           `json:"boot"` // in which the lease was granted: a copy of the machine has another
	Lease    clientv3.LeaseID `json:"lease"`
	Seen     store.Seen       `json:"seen"`
}

// openState reads a file and locks it. The error is nat.ErrConflict if another process has it.
func openState(path string) (*stateFile, error) {
	f := &stateFile{path: path}
	if path != "" {
		lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			lock.Close()
			return nil, fmt.Errorf("%w: another agent uses %s", nat.ErrConflict, path)
		}
		f.lock = lock
		text, err := os.ReadFile(path)
		if err == nil {
			_ = json.Unmarshal(text, f) // what is cut off is as if there were none
		} else if !errors.Is(err, fs.ErrNotExist) {
			f.close()
			return nil, err
		}
	}
	if boot := bootID(); f.Instance == "" || f.Boot != boot {
		f.update(func() { f.Instance, f.Boot, f.Lease = rand.Text(), boot, 0 })
	}
	return f, nil
}

// note keeps the newest revision, not every time.
func (f *stateFile) note(seen store.Seen) {
	f.mu.Lock()
	soon := time.Since(f.saved) < 5*time.Second
	f.mu.Unlock()
	if !soon {
		f.update(func() { f.Seen = seen })
	}
}

func (f *stateFile) lease() clientv3.LeaseID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Lease
}

// update changes the file. What it has is of use, and not needed: an error is that there is none next time.
func (f *stateFile) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	if f.saved = time.Now(); f.path == "" {
		return
	}
	text, err := json.Marshal(f)
	if err == nil && os.WriteFile(f.path+".new", append(text, '\n'), 0o600) == nil {
		_ = os.Rename(f.path+".new", f.path)
	}
}

func (f *stateFile) close() {
	if f.lock != nil {
		f.lock.Close()
	}
}

// bootID is the boot of this machine.
func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}
