// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// notice is a message from a worker to the test that will kill it. The worker sends it
// before or after a step, never in the middle: what is in the pipe outlives the writer.
type notice struct {
	Ready *nat.State // the table is adopted; its state
	Step  string     // is about to begin
	Begin *operation // is begun
	End   *result    // of the operation that began last
}

// operationsPerWorker is the number of operations after which a worker kills itself, unless it is
// to be killed at a step that few of them have.
const operationsPerWorker = 6

// childWork adopts the table, waits for a byte on standard input, and makes one random
// operation after the other until it kills itself: at the count-th step of that name, or
// at the count-th of all steps if the name is empty. If the count is zero, the test kills
// it. It stores its state in the file, and serves localhost in the way.
func childWork(tag, seed, step, count, file, way string) error {
	loopback, err := engine.ParseLoopback(way)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	left, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	notices := gob.NewEncoder(os.Stdout) // which is not buffered
	trace := func(s string) {
		if err := notices.Encode(notice{Step: s}); err != nil {
			panic(err)
		}
		if step != "" && step != s {
			return
		}
		if left--; left == 0 {
			killSelf()
		}
	}
	// A process that the test is just starting may still have a copy of the lock that an
	// engine of the test has closed: it closes the copy when it executes its program.
	e, err := engine.Open(context.Background(), engine.Options{
		NetNS: os.Getenv(envChildNetNS), NoOwner: true, Store: state.NewFile(file), Trace: trace, LockWait: 10 * time.Second, Loopback: loopback,
	})
	if err != nil {
		return err
	}
	s, err := e.State(context.Background())
	if err != nil {
		return err
	}
	if err := notices.Encode(notice{Ready: &s}); err != nil {
		return err
	}
	if _, err := bufio.NewReader(os.Stdin).ReadByte(); err != nil {
		return err
	}
	source := chooser{rand.New(rand.NewPCG(n, 0))}
	operations := operationsPerWorker
	if isOfRanges(step) {
		operations *= 5 // the rest replace ranges
	}
	for i := range operations {
		if s, err = e.State(context.Background()); err != nil {
			return err
		}
		choose := source.operation
		if i >= operationsPerWorker {
			choose = source.ofRange
		}
		d := choose(s, fmt.Sprintf("%s.%d", tag, i))
		if err := notices.Encode(notice{Begin: &d}); err != nil {
			return err
		}
		r := d.do(engineCaller(e))
		if err := notices.Encode(notice{End: &r}); err != nil {
			return err
		}
	}
	killSelf()
	return errors.New("killed, and still running")
}
