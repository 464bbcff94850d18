// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// theState has one of everything.
func theState(tb testing.TB) nat.StoredState {
	tb.Helper()
	_, s := designFile(tb)
	return nat.StoredState{State: s, Table: "12 of namespace 1 of boot 5d1c"}
}

// written is the text of a file.
func written(tb testing.TB, r nat.StoredState) string {
	tb.Helper()
	text, err := encodeFile(r)
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
	want := theState(t)
	path := filepath.Join(t.TempDir(), "state.yaml")
	f := NewFile(path)
	_, found, err := f.Load()
	require.NoError(t, err)
	require.False(t, found)
	require.NoFileExists(t, path)
	require.NoError(t, f.Save(want))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Regexp(t, `^\{
"checksum":"[0-9a-f]{64}",
"table":"12 of namespace 1 of boot 5d1c",
"version":1,
"networks":\[
\{"name":"inside"`, string(text))
	require.True(t, json.Valid(text))
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

// yamlFile is a file that was written before files were JSON.
func yamlFile(tb testing.TB) (string, nat.StoredState) {
	tb.Helper()
	text, err := os.ReadFile("testdata/yaml.state")
	require.NoError(tb, err)
	_, body, _ := strings.Cut(string(text), "version: 1\n")
	s, err := Decode(strings.NewReader(body), "f")
	require.NoError(tb, err)
	require.Len(tb, s.Networks, 2)
	require.Len(tb, s.Endpoints, 2)
	require.Len(tb, s.Mappings, 3)
	return string(text), nat.StoredState{State: s, Table: "12 of namespace 1 of boot 5d1c"}
}

// A file that is cut off anywhere is refused, and so is one with a byte changed, unless it
// says the same.
func TestTornFile(t *testing.T) {
	want := theState(t)
	requireTorn(t, written(t, want), want, len("{\n"))
	text, want := yamlFile(t)
	requireTorn(t, text, want, len(sumStart))
}

// requireTorn damages a file in each byte. Those before start can be something else.
func requireTorn(t *testing.T, text string, want nat.StoredState, start int) {
	t.Helper()
	require.Less(t, len(text), 1100)
	for end := range len(text) {
		_, err := decodeFile(text[:end], "f")
		if end == len(text)-1 && text[end-1] == '}' { // all is there but the checksum
			require.ErrorContains(t, err, "checksum")
		}
		var line *LineError
		require.ErrorAs(t, err, &line, "%q", text[:end])
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.Equal(t, "f", line.File)
	}
	for at := range len(text) {
		for _, bit := range []byte{1, 2, 4, 8, 16, 32, 64, 128} {
			damaged := []byte(text)
			damaged[at] ^= bit
			s, err := decodeFile(string(damaged), "f")
			if err == nil {
				require.Less(t, at, start, "%q", damaged)
				require.Equal(t, want.State, s.State)
			}
		}
	}
	// What follows is another file, or was lost in the middle.
	lines := strings.SplitAfter(text, "\n")
	middle := len(lines) - 4
	for _, other := range []string{
		text + text, text + "  - 80->1.2.3.4:80\n", strings.Join(append(slices.Clone(lines[:middle]), lines[middle+1:]...), ""), strings.ReplaceAll(text, "\n", "\r\n"),
	} {
		_, err := decodeFile(other, "f")
		require.ErrorIs(t, err, nat.ErrInvalid, other)
	}
}

// A file that was edited is taken when the line of the checksum is deleted. Of which table
// it was is not believed then.
func TestEditedFile(t *testing.T) {
	for name, line := range map[string]string{"JSON": "2", "YAML": "1"} {
		text, want := written(t, theState(t)), theState(t)
		if name == "YAML" {
			text, want = yamlFile(t)
		}
		good := text
		text = strings.Replace(text, "8081->", "8082->", 1)
		_, err := decodeFile(text, "f")
		require.ErrorContains(t, err, "f:"+line+`: invalid checksum "`)
		require.ErrorContains(t, err, "if it is as you want it, delete this line")
		_, err = Decode(strings.NewReader(text), "f")
		require.ErrorContains(t, err, "delete this line", "nor does apply take it")

		r, err := decodeFile(regexp.MustCompile(`(?m)^.*(checksum|sha256).*\n`).ReplaceAllString(text, ""), "f")
		require.NoError(t, err)
		require.Empty(t, r.Table)
		require.Equal(t, "8082->172.17.0.2:80", r.Mappings[0].String())
		if name == "YAML" {
			_, err = decodeFile("# mine\n\n"+text, "f")
			require.ErrorContains(t, err, `f:3: invalid checksum "`)
			good = "# mine\n" + good
		}
		r, err = decodeFile(good, "f")
		require.NoError(t, err)
		require.Equal(t, want, r)
	}
	// In a later place it is a comment like any other.
	r, err := decodeFile("mappings:\n  - 80->1.2.3.4:80\n"+sumStart+"00"+sumEnd+"\n", "f")
	require.NoError(t, err)
	require.Len(t, r.Mappings, 1)
}

// A file of YAML is JSON from the next Save on.
func TestFileFromYAML(t *testing.T) {
	text, want := yamlFile(t)
	f, got, err := opened(t, text)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, f.Save(got))
	after, err := os.ReadFile(f.path)
	require.NoError(t, err)
	require.Equal(t, written(t, want), string(after))
	require.True(t, json.Valid(after))
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
	require.Contains(t, string(text), `"checksum":`)

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
	f, _, err := opened(t, written(t, theState(t)))
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
		if r.IntN(2) == 0 {
			want.Removed = removedState(r)
		}
		text := written(t, want)
		got, err := decodeFile(text, "f")
		require.NoError(t, err, text)
		require.Equal(t, want.Table, got.Table)
		require.Equal(t, want.Removed, got.Removed)
		require.Equal(t, text, written(t, got))
	}
}

