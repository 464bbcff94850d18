// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"encoding/gob"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// notice is a line that a worker writes for whoever will kill it. It is written before
// or after what it tells of, never meanwhile: what is in the pipe outlives the writer.
type notice struct {
	Ready *nat.State // adopted, and this is what there is
	Step  string     // is about to be taken
	Begin *deed      // is begun
	End   *yield     // what was begun is acknowledged
}

// deedsOfWorker is after how many deeds a worker kills itself between two of them.
const deedsOfWorker = 6

// childWork adopts the table, waits to be told to go on, and does one random deed after
// the other until it is killed: at the count-th step that is called so, or at the
// count-th of all if none is named. With a count of zero somebody else does it. Its state
// it keeps in the file.
func childWork(tag, seed, step, count, file string) error {
	n, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	left, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	tell := gob.NewEncoder(os.Stdout) // which is not buffered
	trace := func(s string) {
		if err := tell.Encode(notice{Step: s}); err != nil {
			panic(err)
		}
		if step != "" && step != s {
			return
		}
		if left--; left == 0 {
			killSelf()
		}
	}
	e, err := engine.Open(engine.Options{NetNS: os.Getenv(envChildNetNS), NoOwner: true, Store: state.NewFile(file), Trace: trace})
	if err != nil {
		return err
	}
	s, err := e.State()
	if err != nil {
		return err
	}
	if err := tell.Encode(notice{Ready: &s}); err != nil {
		return err
	}
	if _, err := bufio.NewReader(os.Stdin).ReadByte(); err != nil {
		return err
	}
	source := choosing{rand.New(rand.NewPCG(n, 0))}
	for i := range deedsOfWorker {
		if s, err = e.State(); err != nil {
			return err
		}
		d := source.deed(s, fmt.Sprintf("%s.%d", tag, i))
		if err := tell.Encode(notice{Begin: &d}); err != nil {
			return err
		}
		y := d.do(engineDoer{e})
		if err := tell.Encode(notice{End: &y}); err != nil {
			return err
		}
	}
	killSelf()
	return errors.New("a process outlived itself")
}
