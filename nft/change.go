// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Change is a change of elements, made in one transaction. It deletes before it adds, so
// that deleting and adding one key replaces its value at once.
type Change struct {
	// Delete are elements that must be there. Only Set and Key count, but for Inverse.
	Delete []Element
	// Add are elements whose keys must not be there, unless Delete has them.
	Add []Element
	// Further are more of them.
	Further Elements
	// Generation refuses the change with ErrStale unless the namespace's rulesets
	// are still at this generation, which Elements returns. Zero: at any.
	Generation uint32
}

// Elements are elements that are made one by one when they are needed, where so many in a slice
// would take more memory than all else.
type Elements struct {
	// Len is how many there are.
	Len int
	// All yields them, those of one map or set one after the other. It may be called several
	// times, and yields the same ones each time. Nil: there are none.
	All iter.Seq[Element]
}

// added yields the elements that the change adds.
func (ch *Change) added(yield func(Element) bool) {
	for i := range ch.Add {
		if !yield(ch.Add[i]) {
			return
		}
	}
	if ch.Further.All != nil {
		ch.Further.All(yield)
	}
}

// Empty reports whether the change changes nothing.
func (ch *Change) Empty() bool { return len(ch.Delete)+len(ch.Add)+ch.Further.Len == 0 }

// Inverse returns the change that undoes ch at any generation. The elements that ch deletes
// must be complete, as Conn.Elements returned them: those with a time-out get back what was left
// of it then.
func (ch Change) Inverse() Change {
	return Change{Delete: slices.AppendSeq(make([]Element, 0, len(ch.Add)+ch.Further.Len), ch.added), Add: ch.Delete}
}

// String returns the change as lines of nft(8) without family and table, in the order in
// which it is made: "delete element tcp4 { 80 }".
func (ch Change) String() string {
	var b strings.Builder
	for i := range ch.Delete {
		fmt.Fprintf(&b, "delete element %s\n", Element{Set: ch.Delete[i].Set, Key: ch.Delete[i].Key})
	}
	for e := range ch.added {
		fmt.Fprintf(&b, "add element %s\n", e)
	}
	return b.String()
}

// Validate returns what Conn.Update refuses before it asks the kernel: elements whose map or
// set is not in t or cannot hold their key, value, comment or time-out. The error names the
// first.
func (ch Change) Validate(t Table) error {
	if err := ch.validateListed(t); err != nil || ch.Further.All == nil {
		return err
	}
	return t.validateFurther(ch.Further)
}

func (t Table) validateFurther(es Elements) (err error) {
	v := validator{table: t}
	var one Element // for all: each would be allocated
	for one = range es.All {
		if err = v.check("add element", &one, false); err != nil {
			break
		}
	}
	return err
}

// validateListed is Validate of what is in slices.
func (ch *Change) validateListed(t Table) error {
	if err := t.validateElements("delete element", ch.Delete, true); err != nil {
		return err
	}
	return t.validateElements("add element", ch.Add, false)
}

// validateElements checks elements, or of those to be deleted the keys alone.
func (t Table) validateElements(verb string, es []Element, keys bool) error {
	v := validator{table: t}
	for i := range es {
		if err := v.check(verb, &es[i], keys); err != nil {
			return err
		}
	}
	return nil
}

// validator checks elements one after the other.
type validator struct {
	table Table
	set   Set // of the last element
}

// check checks an element, or its key alone.
func (v *validator) check(verb string, e *Element, key bool) (err error) {
	if v.set.Name != e.Set || e.Set == "" {
		var ok bool
		if v.set, ok = v.table.Set(e.Set); !ok {
			return fmt.Errorf("%s %s: table %s has no such map or set", verb, e, v.table.Name)
		}
	}
	if key {
		err = v.set.checkKey(&e.Key)
	} else {
		err = v.set.check(e)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, e, err)
	}
	return nil
}
