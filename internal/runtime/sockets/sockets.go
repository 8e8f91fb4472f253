// Package sockets reads which TCP ports processes listen on, as Linux shows it in /proc.
package sockets

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxTable is how many bytes of a table of sockets are read.
const maxTable = 16 << 20

// Namespace returns what listens in the network namespace of a process, sorted. An error means
// that it is not known: no such process, not allowed, or not Linux.
func Namespace(pid int) ([]netip.AddrPort, error) {
	return listening(pid, func(string) bool { return true })
}

// Processes returns what these processes listen on, sorted; they share one network namespace.
func Processes(pids []int) ([]netip.AddrPort, error) {
	if len(pids) == 0 {
		return nil, errors.New("no such process")
	}
	held := map[string]bool{}
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		files, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			target, err := os.Readlink(filepath.Join(dir, file.Name()))
			if inode, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
				held[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	return listening(pids[0], func(inode string) bool { return held[inode] })
}

// listening returns the sockets that listen in the namespace of pid, and are wanted.
func listening(pid int, wanted func(inode string) bool) ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for _, name := range []string{"tcp", "tcp6"} {
		file, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "net", name))
		if name == "tcp6" && errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		found, err := parse(io.LimitReader(file, maxTable), wanted)
		_ = file.Close() // only read
		if err != nil {
			return nil, fmt.Errorf("read /proc/%d/net/%s: %w", pid, name, err)
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all), nil
}

// parse reads a table of sockets: a heading, then a line for each with the local address as
// its second word, the state as its fourth and the inode as its tenth.
func parse(table io.Reader, wanted func(inode string) bool) ([]netip.AddrPort, error) {
	const listen = "0A"
	var all []netip.AddrPort
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 10 || words[3] != listen || !wanted(words[9]) {
			continue
		}
		address, err := parseAddress(words[1])
		if err != nil {
			return nil, err
		}
		all = append(all, address)
	}
	return all, lines.Err()
}

// parseAddress reads an address such as 0100007F:1F90: words of 32 bits in the byte order of
// the machine, and the port.
func parseAddress(text string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(text, ":")
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	data, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(data); i += 4 {
		binary.NativeEndian.PutUint32(data[i:], binary.BigEndian.Uint32(data[i:]))
	}
	ip, ok := netip.AddrFromSlice(data)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", host)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), nil
}