// removedState is a state of which each item was removed: any may overlap.
func removedState(r *rand.Rand) nat.State {
	a, b := randomState(r), randomState(r)
	s := nat.State{
		Networks: append(a.Networks, b.Networks...), Endpoints: append(a.Endpoints, b.Endpoints...),
		Mappings: append(a.Mappings, b.Mappings...),
	}
	for i := range s.Endpoints {
		s.Endpoints[i].Ports = nil
	}
	return s
}

// What was removed is a line of its own, without which other versions read the file.
func TestFileRemoved(t *testing.T) {
	s := theState(t)
	without := written(t, nat.StoredState{State: s.State})
	s.Removed = nat.State{
		Mappings:  []nat.Mapping{mapped(t, "80-89->1.2.3.4:80-89"), mapped(t, "80->1.2.3.5:80")},
		Endpoints: []nat.EndpointSpec{{Name: "web", Network: "inside", Address: netip.MustParseAddr("172.30.0.9")}},
	}
	text := written(t, s)
	require.Contains(t, text, `
"removed":{"endpoints":[{"name":"web","network":"inside","address":"172.30.0.9"}],"mappings":["80-89->1.2.3.4:80-89","80->1.2.3.5:80"]},
`)
	lines := regexp.MustCompile(`(?m)^"(checksum|table|removed)":.*\n`)
	require.Equal(t, lines.ReplaceAllString(without, ""), lines.ReplaceAllString(text, ""))

	// An edited file keeps it; the table is not believed.
	_, got, err := opened(t, regexp.MustCompile(`(?m)^"checksum":.*\n`).ReplaceAllString(text, ""))
	require.NoError(t, err)
	require.Equal(t, nat.StoredState{State: s.State, Removed: s.Removed}, got)

	for _, bad := range []struct{ removed, want string }{
		{`[]`, `f:3: invalid key "removed": a file has the keys version, networks, endpoints and mappings`},
		{`{"a":[]}`, `f:3: invalid key "a": what was removed has the keys networks, endpoints and mappings`},
		{`{"mappings":{}}`, `f:3: invalid mappings "": not a list`},
		{`{"mappings":["0->1.2.3.4:80"]}`, `f:3: invalid mapping "0->1.2.3.4:80": frontend 0 asks for a free port, and a file says which`},
		{`{"mappings":["80->127.0.0.1"]}`, `f:3: invalid mapping "80->127.0.0.1:80": the backend is a loopback address, which packets from outside cannot be sent to`},
		{`{"endpoints":[{"name":"a"}]}`, `f:3: invalid endpoint "a": what was removed has an address and no ports`},
		{`{"networks":[{"name":"a","prefix":"10.0.0.0/33"}]}`, `f:3: invalid prefix "10.0.0.0/33": `},
		{`{"mappings":[],"mappings":[]}`, `f:3: invalid key "mappings": it is given twice`},
	} {
		_, err := decodeFile("{\n\"version\":1,\n\"removed\":"+bad.removed+",\n\"mappings\":[]}", "f")
		require.ErrorContains(t, err, bad.want)
	}
	s.Removed.Mappings[0].Backend = netip.AddrPort{}
	require.ErrorIs(t, NewFile(filepath.Join(t.TempDir(), "f")).Save(s), nat.ErrInvalid)
}

func FuzzDecodeFile(f *testing.F) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 20 {
		text := written(f, nat.StoredState{State: randomState(r), Table: "1 of boot x", Removed: removedState(r)})
		f.Add(text)
		f.Add(text[:r.IntN(len(text))])
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := decodeFile(text, "f")
		var line *LineError
		switch {
		case err == nil:
		case !errors.Is(err, nat.ErrInvalid) || !errors.As(err, &line) || line.Line < 1 || strings.ContainsAny(err.Error(), "\r\n"):
			t.Fatalf("%q: %q", text, err)
		default:
			return
		}
		again, err := encodeFile(got)
		if err != nil {
			t.Fatalf("%q cannot be written again: %v", text, err)
		}
		twice, err := decodeFile(string(again), "f")
		if err != nil || twice.Table != got.Table || !reflect.DeepEqual(twice.Removed, got.Removed) {
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
