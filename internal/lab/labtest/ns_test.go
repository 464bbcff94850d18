// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// here names the namespace of the calling thread.
func here() (string, error) { return os.Readlink("/proc/thread-self/ns/net") }

// inside names a namespace, by asking from inside it.
func inside(t *testing.T, ns *lab.NS) string {
	t.Helper()
	var id string
	require.NoError(t, ns.Do(func() (err error) {
		id, err = here()
		return err
	}))
	return id
}

// requireThreadsAtHome checks that every thread of the process is where the
// test started. A thread that is just ending may still be elsewhere.
func requireThreadsAtHome(t *testing.T) {
	t.Helper()
	home, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		paths, err := filepath.Glob("/proc/self/task/*/ns/net")
		for _, p := range paths {
			id, gone := os.Readlink(p)
			if gone == nil && id != home {
				return false
			}
		}
		return err == nil && len(paths) > 0
	}, timeout, 5*time.Millisecond, "a thread is in another namespace")
}

func TestNSDo(t *testing.T) {
	labtest.LeakCheck(t)
	home, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	one, two := labtest.NewNS(t, "one"), labtest.NewNS(t, "two")
	require.Equal(t, "one", one.Name())
	require.Equal(t, "two", two.String())
	first, second := inside(t, one), inside(t, two)
	require.NotEqual(t, home, first)
	require.NotEqual(t, home, second)
	require.NotEqual(t, first, second)

	// Nested: the inner one in the inner, the outer one where it was.
	require.NoError(t, one.Do(func() error {
		require.Equal(t, second, inside(t, two))
		id, err := here()
		require.Equal(t, first, id)
		return err
	}))
	want := errors.New("from inside")
	require.Equal(t, want, one.Do(func() error { return want }))
	requireThreadsAtHome(t)
}

func TestNSPath(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	var outside, within unix.Stat_t
	require.NoError(t, unix.Stat(ns.Path(), &outside))
	require.NoError(t, ns.Do(func() error { return unix.Stat("/proc/thread-self/ns/net", &within) }))
	require.Equal(t, within.Ino, outside.Ino)
	require.Equal(t, within.Dev, outside.Dev)

	id := inside(t, ns)
	other := labtest.NewNS(t, "other")
	out := labtest.Exec(t, other, "nsenter", "--net="+ns.Path(), "readlink", "/proc/self/ns/net")
	require.Equal(t, id+"\n", out)
}

func TestNSClosed(t *testing.T) {
	labtest.Require(t)
	ns, err := lab.New("short")
	require.NoError(t, err)
	require.NoError(t, ns.Close())
	require.NoError(t, ns.Close())
	require.ErrorIs(t, ns.Do(func() error { return nil }), os.ErrClosed)
	_, err = ns.Listen("tcp", ":0")
	require.ErrorIs(t, err, os.ErrClosed)
	require.ErrorContains(t, err, "short")
}

func TestNSDoPanics(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	defer func() {
		p, ok := recover().(*lab.PanicError)
		require.True(t, ok)
		require.ErrorIs(t, p, fs.ErrInvalid)
		require.Contains(t, p.Error(), "TestNSDoPanics")
		requireThreadsAtHome(t)
	}()
	_ = ns.Do(func() error { panic(fs.ErrInvalid) })
	t.Fatal("Do returned")
}

// FailNow and SkipNow are runtime.Goexit with a note.
func TestNSDoGoexit(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	returned, ended := false, make(chan struct{})
	go func() {
		defer close(ended)
		_ = ns.Do(func() error { runtime.Goexit(); return nil })
		returned = true
	}()
	<-ended
	require.False(t, returned)

	skipped := false
	t.Run("skip", func(t *testing.T) {
		defer func() { skipped = t.Skipped() }()
		_ = ns.Do(func() error { t.SkipNow(); return nil })
		t.Error("the test went on")
	})
	require.True(t, skipped)
	requireThreadsAtHome(t)
}

