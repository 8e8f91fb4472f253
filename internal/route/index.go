package route

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"slices"
)

// index finds a value by its name. It is a hash table that never changes: a change
// makes another one, and copies only what it touches.
//
// The names are spread over shards by the low bits of their hash. A shard is a
// table with open addressing whose slots hold the beginning of the name
// themselves: a look-up reads one cache line of it, where a Go map reads three
// (control word, slot and the bytes of the key). That is what keeps the cost flat
// when the index is far larger than the caches. A name that is too long for its
// slot is compared with the value's own.
//
// Shards are added and removed one at a time (linear hashing), each time by dividing
// one shard into two or joining two into one, so that no change has to move more.
type index[V keyed] struct {
	seed   maphash.Seed
	shards vector[[]slot[V]] // none where nothing was ever in it
	used   int               // names in all
}

// keyed is what an index holds. The zero value is never asked for its key.
type keyed interface {
	key() string // 1 to maxKey bytes, always the same
}

// slot is half a cache line where the value is a pointer.
type slot[V keyed] struct {
	value V
	size  uint8 // bytes of the name; 0: empty
	tag   uint8 // some bits of the hash, to tell most other names by
	head  [slotHead]byte
}

const (
	slotHead  = 22
	maxKey    = 255 // what fits in the size of a slot
	shardFill = 128 // names in a shard on the average; those still to be divided have up to twice as many
)

// newIndex makes an index of values. Where two have one name, merge says which
// value it gets.
func newIndex[V keyed](seed maphash.Seed, values []V, merge func(old, v V) V) index[V] {
	x := index[V]{seed: seed}
	if len(values) == 0 {
		return x
	}
	count := (len(values) + shardFill - 1) / shardFill
	hashes := make([]uint64, len(values))
	ends := make([]int32, count) // where the values of each shard end, in the order of shards
	for i, v := range values {
		hashes[i] = maphash.String(seed, v.key())
		ends[shardOf(hashes[i], count)]++
	}
	for i := range count - 1 {
		ends[i+1] += ends[i]
	}
	order := make([]int32, len(values))
	for i, hash := range slices.Backward(hashes) {
		shard := shardOf(hash, count)
		ends[shard]--
		order[ends[shard]] = int32(i) //nolint:gosec // a table has fewer than 2^31 names
	}
	shards := make([][]slot[V], count)
	for i := range shards {
		own := order[ends[i]:]
		if i+1 < count {
			own = order[ends[i]:ends[i+1]]
		}
		shards[i] = newShard[V](len(own))
		for _, at := range own {
			s := slotOf(hashes[at], values[at])
			if old := insert(shards[i], hashes[at], &s); old != nil {
				old.value = merge(old.value, values[at])
				continue
			}
			x.used++
		}
	}
	x.shards = newVector(shards)
	return x
}

// find returns the value with the name, the zero value where there is none.
func (x *index[V]) find(name []byte) (value V) {
	if x.shards.size == 0 || len(name) == 0 || len(name) > maxKey {
		return value
	}
	hash := maphash.Bytes(x.seed, name)
	if s := search(x.shards.at(shardOf(hash, x.shards.size)), hash, name); s != nil {
		return s.value
	}
	return value
}

// all goes over the values, in no order that means anything.
func (x *index[V]) all() iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, shard := range x.shards.all() {
			for i := range shard {
				if shard[i].size > 0 && !yield(shard[i].value) {
					return
				}
			}
		}
	}
}

// with returns x with v in it, in place of a value of the same name.
func (x index[V]) with(v V) index[V] {
	if x.shards.size == 0 {
		x.shards = x.shards.with(0, nil)
	}
	name := v.key()
	hash := maphash.String(x.seed, name)
	at := shardOf(hash, x.shards.size)
	old := x.shards.at(at)
	if search(old, hash, []byte(name)) != nil {
		shard := slices.Clone(old)
		search(shard, hash, []byte(name)).value = v
		x.shards = x.shards.with(at, shard)
		return x
	}
	var buf [2 * shardFill]*slot[V]
	added := slotOf(hash, v)
	x.shards = x.shards.with(at, x.shard(append(members(buf[:0], old), &added)))
	x.used++
	if x.used > shardFill*x.shards.size {
		x.divide()
	}
	return x
}

// without returns x without the value of that name.
func (x index[V]) without(name string) index[V] {
	if x.used == 0 {
		return x
	}
	hash := maphash.String(x.seed, name)
	at := shardOf(hash, x.shards.size)
	old := x.shards.at(at)
	gone := search(old, hash, []byte(name))
	if gone == nil {
		return x
	}
	var buf [2 * shardFill]*slot[V]
	stay := slices.DeleteFunc(members(buf[:0], old), func(s *slot[V]) bool { return s == gone })
	x.shards = x.shards.with(at, x.shard(stay))
	x.used--
	if x.shards.size > 1 && x.used < shardFill/2*x.shards.size {
		x.join()
	}
	return x
}

