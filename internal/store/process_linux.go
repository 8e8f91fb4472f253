package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// markOf returns what no other process has, at any time and on any machine: the machine since it was started, as this process
// sees it, the number of the process there, and when it was started. It is empty where that cannot be told.
func markOf(pid int) string {
	where, started := machine(), startOf(pid)
	if where == "" || started == "" {
		return ""
	}
	return fmt.Sprintf("%s.%d.%s", where, pid, started)
}

func markIsGone(mark string) bool {
	parts := strings.Split(mark, ".")
	if len(parts) != 3 || parts[0] == "" || parts[0] != machine() {
		return false
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil || pid <= 0 {
		return false
	}
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	started := startOf(pid) // of another process, where the number was given out again
	return started != "" && started != parts[2]
}

// machine names this machine since it was started, and the process numbers that hold in here: those of a container are its own.
func machine() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	numbers, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	host, err := os.Hostname()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256([]byte(string(boot) + "\n" + numbers + "\n" + host))
	return hex.EncodeToString(sum[:8])
}

// startOf returns when a process was started, in ticks since the machine was; empty where that cannot be told.
func startOf(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	const startField = 19 // of those behind the name, which may hold anything but is in brackets
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= startField {
		return ""
	}
	return string(fields[startField])
}
