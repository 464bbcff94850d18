// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"testing"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// elsewhereAs is SaddrElsewhere with another comparison behind the fib expression.
type elsewhereAs struct {
	Stmt
	op   expr.CmpOp
	data []byte
}

func (e elsewhereAs) String() string { return SaddrElsewhere().String() }

func (e elsewhereAs) lower(a *assembler) {
	SaddrElsewhere().lower(a)
	a.exprs[len(a.exprs)-1] = &expr.Cmp{Op: e.op, Register: register(0), Data: e.data}
}

// localAs is DaddrLocal with another comparison: it asks for a type, not for presence.
type localAs struct {
	Stmt
	data []byte
}

func (l localAs) String() string { return DaddrLocal().String() }

func (l localAs) lower(a *assembler) {
	DaddrLocal().lower(a)
	a.exprs[len(a.exprs)-1] = equal(l.data)
}

// TestDriftOfMissing has what several versions of nft(8) make of "fib ... missing",
// without any of them.
func TestDriftOfMissing(t *testing.T) {
	c, _ := kernel(t)
	with := func(first Stmt) Table {
		return Table{Name: "t", Chains: []Chain{{
			Name: "c", Hook: Hook{"filter", "prerouting", PriorityRaw}, Rules: []Rule{{first, Drop()}},
		}}}
	}
	for _, tt := range []struct {
		name  string
		have  Stmt
		want  Stmt
		drift bool
	}{
		{"four bytes", elsewhereAs{op: expr.CmpOpEq, data: []byte{0, 0, 0, 0}}, SaddrElsewhere(), false},
		{"one byte, as nft 1.1.7", elsewhereAs{op: expr.CmpOpEq, data: []byte{0}}, SaddrElsewhere(), false},
		{"two bytes", elsewhereAs{op: expr.CmpOpEq, data: []byte{0, 0}}, SaddrElsewhere(), true},
		{"exists", elsewhereAs{op: expr.CmpOpEq, data: []byte{1}}, SaddrElsewhere(), true},
		{"not missing", elsewhereAs{op: expr.CmpOpNeq, data: []byte{0}}, SaddrElsewhere(), true},
		{"one byte of a type", localAs{data: []byte{0}}, localAs{data: []byte{0, 0, 0, 0}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.NoError(t, c.Replace(with(tt.have), nil, 0))
			drift, err := c.Drift(with(tt.want))
			require.NoError(t, err)
			require.Equal(t, tt.drift, len(drift) != 0, drift)
		})
	}
}

// TestDriftOfLoadedSample loads every kind of statement with the nft(8) that is here.
func TestDriftOfLoadedSample(t *testing.T) {
	c, ns := kernel(t)
	labtest.ExecInput(t, ns, sample().String(), "nft", "-f", "-")
	drift, err := c.Drift(sample())
	require.NoError(t, err)
	require.Empty(t, drift)
}
