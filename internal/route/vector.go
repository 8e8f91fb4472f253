package route

import (
	"iter"
	"slices"
)

// vector is a list that never changes: what changes it makes another one, which
// shares all but a few small pages with it. The first items are in the vector
// itself, as most lists have no others; the rest are found in three steps.
type vector[T any] struct {
	size  int // items in all
	first [inVector]T
	rest  [][][]T // pages of the others, pageSize of them together
}

const (
	inVector = 8
	pageBits = 5
	pageSize = 1 << pageBits
	pageMask = pageSize - 1
)

// newVector makes a vector of items, which it does not keep.
func newVector[T any](items []T) vector[T] {
	l := vector[T]{size: len(items)}
	var pages [][]T
	for page := range slices.Chunk(items[copy(l.first[:], items):], pageSize) {
		pages = append(pages, exactly(page))
	}
	for some := range slices.Chunk(pages, pageSize) {
		l.rest = append(l.rest, exactly(some))
	}
	return l
}

// at returns the item with the number i, which must be below the size.
func (l *vector[T]) at(i int) T {
	if i < inVector {
		return l.first[i]
	}
	return l.far(i - inVector)
}

func (l *vector[T]) far(i int) T { return l.rest[i>>(2*pageBits)][i>>pageBits&pageMask][i&pageMask] }

// all goes over the items in order.
func (l *vector[T]) all() iter.Seq2[int, T] {
	return func(yield func(int, T) bool) {
		for i := range l.size {
			if !yield(i, l.at(i)) {
				return
			}
		}
	}
}

// with returns l with v as the item number i; the one behind the last is new.
func (l vector[T]) with(i int, v T) vector[T] {
	l.size = max(l.size, i+1)
	if i < inVector {
		l.first[i] = v
		return l
	}
	i -= inVector
	some := itemAt(l.rest, i>>(2*pageBits))
	page := itemAt(some, i>>pageBits&pageMask)
	page = put(page, i&pageMask, v)
	some = put(some, i>>pageBits&pageMask, page)
	l.rest = put(l.rest, i>>(2*pageBits), some)
	return l
}

// withoutLast returns l, which must not be empty, without its last item.
func (l vector[T]) withoutLast() vector[T] {
	l.size--
	if l.size < inVector {
		var none T
		l.first[l.size] = none
		return l
	}
	i := l.size - inVector
	some := l.rest[i>>(2*pageBits)]
	page := exactly(some[i>>pageBits&pageMask][:i&pageMask])
	if len(page) > 0 {
		some = put(some, i>>pageBits&pageMask, page)
	} else {
		some = exactly(some[:len(some)-1])
	}
	if len(some) > 0 {
		l.rest = put(l.rest, i>>(2*pageBits), some)
	} else {
		l.rest = exactly(l.rest[:len(l.rest)-1])
	}
	return l
}

// itemAt is the item number i of list, or nothing where it has none.
func itemAt[T any](list []T, i int) (item T) {
	if i < len(list) {
		item = list[i]
	}
	return item
}

// put is a copy of list with v at i, which is behind the last item at most.
func put[T any](list []T, i int, v T) []T {
	c := make([]T, max(len(list), i+1))
	copy(c, list)
	c[i] = v
	return c
}

// exactly is a copy of list that holds on to nothing else.
func exactly[T any](list []T) []T {
	c := make([]T, len(list))
	copy(c, list)
	return c
}
