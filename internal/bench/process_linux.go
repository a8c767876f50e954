package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is another process whose use of the machine is read from /proc.
type process struct{ dir string }

// openProcess finds the process.
func openProcess(pid int) (*process, error) {
	p := &process{dir: fmt.Sprintf("/proc/%d", pid)}
	_, err := p.cpu()
	return p, err
}

// tick is the unit of /proc/<pid>/stat: USER_HZ is 100 on Linux.
const tick = 10 * time.Millisecond

// cpu is what the process has used, user and system.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(p.dir + "/stat")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // the name may hold anything
	if len(f) < 13 {
		return 0, errors.New("/proc/<pid>/stat is not understood")
	}
	var sum time.Duration
	for _, v := range f[11:13] { // fields 14 and 15: utime, stime
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// memory is what the process occupies.
func (p *process) memory() (*Memory, error) {
	text, err := os.ReadFile(p.dir + "/status")
	if err != nil {
		return nil, err
	}
	m := &Memory{}
	if m.Resident = kilobytes(text, "VmRSS:"); m.Resident == 0 {
		return nil, errors.New("/proc/<pid>/status is not understood")
	}
	if text, err = os.ReadFile(p.dir + "/smaps_rollup"); err == nil { // not permitted everywhere
		m.Proportional = kilobytes(text, "Pss:")
	}
	return m, nil
}

// kilobytes is the value of a line such as "VmRSS: 1234 kB", in bytes.
func kilobytes(text []byte, name string) int64 {
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		if f := strings.Fields(rest); len(f) > 0 {
			n, _ := strconv.ParseInt(f[0], 10, 64) // 0 if it is none
			return n << 10
		}
	}
	return 0
}

// listenerOf is the process that listens on the port of an address of this
// machine.
func listenerOf(address string) (int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return 0, errors.New("its address is not of loopback")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0, err
	}
	inodes := map[string]bool{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a kernel without IPv6
		}
		for line := range strings.Lines(string(text)) {
			const listening = "0A"
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == listening && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", n)) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, err
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && inodes[to] {
			return strconv.Atoi(strings.Split(fd, "/")[2])
		}
	}
	return 0, fmt.Errorf("nothing that we may look at listens on port %s", port)
}
