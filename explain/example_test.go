// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain_test

import (
	"context"
	"fmt"
	"log"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/explain"
	"github.com/nftnat/nftnat/explain/report"
)

func Example() {
	mappings, err := engine.OpenFinder(engine.FinderOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer mappings.Close()
	e, err := explain.New(explain.Options{Mappings: mappings})
	if err != nil {
		log.Fatal(err)
	}
	defer e.Close()
	q, err := report.ParseQuery("tcp", "8080", "192.0.2.2")
	if err != nil {
		log.Fatal(err)
	}
	r, err := e.Explain(context.Background(), q)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(r.Text())
	if r.Verdict != report.Passes && r.Cause != nil {
		fmt.Println("to be corrected by:", r.Cause.Remedy)
	}
}
