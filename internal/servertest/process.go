package servertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rollcall/internal/app"
)

// Binary builds the product once per test process, as make build does but with
// symbols, and returns the file. Without cgo the store's memory is on Go's
// heap; with it, it is libc's, which keeps much more than is in use.
// ROLLCALL_TEST_BINARY names another one, of an earlier revision for one, to see
// what the tests say about that.
func Binary(t testing.TB) string {
	t.Helper()
	if name := os.Getenv("ROLLCALL_TEST_BINARY"); name != "" {
		return name
	}
	build.once.Do(func() {
		dir, err := os.MkdirTemp("", "rollcall-bin-")
		if err != nil {
			build.err = err
			return
		}
		build.dir = dir
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "rollcall"), "rollcall/cmd/rollcall")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return filepath.Join(build.dir, "rollcall")
}

var build struct {
	once sync.Once
	dir  string
	err  error
}

// CleanUp removes what Binary built; a TestMain calls it at the end.
func CleanUp() {
	if build.dir != "" {
		os.RemoveAll(build.dir)
	}
}

// Process is a server in a process of its own.
type Process struct {
	Info    app.ReadyInfo
	Started time.Time     // when it was started
	Ready   time.Duration // how long it took to be ready

	cmd    *exec.Cmd
	out    *bytes.Buffer
	exited chan struct{}
	err    error
}

// StartProcess runs `rollcall serve` on the data directory with further
// arguments, and waits until it is ready.
func StartProcess(t testing.TB, data string, args ...string) *Process {
	t.Helper()
	p, err := startProcess([]string{Binary(t)}, data, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// StartProcessFirst is StartProcess with Ahead.
func StartProcessFirst(t testing.TB, data string, args ...string) *Process {
	t.Helper()
	p, err := startProcess(Ahead(Binary(t)), data, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// StartProcessUnder is StartProcess with a limit of file descriptors.
func StartProcessUnder(t testing.TB, descriptors int, data string, args ...string) *Process {
	t.Helper()
	shell := []string{"/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, descriptors), Binary(t)}
	p, err := startProcess(shell, data, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Ahead is a command that goes before the tests in the queue for the
// processor, where that is permitted (root, on Unix): as if the test's peers
// were on other machines, whose work takes nothing from this one.
func Ahead(command ...string) []string {
	if nice, err := exec.LookPath("nice"); err == nil && os.Geteuid() == 0 {
		return append([]string{nice, "-n", "-15"}, command...)
	}
	return command
}

func startProcess(command []string, data string, args ...string) (*Process, error) {
	ready := filepath.Join(filepath.Dir(data), filepath.Base(data)+".ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	p := &Process{out: new(bytes.Buffer), exited: make(chan struct{}), Started: time.Now()}
	command = append(append(command[:len(command):len(command)], "serve", "--data", data, "--ready-file", ready), args...)
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "ROLLCALL_") // settings of whoever runs the tests, and of the tests
	})
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.NewTimer(Patience)
	defer timeout.Stop()
	for {
		if text, err := os.ReadFile(ready); err == nil {
			p.Ready = time.Since(p.Started)
			return p, json.Unmarshal(text, &p.Info)
		}
		select {
		case <-p.exited:
			return nil, fmt.Errorf("the server ended before it was ready: %v\n%s", p.err, p.out)
		case <-timeout.C:
			p.Kill()
			return nil, fmt.Errorf("the server is not ready in time\n%s", p.out)
		case <-tick.C:
		}
	}
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process as kill -9 does, and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

// Stop ends the process with SIGTERM, unless it has ended, and returns how it
// exited.
func (p *Process) Stop(ctx context.Context) error {
	select {
	case <-p.exited:
		return p.err
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return p.err
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	}
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Output is what the process printed. It may be called once it has ended.
func (p *Process) Output() string {
	<-p.exited
	return p.out.String()
}
