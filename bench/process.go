package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/servertest"
)

const patience = time.Minute // bound of every wait

// process is a process that we started.
type process struct {
	cmd    *exec.Cmd
	log    string // file of what it prints
	exited chan struct{}
	err    error
}

// start starts a process whose output goes to log.
func start(cmd *exec.Cmd, log string) (*process, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	cmd.Stderr = f
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: log, exited: make(chan struct{})}
	go func() { // ends with the process, which kill or stop ends
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// kill ends the process as kill -9 does and waits for it. It may be called
// more than once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

// stop asks the process to end and waits for it.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return p.err
	case <-time.After(patience):
		p.kill()
		return errors.New("it does not stop")
	}
}

// printed is the end of what the process printed.
func (p *process) printed() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// cpu is how much CPU the process has used, in user and kernel mode.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return parseCPU(text)
}

// tick is the unit of /proc/<pid>/stat: USER_HZ is 100 on Linux.
const tick = 10 * time.Millisecond

// parseCPU reads utime and stime, fields 14 and 15 of /proc/<pid>/stat.
func parseCPU(stat []byte) (time.Duration, error) {
	end := bytes.LastIndexByte(stat, ')') // of the name, which may hold anything
	f := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(f) < 13 {
		return 0, errors.New("/proc/<pid>/stat is not understood")
	}
	var sum time.Duration
	for _, text := range f[11:13] {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// resident is the process's resident memory in bytes.
func (p *process) resident() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return parseResident(text)
}

func parseResident(status []byte) (float64, error) {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb * 1024, err
		}
	}
	return 0, errors.New("/proc/<pid>/status has no VmRSS")
}

// server is a Rollcall in a process of its own.
type server struct {
	*process
	info  app.ReadyInfo
	ready time.Duration // from its start until everything listened
}

// serve starts the binary on a data directory with default settings but for
// args, on free ports, and waits until it is ready.
func (b *bench) serve(ctx context.Context, data string, args ...string) (*server, error) {
	ready := data + ".ready"
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	const free = "127.0.0.1:0"
	cmd := exec.Command(b.binary, append([]string{"serve", "--data", data, "--ready-file", ready,
		"--mqtt", free, "--mqtts", free, "--http", free, "--https", free}, args...)...)
	began := time.Now()
	p, err := start(cmd, data+".log")
	if err != nil {
		return nil, err
	}
	s := &server{process: p}
	err = until(ctx, 500*time.Microsecond, func() (bool, error) {
		select {
		case <-p.exited:
			return false, fmt.Errorf("the server ended: %w\n%s", p.err, p.printed())
		default:
		}
		text, err := os.ReadFile(ready)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		s.ready = time.Since(began)
		if err == nil {
			err = json.Unmarshal(text, &s.info)
		}
		return true, err
	})
	if err != nil {
		p.kill()
		return nil, err
	}
	return s, nil
}

// tls is a client's configuration that trusts the server. Sessions are not
// resumed: each connection makes a full handshake.
func (s *server) tls() (*tls.Config, error) {
	text, err := os.ReadFile(s.info.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("the server's CA file holds no certificate")
	}
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}, nil
}

// get decodes the answer of a read.
func (s *server) get(ctx context.Context, path string, out any) error {
	status, text, err := servertest.Call(ctx, s.info, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("GET %s: %d %s", path, status, text)
	}
	return json.Unmarshal(text, out)
}

// empty waits until no session is connected.
func (s *server) empty(ctx context.Context) error {
	return until(ctx, 5*time.Millisecond, func() (bool, error) {
		var page struct{ Value []json.RawMessage }
		err := s.get(ctx, "/rollcall/v1/sessions?connected=true&limit=1", &page)
		return len(page.Value) == 0, err
	})
}

// gauge is the value of a metric without labels.
func (s *server) gauge(ctx context.Context, name string) (float64, error) {
	status, text, err := servertest.Call(ctx, s.info, http.MethodGet, "/metrics", nil)
	if err != nil {
		return 0, err
	}
	if status != http.StatusOK {
		return 0, fmt.Errorf("GET /metrics: %d", status)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

// until calls f every d until it says that it is so, fails, or ctx or our
// patience ends.
func until(ctx context.Context, d time.Duration, f func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		if ok, err := f(); ok || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting: %w", context.Cause(ctx))
		}
	}
}

// rest waits for d.
func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// self starts this program as one of its other processes.
func (b *bench) self(name string, stdin io.Reader, stdout io.Writer, args ...string) (*process, error) {
	file, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(file, append([]string{name}, args...)...)
	cmd.Stdin, cmd.Stdout = stdin, stdout
	return start(cmd, b.data()+"."+name+".log")
}