// Many at once take every thread there is, the main one too.
func TestNSDoCrowd(t *testing.T) {
	labtest.LeakCheck(t)
	one, two := labtest.NewNS(t, "one"), labtest.NewNS(t, "two")
	want := map[*lab.NS]string{one: inside(t, one), two: inside(t, two)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	wrong := 0
	for i := range 400 {
		ns := one
		if i%2 == 1 {
			ns = two
		}
		wg.Go(func() {
			err := ns.Do(func() error {
				for range 5 {
					id, err := here()
					if err != nil || id != want[ns] {
						return errors.New("elsewhere")
					}
					runtime.Gosched()
				}
				return nil
			})
			if err != nil {
				mu.Lock()
				wrong++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Zero(t, wrong)
	requireThreadsAtHome(t)
	// Whatever thread a goroutine is given now, it is at home.
	home, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	strays := make(chan string, 100)
	for range cap(strays) {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if id, err := here(); err != nil || id != home {
				strays <- id
			}
		})
	}
	wg.Wait()
	require.Empty(t, strays)
}

func closeAtEnd(t *testing.T, c io.Closer) {
	t.Helper()
	t.Cleanup(func() { require.NoError(t, c.Close()) })
}

func count(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	return len(entries)
}

// descriptors are the open ones of the process, and what each is of. The runtime opens some of its own when it likes.
func descriptors(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	found := map[string]string{}
	for _, e := range entries {
		// The error is of the directory's own one, which is closed.
		if of, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(of, "anon_inode:[event") {
			found[e.Name()] = of
		}
	}
	return found
}

func TestNSHundred(t *testing.T) {
	labtest.LeakCheck(t)
	labtest.Require(t)
	// The first makes the runtime start the threads it keeps anyway.
	warm, err := lab.New("warm")
	require.NoError(t, err)
	require.NoError(t, warm.Close())
	threads := count(t, "/proc/self/task")
	before := descriptors(t)
	for range 100 {
		ns, err := lab.New("one of many")
		require.NoError(t, err)
		require.NoError(t, ns.Do(func() error { return nil }))
		require.NoError(t, ns.Close())
	}
	// What earlier tests left to a collection may be closed meanwhile, so that there may be fewer.
	after := descriptors(t)
	maps.DeleteFunc(after, func(fd, of string) bool { return before[fd] == of })
	require.Empty(t, after, "descriptors that were left open")
	// Threads end a moment after they have reported. The runtime may meanwhile
	// want one or two for itself.
	require.Eventually(t, func() bool { return count(t, "/proc/self/task") <= threads+3 }, timeout, 5*time.Millisecond)
}

func TestNSSysctl(t *testing.T) {
	one, two := labtest.NewNS(t, "one"), labtest.NewNS(t, "two")
	for _, key := range []string{"net.ipv4.ip_forward", "net/ipv6/conf/all/forwarding", "net.ipv4.conf.lo.route_localnet"} {
		value, err := one.ReadSysctl(key)
		require.NoError(t, err)
		require.Equal(t, "0", value, key)
		require.NoError(t, one.Sysctl(key, "1"))
		value, err = one.ReadSysctl(key)
		require.NoError(t, err)
		require.Equal(t, "1", value, key)
		value, err = two.ReadSysctl(key)
		require.NoError(t, err)
		require.Equal(t, "0", value, key)
	}
	err := one.Sysctl("net.ipv4.no_such_thing", "1")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "set net.ipv4.no_such_thing in one")
	_, err = one.ReadSysctl("net.ipv4.no_such_thing")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, one.Sysctl("net.ipv4.ip_default_ttl", "many"), unix.EINVAL)
}

func TestMountNS(t *testing.T) {
	ns := labtest.NewNS(t, "one")
	t.Run("named", func(t *testing.T) {
		require.Equal(t, "/run/netns/blue", labtest.MountNS(t, ns, "blue"))
		out := labtest.Exec(t, labtest.NewNS(t, "other"), "nsenter", "--net=/run/netns/blue", "readlink", "/proc/self/ns/net")
		require.Equal(t, inside(t, ns)+"\n", out)
	})
	require.NoFileExists(t, "/run/netns/blue")
}

func BenchmarkDo(b *testing.B) {
	ns := labtest.NewNS(b, "one")
	for b.Loop() {
		require.NoError(b, ns.Do(func() error { return nil }))
	}
}

func BenchmarkNew(b *testing.B) {
	labtest.Require(b)
	for b.Loop() {
		ns, err := lab.New("one")
		require.NoError(b, err)
		require.NoError(b, ns.Close())
	}
}
