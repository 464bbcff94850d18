// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// theRecord is one of some of everything.
func theRecord(tb testing.TB) nat.StoredState {
	tb.Helper()
	_, s := designFile(tb)
	return nat.StoredState{State: s, Table: "12 of namespace 1 of boot 5d1c"}
}

// written is the text of a file of a record.
func written(tb testing.TB, r nat.StoredState) string {
	tb.Helper()
	text, err := encodeRecord(r)
	require.NoError(tb, err)
	return string(text)
}

// opened loads a file with a text, which is closed with the test.
func opened(tb testing.TB, text string) (*File, nat.StoredState, error) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "state.yaml")
	require.NoError(tb, os.WriteFile(path, []byte(text), 0o600))
	f := NewFile(path)
	tb.Cleanup(func() { require.NoError(tb, f.Close()) })
	r, found, err := f.Load()
	require.Equal(tb, err == nil, found)
	return f, r, err
}

func TestFile(t *testing.T) {
	want := theRecord(t)
	path := filepath.Join(t.TempDir(), "state.yaml")
	f := NewFile(path)
	_, found, err := f.Load()
	require.NoError(t, err)
	require.False(t, found)
	require.NoFileExists(t, path)
	require.NoError(t, f.Save(want))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Regexp(t, `^# nftnat state, sha256 [0-9a-f]{64} of what follows; delete this line if you edit the file
# of table 12 of namespace 1 of boot 5d1c
# nftnat, complete with "\.\.\." as its last line
version: 1
networks:
  - \{name: inside`, string(text))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 2, "the file and its lock")

	// The same again is not written again.
	require.NoError(t, f.Save(want))
	again, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(info, again))

	// One at a time.
	_, _, err = NewFile(path).Load()
	require.ErrorIs(t, err, nat.ErrConflict)
	require.EqualError(t, err, fmt.Sprintf("state file %s is taken by pid %d", path, os.Getpid()))
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	f = NewFile(path)
	got, found, err := f.Load()
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, want, got)
	require.NoError(t, f.Save(got))
	again, err = os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(info, again))
	require.NoError(t, f.Save(nat.StoredState{}))
	require.NoError(t, f.Close())

	// It is the file of apply as well.
	_, got, err = opened(t, written(t, nat.StoredState{Table: "x"}))
	require.NoError(t, err)
	require.Equal(t, nat.StoredState{Table: "x"}, got)
	s, err := Decode(strings.NewReader(written(t, want)), "f")
	require.NoError(t, err)
	require.Equal(t, want.State, s)
}

// A file that is torn at whatever byte is refused; and so is one of which a byte is
// another, unless what it says is the same.
func TestTornFile(t *testing.T) {
	want := theRecord(t)
	text := written(t, want)
	require.Less(t, len(text), 1000)
	for end := range len(text) {
		_, err := decodeRecord(text[:end], "f")
		var line *LineError
		require.ErrorAs(t, err, &line, "%q", text[:end])
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.Equal(t, "f", line.File)
	}
	for at := range len(text) {
		for _, bit := range []byte{1, 2, 4, 8, 16, 32, 64, 128} {
			damaged := []byte(text)
			damaged[at] ^= bit
			r, err := decodeRecord(string(damaged), "f")
			if err == nil {
				require.Less(t, at, len(sumStart), "%q", damaged)
				require.Equal(t, want.State, r.State)
			}
		}
	}
	// What follows is another file, or was lost in the middle.
	for _, other := range []string{text + text, text + "  - 80->1.2.3.4:80\n", strings.Replace(text, "  - 8081->172.17.0.2:80\n", "", 1), strings.ReplaceAll(text, "\n", "\r\n")} {
		_, err := decodeRecord(other, "f")
		require.ErrorIs(t, err, nat.ErrInvalid, other)
	}
}

// One that was edited is taken when the line of the checksum is deleted, and then is
// nobody's: of which table it was is not believed.
func TestEditedFile(t *testing.T) {
	text := strings.Replace(written(t, theRecord(t)), "8081->", "8082->", 1)
	_, err := decodeRecord(text, "f")
	require.ErrorContains(t, err, `f:1: invalid checksum "`)
	require.ErrorContains(t, err, "if it is as you want it, delete this line")
	_, err = decodeRecord("# mine\n\n"+text, "f")
	require.ErrorContains(t, err, `f:3: invalid checksum "`)
	_, err = Decode(strings.NewReader(text), "f")
	require.ErrorContains(t, err, "delete this line", "nor does apply take it")

	_, rest, _ := strings.Cut(text, "\n")
	r, err := decodeRecord(rest, "f")
	require.NoError(t, err)
	require.Empty(t, r.Table)
	require.Equal(t, "8082->172.17.0.2:80", r.Mappings[0].String())
	r, err = decodeRecord("# mine\n"+written(t, theRecord(t)), "f")
	require.NoError(t, err)
	require.Equal(t, theRecord(t), r)
	// In a later place it is a comment like any other.
	r, err = decodeRecord("mappings:\n  - 80->1.2.3.4:80\n"+sumStart+"00"+sumEnd+"\n", "f")
	require.NoError(t, err)
	require.Len(t, r.Mappings, 1)
}

func TestFileRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "a line": "\n", "comments": "# mine\n  # too\n", "a byte order mark": "\ufeff",
	} {
		_, _, err := opened(t, text)
		require.ErrorContains(t, err, `state.yaml:1: invalid file "": it says nothing`, name)
		require.ErrorIs(t, err, nat.ErrInvalid, name)
	}
	_, _, err := opened(t, "mappings:\n  - 80->1.2.3.4:80\n  - 80->1.2.3.4:81\n")
	require.ErrorContains(t, err, "state.yaml:3: ")
	f, r, err := opened(t, "mappings: []\n")
	require.NoError(t, err)
	require.Equal(t, nat.StoredState{}, r)
	// What is not of our order is written anew.
	require.NoError(t, f.Save(r))
	text, err := os.ReadFile(f.path)
	require.NoError(t, err)
	require.Contains(t, string(text), sumStart)

	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	require.NoError(t, os.WriteFile(real, []byte("mappings: []\n"), 0o600))
	require.NoError(t, os.Symlink(real, filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "loose")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "directory"), 0o700))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	for path, reason := range map[string]string{
		"link": "it is a symbolic link", "loose": "it is a symbolic link", "directory": "it is not a regular file",
		"pipe": "it is not a regular file", "nowhere/state": "there is no directory " + dir, "real/state": "is no directory",
	} {
		f := NewFile(filepath.Join(dir, path))
		_, _, err := f.Load()
		require.ErrorIs(t, err, nat.ErrInvalid, path)
		require.ErrorContains(t, err, reason, path)
		require.NotContains(t, err.Error(), "\n", path)
		require.NoError(t, f.Close())
	}
	// The lock's name is not followed either.
	require.NoError(t, os.Symlink(real, filepath.Join(dir, "s"+lockSuffix)))
	_, _, err = NewFile(filepath.Join(dir, "s")).Load()
	require.ErrorIs(t, err, unix.ELOOP)
}

// What cannot be written leaves the file as it was, and nothing beside it.
func TestFileSaveFails(t *testing.T) {
	f, _, err := opened(t, written(t, theRecord(t)))
	require.NoError(t, err)
	before, err := os.ReadFile(f.path)
	require.NoError(t, err)
	unchanged := func() {
		t.Helper()
		after, err := os.ReadFile(f.path)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
	}
	// Nothing can take the name of what is being written.
	require.NoError(t, os.MkdirAll(filepath.Join(f.path+newSuffix, "full"), 0o700))
	err = f.Save(nat.StoredState{})
	require.ErrorContains(t, err, "keep state: ")
	unchanged()
	require.NoError(t, os.RemoveAll(f.path+newSuffix))

	// A process that was killed has left one.
	require.NoError(t, os.WriteFile(f.path+newSuffix, []byte("half"), 0o400))
	require.NoError(t, f.Save(nat.StoredState{}))
	require.NoFileExists(t, f.path+newSuffix)

	// The limit is as a disk that is full: some of it is written.
	many := nat.State{Mappings: []nat.Mapping{mapped(t, "1-9->1.2.3.4:1-9"), mapped(t, "20->1.2.3.4:80")}}
	before, err = os.ReadFile(f.path)
	require.NoError(t, err)
	limited(t, 64, func() { err = f.Save(nat.StoredState{State: many}) })
	require.ErrorIs(t, err, unix.EFBIG)
	unchanged()
	require.NoFileExists(t, f.path+newSuffix)
	require.NoError(t, f.Save(nat.StoredState{State: many}))

	// What cannot be a file is not begun.
	before, err = os.ReadFile(f.path)
	require.NoError(t, err)
	require.ErrorIs(t, f.Save(nat.StoredState{State: nat.State{Mappings: append(many.Mappings, many.Mappings...)}}), nat.ErrInvalid)
	unchanged()

	require.NoError(t, os.RemoveAll(filepath.Dir(f.path)))
	require.ErrorIs(t, f.Save(nat.StoredState{}), fs.ErrNotExist)
}

// limited calls f while no file may become larger. Go ignores the signal that comes with
// it.
func limited(tb testing.TB, size uint64, f func()) {
	tb.Helper()
	var before unix.Rlimit
	require.NoError(tb, unix.Getrlimit(unix.RLIMIT_FSIZE, &before))
	require.NoError(tb, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: before.Max}))
	defer func() { require.NoError(tb, unix.Setrlimit(unix.RLIMIT_FSIZE, &before)) }()
	f()
}

func TestFileUndoesSave(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for range 300 {
		want := nat.StoredState{State: randomState(r)}
		if r.IntN(2) == 0 {
			want.Table = "7 of boot x"
		}
		text := written(t, want)
		got, err := decodeRecord(text, "f")
		require.NoError(t, err, text)
		require.Equal(t, want.Table, got.Table)
		require.Equal(t, text, written(t, got))
	}
}

func FuzzDecodeRecord(f *testing.F) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 20 {
		text := written(f, nat.StoredState{State: randomState(r), Table: "1 of boot x"})
		f.Add(text)
		f.Add(text[:r.IntN(len(text))])
		f.Add(randomFile(r))
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := decodeRecord(text, "f")
		var line *LineError
		switch {
		case err == nil:
		case !errors.Is(err, nat.ErrInvalid) || !errors.As(err, &line) || line.Line < 1 || strings.ContainsAny(err.Error(), "\r\n"):
			t.Fatalf("%q: %q", text, err)
		default:
			return
		}
		again, err := encodeRecord(got)
		if err != nil {
			t.Fatalf("%q cannot be written again: %v", text, err)
		}
		twice, err := decodeRecord(string(again), "f")
		if err != nil || twice.Table != got.Table {
			t.Fatalf("%q became %q: %v", text, again, err)
		}
	})
}

// What a change costs where nothing makes a range.
func BenchmarkSave(b *testing.B) {
	for _, count := range []int{100, 10_000, 60_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			f, r, err := opened(b, written(b, nat.StoredState{State: nat.State{Mappings: many(b, "")[:count-1]}}))
			require.NoError(b, err)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Table = fmt.Sprint(i)
				if err := f.Save(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
