// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"testing"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// TestDriftOfRedirection: the kernel lists the register of the last port too, which is that of the first unless another was
// given.
func TestDriftOfRedirection(t *testing.T) {
	inList := func(add func(b []byte) []byte) []byte {
		b, at := nlwire.OpenAttr(nil, nlwire.Nested|unix.NFTA_LIST_ELEM)
		return nlwire.CloseAttr(add(b), at)
	}
	want := inList(func(b []byte) []byte {
		b, ok := appendExpression(b, &expr.Redir{RegisterProtoMin: register(0), Flags: natProtoSpecified})
		require.True(t, ok)
		return b
	})
	listed := func(last uint32) []byte {
		return inList(func(b []byte) []byte {
			b = nlwire.AppendString(b, unix.NFTA_EXPR_NAME, "redir")
			b, at := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_EXPR_DATA)
			b = appendNumbers(b, unix.NFTA_REDIR_REG_PROTO_MIN, register(0), unix.NFTA_REDIR_REG_PROTO_MAX, last, unix.NFTA_REDIR_FLAGS, natProtoSpecified)
			return nlwire.CloseAttr(b, at)
		})
	}
	require.True(t, sameExpressions(want, listed(register(0))))
	require.False(t, sameExpressions(want, listed(register(4))))
}
