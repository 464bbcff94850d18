// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// fakePublisher has one mapping for each protocol and port, and sockets of others.
type fakePublisher struct {
	published []nat.Mapping
	held      map[string]nat.HeldError // by protocol and port
	calls     []string
	fails     error
}

func (f *fakePublisher) Publish(_ context.Context, how nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error) {
	f.calls = append(f.calls, fmt.Sprint("publish ", how.Replace, how.IfName))
	if f.fails != nil {
		return nil, f.fails
	}
	after := f.published
	for _, r := range ms {
		for m := range nat.Expand(r) {
			if h, ok := f.held[nat.DescribeFrontend(m)]; ok && m.Hold == nat.HoldOwn {
				return nil, fmt.Errorf("publish: %w", &h)
			}
			var rest []nat.Mapping
			for _, have := range after {
				switch {
				case !overlap(&have, &m):
					rest = append(rest, have)
				case have != m && (!how.Replace || have.Frontend != m.Frontend || how.IfName != "" && how.IfName != have.Name):
					return nil, fmt.Errorf("publish: %w", &nat.ConflictError{Want: m, Have: have})
				}
			}
			after = append(rest, m)
		}
	}
	f.published = after
	return ms, nil
}

func (f *fakePublisher) Remove(_ context.Context, r nat.Removal) ([]nat.Mapping, error) {
	f.calls = append(f.calls, "remove "+r.Name)
	var rest []nat.Mapping
	for _, m := range f.published {
		if m.Name != r.Name {
			rest = append(rest, m)
		}
	}
	if len(rest) == len(f.published) {
		return nil, nat.ErrNotFound
	}
	f.published = rest
	return nil, nil
}

// testPublication is a publication with what surrounds it.
type testPublication struct {
	publication
	fake *fakePublisher
	t    *testing.T
	dir  string
}

// newPublication makes one that publishes mappings for the container "me".
func newPublication(t *testing.T, texts ...string) *testPublication {
	t.Helper()
	dir := t.TempDir()
	p := &testPublication{t: t, dir: dir, fake: &fakePublisher{held: map[string]nat.HeldError{}}}
	p.publication = publication{
		publisher: p.fake, records: recordsOf(filepath.Join(dir, "x.sock")), self: newOwner("net", "me", "eth0", dir),
		name: OwnerName("net", "me", "eth0"), reserved: true, nameHolder: func(*nat.HeldError) {},
	}
	p.mappings = p.parse(p.name, texts...)
	return p
}

func (p *testPublication) parse(name string, texts ...string) (ms []nat.Mapping) {
	for _, text := range texts {
		m, err := nat.ParseMappingText(text)
		require.NoError(p.t, err)
		m.Name = name
		for one := range nat.Expand(m) {
			ms = append(ms, one)
		}
	}
	return ms
}

// other publishes mappings for another container, whose network namespace is there or has gone.
func (p *testPublication) other(network, id string, gone bool, texts ...string) (name string) {
	name = OwnerName(network, id, "eth0")
	path := filepath.Join(p.dir, network+id)
	require.NoError(p.t, os.WriteFile(path, nil, 0o600))
	require.NoError(p.t, p.records.write(name, newOwner(network, id, "eth0", path)))
	if gone {
		require.NoError(p.t, os.Remove(path))
	}
	p.fake.published = append(p.fake.published, p.parse(name, texts...)...)
	return name
}

