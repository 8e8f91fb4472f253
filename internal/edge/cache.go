package edge

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/layover-dev/layover/internal/route"
)

// cacheFile is the file that keeps a table for the next start, as the one who writes it knows it.
// It begins with the whole of a table, and goes on with the changes that were made since; when
// those have become many, it is written whole again.
type cacheFile struct {
	path  string
	at    route.Position // of the table that the file has
	whole int64          // bytes of the whole table at its beginning
	size  int64          // bytes of all
	is    os.FileInfo    // which file it is; nil where nothing can be added
	loose bool           // what was added last may not outlive a loss of power
}

// What may be added before the file is written whole again.
const (
	addedBytes = 256 << 10 // at least, in bytes
	addedShare = 4         // or one part in so many of the whole table, where that is more
)

// errWriteWhole says that changes cannot be added to the file.
var errWriteWhole = errors.New("the file has to be written whole")

// read returns the table in the file. Lost is why the last changes in it cannot be used, nil
// where they can: the table is what it was before them. A file whose whole table is cut short,
// damaged, or of a later release (errCacheFormat) is an error; where there is none, the error is
// [os.ErrNotExist].
func (c *cacheFile) read() (table *route.Table, lost, err error) {
	c.is = nil
	f, err := os.Open(c.path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	blocks := newBlockReader(f)
	if table, err = blocks.table(); err != nil {
		return nil, nil, fmt.Errorf("read the table in %s: %w", c.path, err)
	}
	c.whole = blocks.bytes
	for {
		next, err := blocks.changes(table)
		switch {
		case errors.Is(err, io.EOF):
			c.at = table.Position()
			c.size = blocks.bytes
			if info, err := f.Stat(); err == nil {
				c.is = info
			}
			return table, nil, nil
		case err != nil:
			return table, fmt.Errorf("read the changes in %s behind revision %d: %w", c.path, table.Revision(), err), nil
		}
		table = next
	}
}

// write makes the file hold table so that, whatever happens, it holds either all of it or what it
// held before. It takes its rests at p.
func (c *cacheFile) write(table *route.Table, p *pace) (err error) {
	c.is = nil
	f, err := os.CreateTemp(filepath.Dir(c.path), "."+filepath.Base(c.path)+"-*")
	if err != nil {
		return fmt.Errorf("write the table to %s: %w", c.path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it may have been renamed already
			err = fmt.Errorf("write the table to %s: %w", c.path, err)
		}
	}()
	size, err := writeTable(f, table, p)
	if err = errors.Join(err, f.Sync()); err != nil {
		return errors.Join(err, f.Close())
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), c.path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(c.path)); err != nil {
		return err
	}
	c.at, c.whole, c.size, c.is, c.loose = table.Position(), size, size, info, false
	return nil
}

// add makes the file hold the table that changes lead to, so that, whatever happens, it holds
// either that or one that it held before. It does not wait for the disk: the only processor of a small
// machine would wait with it, again and again. It is [errWriteWhole] where the changes do not lead on from
// what the file has, somebody else has written to it, or it would have too much of them.
func (c *cacheFile) add(changes []route.Change, p *pace) error {
	if c.is == nil || len(changes) == 0 || c.at != (route.Position{Epoch: changes[0].Epoch, Revision: changes[0].Base}) {
		return errWriteWhole
	}
	most := max(addedBytes, c.whole/addedShare) - (c.size - c.whole)
	block, err := changesBlock(changes, most, p)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return errWriteWhole // which says why it cannot be written, if it cannot
	}
	info, err := f.Stat()
	if err != nil || !os.SameFile(info, c.is) || info.Size() != c.size {
		_ = f.Close()
		return errWriteWhole
	}
	_, err = f.Write(block) // a part of it makes the file one that cannot be added to
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("add changes to the table in %s: %w", c.path, err)
	}
	last := changes[len(changes)-1]
	c.at, c.loose = route.Position{Epoch: last.Epoch, Revision: last.Revision}, true
	c.size += int64(len(block))
	return nil
}

// sync waits until what was added outlives a loss of power.
func (c *cacheFile) sync() error {
	if !c.loose {
		return nil
	}
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		return fmt.Errorf("sync the table in %s: %w", c.path, err)
	}
	c.loose = false
	return nil
}

// setAside renames a file that cannot be used, for a person to look at, and returns its
// new name.
func (c *cacheFile) setAside() (string, error) {
	aside := c.path + ".bad"
	if err := os.Rename(c.path, aside); err != nil {
		return "", fmt.Errorf("set %s aside: %w", c.path, err)
	}
	return aside, nil
}

// syncDir makes a rename in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
