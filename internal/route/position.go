package route

import (
	"fmt"
	"strconv"
	"strings"
)

// Position names one table. Within an epoch, revisions only count up, and each is one table;
// a revision of two epochs may be two tables, so that neither's changes apply to the other.
// Who makes tables draws an epoch at random when it begins, and another one whenever revisions
// may come a second time.
//
// A Position without an epoch names no table for certain: none that changes lead on from.
type Position struct {
	Epoch    string
	Revision uint64
}

// String is the epoch, a dot and the revision; the revision alone where there is no epoch.
func (p Position) String() string {
	if p.Epoch == "" {
		return strconv.FormatUint(p.Revision, 10)
	}
	return p.Epoch + "." + strconv.FormatUint(p.Revision, 10)
}

// ParsePosition reads what [Position.String] writes.
func ParsePosition(text string) (Position, error) {
	epoch, number := "", text
	if i := strings.LastIndexByte(text, '.'); i >= 0 {
		epoch, number = text[:i], text[i+1:]
	}
	revision, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return Position{}, fmt.Errorf("%s is not the position of a table", quoteShort(text))
	}
	return Position{Epoch: epoch, Revision: revision}, nil
}

// Position is the position of the Spec or the Change the table was made from.
func (t *Table) Position() Position {
	return Position{Epoch: t.spec.Epoch, Revision: t.spec.Revision}
}
