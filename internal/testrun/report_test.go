// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	const results = `
{"Action":"start","Package":"x/alloc"}
{"Action":"run","Package":"x/alloc","Test":"TestA"}
{"Action":"output","Package":"x/alloc","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"x/alloc","Test":"TestA","Output":"    a_test.go:7: left out: 2 of 3 rounds\n"}
{"Action":"output","Package":"x/alloc","Test":"TestA","Output":"    a_test.go:8: seed 1\n"}
{"Action":"pass","Package":"x/alloc","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"x/alloc","Test":"TestB","Output":"    a_test.go:9: left out: all\n"}
{"Action":"output","Package":"x/alloc","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"x/alloc","Test":"TestB"}
{"Action":"output","Package":"x/alloc","Test":"TestB2/part","Output":"    a_test.go:9: left out: all\n"}
{"Action":"skip","Package":"x/alloc","Test":"TestB2/part"}
{"Action":"output","Package":"x/alloc","Test":"TestC","Output":"    a_test.go:10: needs a kernel\n"}
{"Action":"skip","Package":"x/alloc","Test":"TestC"}
{"Action":"output","Package":"x/alloc","Output":"PASS\n"}
{"Action":"output","Package":"x/alloc","Output":"ok  \tx/alloc\t0.2s\n"}
{"Action":"pass","Package":"x/alloc","Elapsed":0.2}
{"Action":"output","Package":"x/nft","Test":"TestD","Output":"    d_test.go:3: wrong\n"}
{"Action":"fail","Package":"x/nft","Test":"TestD","Elapsed":20}
{"Action":"pass","Package":"x/nft","Test":"TestF/part","Elapsed":61.5}
{"Action":"pass","Package":"x/nft","Test":"TestF","Elapsed":61.5}
{"Action":"output","Package":"x/nft","Test":"TestE","Output":"panic: cut short\n"}
{"Action":"output","Package":"x/nft","Output":"FAIL\tx/nft\t0.1s\n"}
{"Action":"fail","Package":"x/nft"}
{"ImportPath":"x/bad","Action":"build-output","Output":"bad.go:1:1: does not compile\n"}
not an event
`
	var out bytes.Buffer
	r := newReport(&out)
	require.NoError(t, r.read(strings.NewReader(strings.TrimPrefix(results, "\n"))))
	r.summary()
	require.Equal(t, `ok  	x/alloc	0.2s
    d_test.go:3: wrong
FAIL	x/nft	0.1s
panic: cut short
bad.go:1:1: does not compile
not an event

Of 20 s or more:
      62 s nft TestF
      20 s nft TestD

Left out because it takes long ("make integration" runs all of it):
    alloc: 2 of 3 rounds (TestA)
    alloc: all (TestB, TestB2/part)

Skipped:
    alloc: needs a kernel (TestC)
`, out.String())
	require.Equal(t, []string{"TestA", "TestB", "TestB2"}, r.leftOutOf("alloc"))
	require.Empty(t, r.leftOutOf("nft"))
}

func TestReportOfAll(t *testing.T) {
	var out bytes.Buffer
	newReport(&out).summary()
	require.Equal(t, "\nNothing was left out.\n", out.String())
}