// published are the texts of what is published, of each with the beginning of its name.
func (p *testPublication) published() string {
	var texts []string
	for _, m := range nat.Collapse(p.fake.published) {
		text := m.String()
		if m.Name == p.name {
			text += " mine"
		}
		if m.Hold == nat.HoldShared {
			text += " shared"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func TestPublish(t *testing.T) {
	p := newPublication(t, "8080->10.0.0.2:80", "9000-9009->10.0.0.2:9000-9009")
	require.NoError(t, p.run(t.Context()))
	require.NoError(t, p.run(t.Context()))
	require.Equal(t, "8080->10.0.0.2:80 mine, 9000-9009->10.0.0.2:9000-9009 mine", p.published())
	require.Equal(t, []string{"publish false", "publish false"}, p.fake.calls)
	// The container has another address, and then both families.
	p.mappings = p.parse(p.name, "8080->10.0.0.3:80")
	require.NoError(t, p.run(t.Context()))
	require.Equal(t, "8080->10.0.0.3:80 mine, 9000-9009->10.0.0.2:9000-9009 mine", p.published())
	p.mappings = p.parse(p.name, "0.0.0.0:8080->10.0.0.3:80", "[::]:8080->[fd00::2]:80")
	require.NoError(t, p.run(t.Context()))
	require.Equal(t, "0.0.0.0:8080->10.0.0.3:80 mine, [::]:8080->[fd00::2]:80 mine", p.published())
}

func TestPublishConflict(t *testing.T) {
	for _, test := range []struct {
		about   string
		before  func(p *testPublication)
		want    string // what is published then
		details string // of the error; empty: there is none
	}{
		{"of a container that is there", func(p *testPublication) {
			p.other("net", "other", false, "8080->10.0.0.9:80")
		}, "8080->10.0.0.9:80", "by container other (eth0 of network net)"},
		{"of an operator", func(p *testPublication) {
			p.fake.published = p.parse("web", "8080->10.0.0.9:80")
		}, "8080->10.0.0.9:80", "-"},
		{"of an operator, to be replaced", func(p *testPublication) {
			p.fake.published = p.parse("web", "8080->10.0.0.9:80")
			p.replace = true
		}, "8080->10.0.0.2:80 mine, 9000->10.0.0.2:90 mine", ""},
		{"of one without a record", func(p *testPublication) {
			require.NoError(p.t, p.records.remove(p.other("net", "other", true, "8080->10.0.0.9:80")))
		}, "8080->10.0.0.9:80", "-"},
		{"of one that has gone", func(p *testPublication) {
			p.other("net2", "other", true, "8080->10.0.0.9:80", "8081->10.0.0.9:80")
		}, "8080->10.0.0.2:80 mine, 9000->10.0.0.2:90 mine", ""},
		{"of two that have gone", func(p *testPublication) {
			p.other("net", "other", true, "8080->10.0.0.9:80")
			p.other("net", "another", true, "9000->10.0.0.8:80")
		}, "8080->10.0.0.2:80 mine, 9000->10.0.0.2:90 mine", ""},
		{"of one that has gone, with other frontends", func(p *testPublication) {
			p.other("net", "other", true, "0.0.0.0:8080->10.0.0.9:80", "[::]:8080->[fd00::9]:80")
		}, "8080->10.0.0.2:80 mine, 9000->10.0.0.2:90 mine", ""},
		{"of one that has gone and one that has not", func(p *testPublication) {
			p.other("net", "other", true, "8080->10.0.0.9:80")
			p.other("net", "another", false, "9000->10.0.0.8:80")
		}, "8080->10.0.0.9:80, 9000->10.0.0.8:80", "by container another (eth0 of network net)"},
		{"of another network of the container", func(p *testPublication) {
			p.other("net2", "me", false, "8080->10.1.0.2:80")
		}, "8080->10.1.0.2:80, 9000->10.0.0.2:90 mine", ""},
		{"of another network of the container, all", func(p *testPublication) {
			p.other("net2", "me", false, "8080->10.1.0.2:80", "9000->10.1.0.2:90")
		}, "8080->10.1.0.2:80, 9000->10.1.0.2:90", ""},
	} {
		t.Run(test.about, func(t *testing.T) {
			p := newPublication(t, "8080->10.0.0.2:80", "9000->10.0.0.2:90")
			test.before(p)
			err := p.run(t.Context())
			require.Equal(t, test.want, p.published(), "%v", err)
			if test.details == "" {
				require.NoError(t, err)
				return
			}
			var e *types.Error
			require.ErrorAs(t, coded(err), &e)
			require.Equal(t, types.ErrTryAgainLater, e.Code)
			require.Contains(t, e.Msg, "is published as")
			require.Equal(t, strings.Trim(test.details, "-"), e.Details)
		})
	}
}

// A port that a process only reserves is shared with it, others are not.
func TestPublishHeld(t *testing.T) {
	held := func(command string) nat.HeldError {
		return nat.HeldError{Want: nat.Mapping{Proto: nat.TCP}, Address: netip.MustParseAddrPort("0.0.0.0:8080"), Inode: 1, PID: 7, Command: command}
	}
	p := newPublication(t, "0.0.0.0:8080->10.0.0.2:80", "[::]:8080->[fd00::2]:80", "0.0.0.0:8081->10.0.0.2:80")
	p.fake.held["tcp 0.0.0.0:8080"] = held("sleep")
	require.NoError(t, p.run(t.Context()))
	require.Equal(t, "0.0.0.0:8080->10.0.0.2:80 mine shared, 0.0.0.0:8081->10.0.0.2:80 mine, [::]:8080->[fd00::2]:80 mine", p.published())

	for _, reserved := range []bool{true, false} {
		p = newPublication(t, "0.0.0.0:8080->10.0.0.2:80")
		p.reserved = reserved
		p.fake.held["tcp 0.0.0.0:8080"] = held(map[bool]string{true: "nginx", false: "sleep"}[reserved])
		var e *types.Error
		require.ErrorAs(t, p.run(t.Context()), &e)
		require.Equal(t, types.ErrTryAgainLater, e.Code)
		require.Regexp(t, `^by (nginx|sleep) \(pid 7\)$`, e.Details)
		require.Empty(t, p.published())
	}
}

// The code says whether the runtime is to try again.
func TestCoded(t *testing.T) {
	for _, test := range []struct {
		err  error
		code uint
	}{
		{fmt.Errorf("x: %w", api.ErrNoServer), 11},
		{api.ErrBusy, 11},
		{nat.ErrClosed, 11},
		{context.DeadlineExceeded, 11},
		{nat.ErrOwned, 11},
		{nat.ErrExhausted, 11},
		{&nat.ConflictError{}, 11},
		{nat.ErrInvalid, 7},
		{os.ErrPermission, 5},
		{errors.New("x"), 999},
		{errors.Join(unsupported("masqAll", "true"), nil), 2},
	} {
		var e *types.Error
		require.ErrorAs(t, coded(test.err), &e)
		require.Equal(t, test.code, e.Code, test.err)
	}
	require.NoError(t, coded(nil))
}
