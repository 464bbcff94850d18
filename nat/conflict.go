// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"fmt"
	"io/fs"
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
	return e.Want.Proto == e.Have.Proto && e.Want.Backend == e.Have.Backend && e.Want.Masquerade != e.Have.Masquerade &&
		e.Want.Frontend.Port() != e.Have.Frontend.Port()
}

// holder says what is published.
func (e *ConflictError) holder() string {
	s := fmt.Sprintf("%s is published as %s", DescribeFrontend(e.Have), e.Have)
	if e.Have.Name != "" {
		s += fmt.Sprintf(" by %q", e.Have.Name)
	}
	return s
}

// difference says how the two differ if their texts are the same.
func (e *ConflictError) difference() string {
	want := e.Want
	want.Name, want.NoProxy, want.Expires = e.Have.Name, e.Have.NoProxy, e.Have.Expires
	want.ProxyOnly, want.Masquerade, want.From = e.Have.ProxyOnly, e.Have.Masquerade, e.Have.From
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
	case e.Have.Expires.IsZero() && !e.Want.Expires.IsZero():
		return " without an expiry time"
	}
	return ""
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// DescribeFrontend names a mapping in an error: "tcp 8080", "udp [::1]:53".
func DescribeFrontend(m Mapping) string { return m.Proto.String() + " " + m.FrontendText() }
