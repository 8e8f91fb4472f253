package edge

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/layover-dev/layover/internal/route"
)

// A file of a table is made of blocks. A block is one line of text that says what follows, then
// one line of JSON for each thing. The first has a whole table, and neither who writes it nor who
// reads it holds more than one line of it in memory, whatever its size:
//
//	layover-table 2 revision=… bytes=… sha256=…
//	{"environment":{…}}
//	{"service":{…}}
//	{"version":{…}}      of the service before it
//	{"route":{…}}
//
// Each of the others has changes, which lead on from the block before:
//
//	layover-delta 2 revision=… bytes=… sha256=…
//	{"change":{…}}
//
// A revision is that of the table at the end of the block, and a checksum that of its lines.
const (
	cacheFormat = 2
	tableBlock  = "layover-table"
	deltaBlock  = "layover-delta"
	blockHeader = "%s %d revision=%020d bytes=%020d sha256=%s\n"
	headerBytes = len("layover-table 2 revision= bytes= sha256=\n") + 20 + 20 + 2*sha256.Size

	maxTableBytes = 1 << 30  // a table of a million versions has some 200 MB
	maxDeltaBytes = 64 << 20 // of one block
	maxCacheLine  = 16 << 20 // one version with its instances has some hundred bytes
)

// errCacheFormat says that a file is in a format of another release.
var errCacheFormat = errors.New("the file is in a format that this release does not know")

// cacheLine is one line behind a header: exactly one field is set.
type cacheLine struct {
	Environment *route.Spec       `json:"environment,omitempty"` // without services and routes
	Service     *route.Service    `json:"service,omitempty"`     // without versions
	Version     *route.Version    `json:"version,omitempty"`
	Route       *route.NamedRoute `json:"route,omitempty"`
	Change      *route.Change     `json:"change,omitempty"`
}

// header is the first line of a block.
type header struct {
	kind     string
	revision uint64
	bytes    int64
	sum      string
}

func (h header) String() string {
	return fmt.Sprintf(blockHeader, h.kind, cacheFormat, h.revision, h.bytes, h.sum)
}

