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
	"os"
	"path/filepath"

	"github.com/layover-dev/layover/internal/route"
)

// A file of a table is one line of text that says what follows, then one line of JSON
// for each thing of the environment: neither who writes it nor who reads it holds
// more than one line of it in memory, whatever the size of the table.
//
//	layover-table 1 revision=… bytes=… sha256=…
//	{"environment":{…}}
//	{"service":{…}}
//	{"version":{…}}      of the service before it
//	{"route":{…}}
const (
	cacheFormat = 1
	cacheHeader = "layover-table %d revision=%020d bytes=%020d sha256=%s\n"
	headerBytes = len("layover-table 1 revision= bytes= sha256=\n") + 20 + 20 + 2*sha256.Size

	maxCacheBytes = 1 << 30  // a table of a million versions has some 200 MB
	maxCacheLine  = 16 << 20 // one version with its instances has some hundred bytes
)

// ErrCacheFormat says that a file is in a format of a later release.
var ErrCacheFormat = errors.New("the file is in a format that this release does not know")

// cacheLine is one line behind the header: exactly one field is set.
type cacheLine struct {
	Environment *route.Spec       `json:"environment,omitempty"` // without services and routes
	Service     *route.Service    `json:"service,omitempty"`     // without versions
	Version     *route.Version    `json:"version,omitempty"`
	Route       *route.NamedRoute `json:"route,omitempty"`
}

// WriteCache writes spec to a file so that, whatever happens, the file holds either all of
// it or what it held before.
func WriteCache(path string, spec *route.Spec) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write the table to %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // it may have been renamed already
			err = fmt.Errorf("write the table to %s: %w", path, err)
		}
	}()
	err = writeCache(f, spec)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeCache(f io.WriteSeeker, spec *route.Spec) error {
	if _, err := f.Write(bytes.Repeat([]byte(" "), headerBytes)); err != nil {
		return err
	}
	sum, count := sha256.New(), &counter{}
	buffered := bufio.NewWriterSize(io.MultiWriter(f, sum, count), 256<<10)
	if err := writeLines(buffered, spec); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := fmt.Fprintf(f, cacheHeader, cacheFormat, spec.Revision, count.bytes, hex.EncodeToString(sum.Sum(nil)))
	return err
}

func writeLines(w io.Writer, spec *route.Spec) error {
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	head := *spec
	head.Services, head.Routes = nil, nil
	if err := lines.Encode(cacheLine{Environment: &head}); err != nil {
		return err
	}
	for i := range spec.Services {
		service := spec.Services[i]
		service.Versions = nil
		if err := lines.Encode(cacheLine{Service: &service}); err != nil {
			return err
		}
		for j := range spec.Services[i].Versions {
			if err := lines.Encode(cacheLine{Version: &spec.Services[i].Versions[j]}); err != nil {
				return err
			}
		}
	}
	for i := range spec.Routes {
		if err := lines.Encode(cacheLine{Route: &spec.Routes[i]}); err != nil {
			return err
		}
	}
	return nil
}

// ReadCache reads what [WriteCache] wrote. A file that is cut short, damaged, or of a
// later release ([ErrCacheFormat]) is an error; where there is none, the error is
// [os.ErrNotExist].
func ReadCache(path string) (*route.Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	spec, err := readCache(f)
	if err != nil {
		return nil, fmt.Errorf("read the table in %s: %w", path, err)
	}
	return spec, nil
}

func readCache(r io.Reader) (*route.Spec, error) {
	in := bufio.NewReaderSize(r, 256<<10)
	header, err := readHeader(in)
	if err != nil {
		return nil, err
	}
	sum, count := sha256.New(), &counter{}
	body := io.TeeReader(io.LimitReader(in, header.bytes+1), io.MultiWriter(sum, count))
	spec, err := readLines(body)
	if _, err := io.Copy(io.Discard, body); err != nil { // what is left behind a line that is damaged
		return nil, err
	}
	switch {
	case count.bytes < header.bytes:
		return nil, fmt.Errorf("it is cut short: %d bytes of %d are there", count.bytes, header.bytes)
	case count.bytes > header.bytes:
		return nil, fmt.Errorf("it is longer than the %d bytes that its header says", header.bytes)
	case err != nil:
		return nil, fmt.Errorf("it is damaged: %w", err)
	case hex.EncodeToString(sum.Sum(nil)) != header.sum:
		return nil, errors.New("it is damaged: its checksum is wrong")
	case spec.Revision != header.revision:
		return nil, fmt.Errorf("it is damaged: its header says revision %d, and what follows %d", header.revision, spec.Revision)
	}
	return spec, nil
}

type header struct {
	revision uint64
	bytes    int64
	sum      string
}

func readHeader(in *bufio.Reader) (header, error) {
	var h header
	line, err := in.Peek(len("layover-table 1 "))
	if err != nil {
		return h, errors.New("it is cut short: it has no header")
	}
	var format int
	if _, err := fmt.Sscanf(string(line), "layover-table %d", &format); err != nil {
		return h, errors.New("it is not the file of a table: the first line does not say layover-table")
	}
	if format != cacheFormat {
		return h, fmt.Errorf("%w: %d instead of %d", ErrCacheFormat, format, cacheFormat)
	}
	text := make([]byte, headerBytes)
	if _, err := io.ReadFull(in, text); err != nil {
		return h, errors.New("it is cut short: its header is not complete")
	}
	var digits string
	if _, err := fmt.Sscanf(string(text), "layover-table 1 revision=%d bytes=%d sha256=%s\n", &h.revision, &h.bytes, &digits); err != nil {
		return h, errors.New("it is damaged: its header cannot be read")
	}
	if h.sum = digits; fmt.Sprintf(cacheHeader, cacheFormat, h.revision, h.bytes, h.sum) != string(text) {
		return h, errors.New("it is damaged: its header cannot be read")
	}
	if h.bytes < 0 || h.bytes > maxCacheBytes {
		return h, fmt.Errorf("its header says %d bytes, and the limit is %d", h.bytes, maxCacheBytes)
	}
	return h, nil
}

// readLines reads to the end of r.
func readLines(r io.Reader) (*route.Spec, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxCacheLine)
	var spec *route.Spec
	var bad error
	for lines.Scan() && bad == nil {
		var line cacheLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, err
		}
		switch {
		case line.Environment != nil && spec == nil:
			spec = line.Environment
			spec.Services, spec.Routes = nil, nil
		case spec == nil:
			bad = errors.New("its first line has no environment")
		case line.Service != nil:
			line.Service.Versions = nil
			spec.Services = append(spec.Services, *line.Service)
		case line.Version != nil && len(spec.Services) > 0:
			service := &spec.Services[len(spec.Services)-1]
			service.Versions = append(service.Versions, *line.Version)
		case line.Route != nil:
			spec.Routes = append(spec.Routes, *line.Route)
		default:
			bad = fmt.Errorf("a line is none of a table: %.80q", lines.Bytes())
		}
	}
	if err := errors.Join(bad, lines.Err()); err != nil {
		return nil, err
	}
	if spec == nil {
		return nil, errors.New("it has no environment")
	}
	return spec, nil
}

// SetAside renames a file that cannot be used, for a person to look at, and returns its
// new name.
func SetAside(path string) (string, error) {
	aside := path + ".bad"
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("set %s aside: %w", path, err)
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

type counter struct{ bytes int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return len(p), nil
}
