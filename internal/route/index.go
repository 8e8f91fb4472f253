package route

import (
	"hash/maphash"
	"math/bits"
)

// index finds a version by its name. It is a hash table with open addressing
// whose slots hold the beginning of the name themselves: a look-up reads one
// cache line, where a Go map reads three (control word, slot and the bytes of the
// key). That is what keeps the cost flat when the table is far larger than the
// caches. A name that is too long for its slot is compared with the entry's own.
type index struct {
	slots []slot
	used  int
}

// slot is half a cache line.
type slot struct {
	entry *VersionEntry // nil: empty
	size  uint8         // bytes of the name
	head  [slotHead]byte
}

const slotHead = 23

// newIndex makes an index with room for n names; it grows when there are more.
// At most three of four slots are in use, so that a search always ends.
func newIndex(n int) index {
	return index{slots: make([]slot, n*4/3+1)}
}

// add adds v under its name, unless something is there already, which it returns.
func (x *index) add(seed maphash.Seed, v *VersionEntry) *VersionEntry {
	if (x.used+1)*4 > len(x.slots)*3 {
		old := x.slots
		*x = newIndex(2*x.used + 2)
		for i := range old {
			if old[i].entry != nil {
				x.add(seed, old[i].entry)
			}
		}
	}
	for at := x.home(maphash.String(seed, v.Name)); ; at = x.after(at) {
		s := &x.slots[at]
		if s.entry == nil {
			s.entry, s.size = v, uint8(len(v.Name)) //nolint:gosec // names have at most 63 bytes
			copy(s.head[:], v.Name)
			x.used++
			return nil
		}
		if int(s.size) == len(v.Name) && s.entry.Name == v.Name {
			return s.entry
		}
	}
}

// find returns the version with the name, nil where there is none.
func (x *index) find(seed maphash.Seed, name []byte) *VersionEntry {
	if x.used == 0 || len(name) == 0 || len(name) > maxName {
		return nil
	}
	for at := x.home(maphash.Bytes(seed, name)); ; at = x.after(at) {
		s := &x.slots[at]
		if s.entry == nil {
			return nil
		}
		if int(s.size) != len(name) {
			continue
		}
		if len(name) <= slotHead {
			if string(s.head[:len(name)]) == string(name) {
				return s.entry
			}
		} else if string(s.head[:]) == string(name[:slotHead]) && s.entry.Name == string(name) {
			return s.entry
		}
	}
}

// home is the slot where the search for a hash begins: the hash scaled to the
// number of slots, which need not be a power of two.
func (x *index) home(hash uint64) uint64 {
	at, _ := bits.Mul64(hash, uint64(len(x.slots)))
	return at
}

// after is the slot behind one, around the end.
func (x *index) after(at uint64) uint64 {
	if at++; at == uint64(len(x.slots)) {
		return 0
	}
	return at
}
