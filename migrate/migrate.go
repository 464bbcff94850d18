// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nftnat/nftnat/migrate/internal/chains"
	"github.com/nftnat/nftnat/nat"
)

// Source is a program that publishes ports.
type Source int

// The sources.
const (
	Docker Source = 1 + iota
	CNI
	Netavark
	IPTables
	NFTables
	Miniupnpd
)

// Sources returns all of them.
func Sources() []Source { return []Source{Docker, CNI, Netavark, IPTables, NFTables, Miniupnpd} }

// String returns the source in a word, which [ParseSource] reads.
func (s Source) String() string {
	names := [...]string{"", "docker", "cni", "netavark", "iptables", "nftables", "miniupnpd"}
	if s < 1 || int(s) >= len(names) {
		return "invalid"
	}
	return names[s]
}

// ParseSource reads the word for a source.
func ParseSource(text string) (Source, error) {
	for _, s := range Sources() {
		if s.String() == text {
			return s, nil
		}
	}
	return 0, &nat.InvalidError{What: "source", Input: text, Reason: "docker, cni, netavark, iptables, nftables or miniupnpd"}
}

// MaxFile is how long a file may be, in bytes.
const MaxFile = 32 << 20

// Options say what is read.
type Options struct {
	// Source is required.
	Source Source
	// File is the name of a file, and Data what is in it. Empty: what runs on this host is read.
	File string
	Data []byte
	// NetNS is the path of the network namespace. Empty: that of the process.
	NetNS string
	// Table is the name of nftnat's own table, which is left out. Empty: none is.
	Table string
	// Published are the mappings that nftnat has published already: their ports are held by
	// itself.
	Published []nat.Mapping
	// Now is the time from which lifetimes count. Zero: the present.
	Now time.Time
}

// Import is what a source has published.
type Import struct {
	Source Source
	// From says what was read, in words.
	From string
	// Entries are what nftnat can publish, in the order in which the source has them.
	Entries []Entry
	// LeftOut are what it cannot.
	LeftOut []LeftOut

	ports map[portKey][]int // indexes of Entries
	drop  map[int]string    // those that turned out to be ambiguous, and why
}

// Entry is a mapping with where it comes from.
type Entry struct {
	Mapping nat.Mapping
	// Origins are the rules, or records, in the words of their program.
	Origins []string
	// Notes are what differs, or is to be known.
	Notes []string

	rank int
	base *chains.Chain
}

// LeftOut is something that no mapping can do.
type LeftOut struct{ Origin, Reason string }

// ErrNothing means that there is nothing to import. It is [nat.ErrNotFound].
var ErrNothing error = nothing{}

type nothing struct{}

func (nothing) Error() string { return "nothing to import was found" }

func (nothing) Unwrap() error { return nat.ErrNotFound }

// absent is an error about a source that is not there.
type absent struct{ error }

func (e absent) Unwrap() []error { return []error{nat.ErrNotFound, e.error} }

// Mappings returns the mappings of all entries.
func (im *Import) Mappings() []nat.Mapping {
	ms := make([]nat.Mapping, len(im.Entries))
	for i, e := range im.Entries {
		ms[i] = e.Mapping
	}
	return ms
}

// Read finds what a source has published. Malformed files are an error that is [nat.ErrInvalid];
// a source that is not there is [nat.ErrNotFound]; that nothing is found is no error.
func Read(ctx context.Context, o Options) (*Import, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	im := &Import{Source: o.Source, ports: map[portKey][]int{}, drop: map[int]string{}}
	h, err := openHost(o)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", o.Source, err)
	}
	switch o.Source {
	case Docker:
		err = im.docker(ctx, o, h)
	case CNI:
		err = im.cni(ctx, o, h)
	case Netavark:
		err = im.netavark(ctx, o, h)
	case Miniupnpd:
		err = im.miniupnpd(ctx, o, h)
	case IPTables, NFTables:
		err = im.rules(ctx, o, h)
	default:
		err = &nat.InvalidError{What: "source", Input: o.Source.String(), Reason: "it is none that is known"}
	}
	var bad *nat.InvalidError
	switch {
	case errors.As(err, &bad):
		return nil, err
	case errors.Is(err, fs.ErrNotExist) && o.File == "":
		return nil, fmt.Errorf("import %s: %w", o.Source, absent{err})
	case err != nil:
		return nil, fmt.Errorf("import %s: %w", o.Source, err)
	}
	im.finish(h)
	return im, nil
}

// badFile is the error about a file that cannot be read as what it is to be.
func (o Options) badFile(reason string) error {
	return &nat.InvalidError{What: o.Source.String() + " file", Input: o.File, Reason: reason}
}

func (im *Import) leaveOut(origin, reason string) {
	for _, l := range im.LeftOut {
		if l.Origin == origin && l.Reason == reason {
			return
		}
	}
	im.LeftOut = append(im.LeftOut, LeftOut{origin, reason})
}
