// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// further are elements that are made one by one.
func further(es []Element) Elements { return Elements{Len: len(es), All: slices.Values(es)} }

// Elements that are made one by one are encoded and checked as those of a slice are.
func TestBatchOfFurther(t *testing.T) {
	table, es := sample(), ports(5000, "web")
	want, have := newBatch(1, 0), newBatch(1, 0)
	want.addElements(table, es)
	require.NoError(t, have.addFurther(table, further(es)))
	want.finish()
	have.finish()
	require.Equal(t, want.buf, have.buf)

	es[4000].Comment = "\n"
	ch := Change{Further: further(es)}
	require.Equal(t, Change{Add: es}.Validate(table), ch.Validate(table))
	require.Equal(t, ch.Validate(table), newBatch(1, 0).addFurther(table, ch.Further))
	require.Error(t, ch.Validate(table))
	require.Equal(t, Change{Add: es}.String(), ch.String())
	require.Equal(t, Change{Add: es}.Inverse(), ch.Inverse())
	require.False(t, ch.Empty())
	require.True(t, (&Change{}).Empty())
}

func TestFurtherOnKernel(t *testing.T) {
	c, _ := kernel(t)
	es := ports(3000, "web")
	require.NoError(t, c.Create(sample(), Change{Add: es[:10], Further: further(es[10:2000])}))
	require.ErrorIs(t, c.Create(sample(), Change{Further: further(es)}), ErrStale)
	require.ErrorIs(t, c.Update(sample(), Change{Further: further(es[1999:])}), unix.EEXIST)
	ch := Change{Delete: es[:5], Further: further(es[2000:])}
	require.NoError(t, c.Update(sample(), ch))
	shows, err := c.shows(sample(), ch)
	require.NoError(t, err)
	require.True(t, shows)
	have, _, err := c.Elements(sample(), es[0].Set)
	require.NoError(t, err)
	require.ElementsMatch(t, es[5:], have)
	ch.Further = further(append(slices.Clone(es[2000:]), es[0]))
	shows, err = c.shows(sample(), ch)
	require.NoError(t, err)
	require.False(t, shows)
}