// writeTable writes the block of a table to f, and returns how many bytes it has.
func writeTable(f io.WriteSeeker, table *route.Table, p *pace) (int64, error) {
	if _, err := f.Write(bytes.Repeat([]byte(" "), headerBytes)); err != nil {
		return 0, err
	}
	sum, count := sha256.New(), &counter{}
	buffered := bufio.NewWriterSize(io.MultiWriter(f, sum, count), 64<<10)
	if err := writeLines(newLineWriter(buffered, p), table); err != nil {
		return 0, err
	}
	if err := buffered.Flush(); err != nil {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	h := header{tableBlock, table.Revision(), count.bytes, hex.EncodeToString(sum.Sum(nil))}
	_, err := io.WriteString(f, h.String())
	return int64(headerBytes) + count.bytes, err
}

func writeLines(out *lineWriter, table *route.Table) error {
	environment := table.Environment()
	if err := out.write(cacheLine{Environment: &environment}); err != nil {
		return err
	}
	var service route.Service // one for all, as the next two: each is written before the next comes
	var version route.Version
	for s := range table.Services() {
		service = s.Definition()
		if err := out.write(cacheLine{Service: &service}); err != nil {
			return err
		}
		for v := range s.Versions() {
			version = v.Spec()
			if err := out.write(cacheLine{Version: &version}); err != nil {
				return err
			}
		}
	}
	for i := range table.NamedRoutes() {
		if err := out.write(cacheLine{Route: &table.NamedRoutes()[i]}); err != nil {
			return err
		}
	}
	return nil
}

// changesBlock is the block of changes. It is [errWriteWhole] where it would have more than most
// bytes.
func changesBlock(changes []route.Change, most int64, p *pace) ([]byte, error) {
	var block bytes.Buffer
	block.Write(bytes.Repeat([]byte(" "), headerBytes))
	out := newLineWriter(&block, p)
	for i := range changes {
		if err := out.write(cacheLine{Change: &changes[i]}); err != nil {
			return nil, err
		}
		if int64(block.Len()) > min(most, maxDeltaBytes) {
			return nil, errWriteWhole
		}
	}
	lines := block.Bytes()[headerBytes:]
	sum := sha256.Sum256(lines)
	h := header{deltaBlock, changes[len(changes)-1].Revision, int64(len(lines)), hex.EncodeToString(sum[:])}
	copy(block.Bytes(), h.String())
	return block.Bytes(), nil
}

// lineWriter writes lines of JSON, and takes its rests at a pace.
type lineWriter struct {
	json *json.Encoder
	line cacheLine // that is written: one for all
	pace *pace
}

func newLineWriter(w io.Writer, p *pace) *lineWriter {
	out := &lineWriter{json: json.NewEncoder(w), pace: p}
	out.json.SetEscapeHTML(false)
	return out
}

func (w *lineWriter) write(line cacheLine) error {
	w.pace.step()
	w.line = line
	return w.json.Encode(&w.line)
}

// blockReader reads the blocks of a file.
type blockReader struct {
	in    *bufio.Reader
	bytes int64 // of the blocks that were read
}

func newBlockReader(r io.Reader) *blockReader {
	return &blockReader{in: bufio.NewReaderSize(r, 256<<10)}
}

// table reads the first block.
func (b *blockReader) table() (*route.Table, error) {
	var spec *route.Spec
	h, err := b.block(tableBlock, maxTableBytes, func(r io.Reader) (err error) {
		spec, err = readLines(r)
		return err
	})
	if errors.Is(err, io.EOF) {
		return nil, errors.New("it is cut short: it has no header")
	}
	if err != nil {
		return nil, err
	}
	if spec.Revision != h.revision {
		return nil, fmt.Errorf("it is damaged: its header says revision %d, and what follows %d", h.revision, spec.Revision)
	}
	return route.Compile(*spec)
}

// changes reads another block, and returns the table that it makes of the one before. Behind the
// last block the error is [io.EOF].
func (b *blockReader) changes(table *route.Table) (*route.Table, error) {
	var changes []route.Change
	h, err := b.block(deltaBlock, maxDeltaBytes, func(r io.Reader) error {
		return eachLine(r, func(line cacheLine, text []byte) error {
			if line.Change == nil {
				return fmt.Errorf("a line is no change: %.80q", text)
			}
			changes = append(changes, *line.Change)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	for _, change := range changes {
		if table, err = table.Apply(change); err != nil {
			return nil, err
		}
	}
	if table.Revision() != h.revision {
		return nil, fmt.Errorf("they are damaged: their header says revision %d, and they lead to %d", h.revision, table.Revision())
	}
	return table, nil
}

// block reads one block, whose lines it gives to read. Where there is none the error is [io.EOF].
func (b *blockReader) block(kind string, most int64, read func(io.Reader) error) (header, error) {
	h, err := b.header(kind, most)
	if err != nil {
		return h, err
	}
	sum, count := sha256.New(), &counter{}
	body := io.TeeReader(io.LimitReader(b.in, h.bytes), io.MultiWriter(sum, count))
	readErr := read(body)
	if _, err := io.Copy(io.Discard, body); err != nil { // what is left behind a line that is damaged
		return h, err
	}
	switch {
	case count.bytes < h.bytes:
		return h, fmt.Errorf("it is cut short: %d bytes of %d are there", count.bytes, h.bytes)
	case readErr != nil:
		return h, fmt.Errorf("it is damaged: %w", readErr)
	case hex.EncodeToString(sum.Sum(nil)) != h.sum:
		return h, errors.New("it is damaged: its checksum is wrong")
	}
	b.bytes += int64(headerBytes) + h.bytes
	return h, nil
}

func (b *blockReader) header(kind string, most int64) (header, error) {
	h := header{kind: kind}
	begin, err := b.in.Peek(len(tableBlock + " 2 "))
	switch {
	case len(begin) == 0 && errors.Is(err, io.EOF):
		return h, io.EOF
	case err != nil:
		return h, errors.New("it is cut short: its header is not complete")
	}
	var format int
	if _, err := fmt.Sscanf(string(begin), kind+" %d", &format); err != nil {
		return h, fmt.Errorf("it does not begin with %s", kind)
	}
	if format != cacheFormat {
		return h, fmt.Errorf("%w: %d instead of %d", errCacheFormat, format, cacheFormat)
	}
	text := make([]byte, headerBytes)
	if _, err := io.ReadFull(b.in, text); err != nil {
		return h, errors.New("it is cut short: its header is not complete")
	}
	_, err = fmt.Sscanf(string(text), kind+" 2 revision=%d bytes=%d sha256=%s\n", &h.revision, &h.bytes, &h.sum)
	if err != nil || h.String() != string(text) {
		return h, errors.New("it is damaged: its header cannot be read")
	}
	if h.bytes < 0 || h.bytes > most {
		return h, fmt.Errorf("its header says %d bytes, and the limit is %d", h.bytes, most)
	}
	return h, nil
}

// readLines reads the lines of a whole table.
func readLines(r io.Reader) (*route.Spec, error) {
	var spec *route.Spec
	err := eachLine(r, func(line cacheLine, text []byte) error {
		switch {
		case line.Environment != nil && spec == nil:
			spec = line.Environment
			spec.Services, spec.Routes = nil, nil
		case spec == nil:
			return errors.New("its first line has no environment")
		case line.Service != nil:
			line.Service.Versions = nil
			spec.Services = append(spec.Services, *line.Service)
		case line.Version != nil && len(spec.Services) > 0:
			service := &spec.Services[len(spec.Services)-1]
			service.Versions = append(service.Versions, *line.Version)
		case line.Route != nil:
			spec.Routes = append(spec.Routes, *line.Route)
		default:
			return fmt.Errorf("a line is none of a table: %.80q", text)
		}
		return nil
	})
	if err == nil && spec == nil {
		err = errors.New("it has no environment")
	}
	return spec, err
}

// eachLine reads to the end of r.
func eachLine(r io.Reader, use func(line cacheLine, text []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxCacheLine)
	for lines.Scan() {
		var line cacheLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return err
		}
		if err := use(line, lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}

type counter struct{ bytes int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return len(p), nil
}