// divide adds a shard, and moves to it what belongs there of the only shard that
// has any of it.
func (x *index[V]) divide() {
	last := x.shards.size
	from := parentOf(last)
	var stay, move []*slot[V]
	for _, s := range members(nil, x.shards.at(from)) {
		if shardOf(s.hash(x.seed), last+1) == last {
			move = append(move, s)
		} else {
			stay = append(stay, s)
		}
	}
	x.shards = x.shards.with(from, x.shard(stay)).with(last, x.shard(move))
}

// join removes the last shard, and gives what it has back to the one that it was
// divided from.
func (x *index[V]) join() {
	last := x.shards.size - 1
	to := parentOf(last)
	slots := members(members(nil, x.shards.at(to)), x.shards.at(last))
	x.shards = x.shards.withoutLast().with(to, x.shard(slots))
}

// shard makes a shard of slots.
func (x *index[V]) shard(slots []*slot[V]) []slot[V] {
	shard := newShard[V](len(slots))
	for _, s := range slots {
		insert(shard, s.hash(x.seed), s)
	}
	return shard
}

// shardOf is the shard of a hash among count: as many low bits of the hash as it
// takes to number the shards, and one less where that shard is still to come.
func shardOf(hash uint64, count int) int {
	mask := 1<<bits.Len(uint(count-1)) - 1
	at := int(hash) & mask //nolint:gosec // masked
	if at >= count {
		at &= mask >> 1
	}
	return at
}

// parentOf is the shard that the shard number i, which is above 0, is divided from.
func parentOf(i int) int { return i &^ (1 << (bits.Len(uint(i)) - 1)) }

// newShard makes a shard for n names. At most two of three slots are in use, so that
// a search always ends, and soon.
func newShard[V keyed](n int) []slot[V] {
	shard := slices.Grow([]slot[V](nil), n*3/2+1)
	return shard[:cap(shard)]
}

func slotOf[V keyed](hash uint64, v V) slot[V] {
	name := v.key()
	s := slot[V]{value: v, size: uint8(len(name)), tag: tagOf(hash)} //nolint:gosec // at most maxKey
	copy(s.head[:], name)
	return s
}

// hash is the hash of the name in a slot that is in use.
func (s *slot[V]) hash(seed maphash.Seed) uint64 {
	if s.size <= slotHead {
		return maphash.Bytes(seed, s.head[:s.size])
	}
	return maphash.String(seed, s.value.key())
}

// insert puts s into a shard that has room for it, unless the shard has a value of
// that name, whose slot it returns.
func insert[V keyed](shard []slot[V], hash uint64, s *slot[V]) *slot[V] {
	for at := home(hash, len(shard)); ; at = after(at, len(shard)) {
		other := &shard[at]
		if other.size == 0 {
			*other = *s
			return nil
		}
		if other.size == s.size && other.tag == s.tag && other.head == s.head &&
			(s.size <= slotHead || other.value.key() == s.value.key()) {
			return other
		}
	}
}

// search returns the slot of a shard that has the name, nil where none does.
func search[V keyed](shard []slot[V], hash uint64, name []byte) *slot[V] {
	if len(shard) == 0 {
		return nil
	}
	size, tag := uint8(len(name)), tagOf(hash) //nolint:gosec // at most maxKey
	for at := home(hash, len(shard)); ; at = after(at, len(shard)) {
		s := &shard[at]
		if s.size == 0 {
			return nil
		}
		if s.size != size || s.tag != tag {
			continue
		}
		if size <= slotHead {
			if string(s.head[:size]) == string(name) {
				return s
			}
		} else if string(s.head[:]) == string(name[:slotHead]) && s.value.key() == string(name) {
			return s
		}
	}
}

// members appends to list the slots of a shard that are in use.
func members[V keyed](list []*slot[V], shard []slot[V]) []*slot[V] {
	for i := range shard {
		if shard[i].size > 0 {
			list = append(list, &shard[i])
		}
	}
	return list
}

// home is the slot where the search for a hash begins: the hash scaled to the
// number of slots, which need not be a power of two.
func home(hash uint64, slots int) int {
	at, _ := bits.Mul64(hash, uint64(slots)) //nolint:gosec // slots is above 0
	return int(at)                           //nolint:gosec // below slots
}

// after is the slot behind one, around the end.
func after(at, slots int) int {
	if at++; at == slots {
		return 0
	}
	return at
}

// tagOf takes bits of the hash that choose neither shard nor slot.
func tagOf(hash uint64) uint8 { return uint8(hash >> 32) } //nolint:gosec // eight of the bits
