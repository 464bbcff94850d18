// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
)

var (
	// ErrConflict matches every *ConflictError: the frontend is in use.
	ErrConflict = errors.New("in use")
	// ErrNotFound means that a mapping, network or endpoint does not exist. It is also
	// fs.ErrNotExist.
	ErrNotFound error = notFound{}
)

type notFound struct{}

func (notFound) Error() string { return "not published" }

func (notFound) Unwrap() error { return fs.ErrNotExist }

// ConflictError says that a frontend is in use by another mapping.
type ConflictError struct {
	// Want is the mapping that was to be published.
	Want Mapping
	// Have is the published mapping that holds the frontend, or an address of it
	// if one of the two is for any address.
	Have Mapping
}

func (e *ConflictError) Error() string {
	if e.ofMasquerade() {
		word := "is"
		if !e.Have.Masquerade {
			word = "is not"
		}
		return fmt.Sprintf("%s, which leads to the same port of the backend and %s masqueraded; both have to be, or neither", e.holder(), word)
	}
	return e.holder() + e.difference()
}

// ofMasquerade reports whether the two have frontends that could both be published, and are in
// conflict because only one is masqueraded.
func (e *ConflictError) ofMasquerade() bool {
	w, h := &e.Want, &e.Have
	return w.Proto == h.Proto && w.Backend.Addr() == h.Backend.Addr() && w.Masquerade != h.Masquerade &&
		meet(w.Backend.Port(), w.More, h.Backend.Port(), h.More) && !meet(w.Frontend.Port(), w.More, h.Frontend.Port(), h.More)
}

// meet reports whether two ranges of ports have one in common.
func meet(a, moreA, b, moreB uint16) bool {
	return int(a) <= int(b)+int(moreB) && int(b) <= int(a)+int(moreA)
}

// holder says what is published.
func (e *ConflictError) holder() string {
	s := fmt.Sprintf("%s is published as %s", DescribeFrontend(e.Have), e.Have)
	if e.Have.Name != "" {
		s += fmt.Sprintf(" by %q", e.Have.Name)
	}
	return s
}

// difference says how the two differ if their texts are the same, or lead ports of ranges that
// have some in common to the same places.
func (e *ConflictError) difference() string {
	want := e.Want
	if w, h := &e.Want, &e.Have; meet(w.Frontend.Port(), w.More, h.Frontend.Port(), h.More) &&
		w.Backend.Port()-w.Frontend.Port() == h.Backend.Port()-h.Frontend.Port() {
		want.More = h.More
		want.Frontend = netip.AddrPortFrom(w.Frontend.Addr(), h.Frontend.Port())
		want.Backend = netip.AddrPortFrom(w.Backend.Addr(), h.Backend.Port())
	}
	want.Name, want.NoProxy, want.Expires = e.Have.Name, e.Have.NoProxy, e.Have.Expires
	want.ProxyOnly, want.Masquerade, want.From = e.Have.ProxyOnly, e.Have.Masquerade, e.Have.From
	want.Hold = e.Have.Hold
	switch {
	case want != e.Have:
		return ""
	case e.Want.Name != e.Have.Name:
		if e.Have.Name == "" {
			return " without a name"
		}
		return ""
	case e.Want.NoProxy != e.Have.NoProxy:
		if e.Have.NoProxy {
			return " without a proxy"
		}
		return " with a proxy"
	case e.Want.ProxyOnly != e.Have.ProxyOnly:
		if e.Have.ProxyOnly {
			return " for its proxy only"
		}
		return " for others than its proxy too"
	case e.Want.Masquerade != e.Have.Masquerade:
		if e.Have.Masquerade {
			return " with masquerade"
		}
		return " without masquerade"
	case e.Want.From != e.Have.From:
		if e.Have.From.IsZero() {
			return " for clients from anywhere"
		}
		return " for clients from " + e.Have.From.String()
	case e.Want.Hold != e.Have.Hold:
		if e.Have.Hold == HoldShared {
			return " on a port that it shares"
		}
		return " on a port that it does not share"
	case e.Have.Expires.IsZero() && !e.Want.Expires.IsZero():
		return " without an expiry time"
	}
	return ""
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// DescribeFrontend names a mapping in an error: "tcp 8080", "udp [::1]:53".
func DescribeFrontend(m Mapping) string { return m.Proto.String() + " " + m.FrontendText() }
