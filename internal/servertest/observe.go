package servertest

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"rollcall/internal/app"
)

// Metrics are the values of a server's metrics, by series as it is spelled:
// name, or name{label="value"}.
func Metrics(ctx context.Context, i app.ReadyInfo) (map[string]float64, error) {
	status, text, err := Call(ctx, i, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("metrics: %d %s", status, text)
	}
	all := make(map[string]float64)
	lines := bufio.NewScanner(strings.NewReader(string(text)))
	for lines.Scan() {
		at := strings.LastIndexByte(lines.Text(), ' ')
		if at < 0 || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		v, err := strconv.ParseFloat(lines.Text()[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %q: %w", lines.Text(), err)
		}
		all[lines.Text()[:at]] = v
	}
	return all, lines.Err()
}

// AwaitMetrics waits until ok accepts a server's metrics, and fails the test if
// that takes too long.
func AwaitMetrics(t testing.TB, i app.ReadyInfo, what string, ok func(map[string]float64) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		m, err := Metrics(ctx, i)
		if err != nil {
			t.Fatalf("waiting until %s: %v", what, err)
		}
		if ok(m) {
			return
		}
		<-tick.C
	}
}

// Usage is what a process takes of the machine.
type Usage struct {
	Resident    int64 // bytes
	Descriptors int
	Threads     int
}

// Observe returns what a process takes. It works on Linux only.
func Observe(pid int) (u Usage, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		rest = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB"))
		switch name {
		case "VmRSS":
			kb, err := strconv.ParseInt(rest, 10, 64)
			if err != nil {
				return u, err
			}
			u.Resident = kb << 10
		case "Threads":
			if u.Threads, err = strconv.Atoi(rest); err != nil {
				return u, err
			}
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	u.Descriptors = len(fds)
	return u, err
}
