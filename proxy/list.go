// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

// list is a doubly linked list whose links live inside its items: adding and
// removing allocate nothing, and an item is removed without a search.
// The zero list is empty. Not safe for concurrent use.
type list[T any] struct {
	front, back *node[T]
	n           int
}

// node is the part of an item that links it.
type node[T any] struct {
	prev, next *node[T]
	item       *T
}

func (l *list[T]) pushBack(n *node[T]) {
	n.prev, n.next = l.back, nil
	if l.back != nil {
		l.back.next = n
	} else {
		l.front = n
	}
	l.back = n
	l.n++
}

func (l *list[T]) remove(n *node[T]) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.front = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.back = n.prev
	}
	n.prev, n.next = nil, nil
	l.n--
}

func (l *list[T]) moveToBack(n *node[T]) {
	if l.back != n {
		l.remove(n)
		l.pushBack(n)
	}
}
