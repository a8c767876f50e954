package pebble

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/event"
	"rollcall/internal/store"
)

// Finding is damage to the store's files, and what became of it.
type Finding struct {
	At      event.Time `json:"at"`
	File    string     `json:"file"` // within the store's directory
	Offset  int64      `json:"offset,omitempty"`
	Length  int64      `json:"length,omitempty"`
	Level   *int       `json:"level,omitempty"` // of a table, 0 to 6
	Outcome Outcome    `json:"outcome"`
	Cause   string     `json:"cause"`
	Tables  []string   `json:"tables,omitempty"` // whose keys the damage covers; none: no key's
	Kept    string     `json:"kept,omitempty"`   // where the damaged file was put
	Loss    *Loss      `json:"loss,omitempty"`
}

// Outcome says what became of damage.
type Outcome string

const (
	// Corrected: one bit had flipped, the checksum says which; it was put right
	// and nothing is lost.
	Corrected Outcome = "corrected"
	// SetAside: what could be read was kept, what could not is marked as lost,
	// and the rest serves.
	SetAside Outcome = "set aside"
	// Harmless: nothing that is needed was in it; it was made anew.
	Harmless Outcome = "harmless"
	// Fatal: the store cannot be right without it and is not opened.
	Fatal Outcome = "fatal"
)

// Loss is a store.Loss as findings show it.
type Loss struct {
	Lower []byte `json:"lower,omitempty"`
	Upper []byte `json:"upper,omitempty"`
	From  uint64 `json:"from"` // commits above this index
	To    uint64 `json:"to"`   // and up to this one may be missing
}

func (f *Finding) loss() store.Loss {
	return store.Loss{
		Lower: f.Loss.Lower, Upper: f.Loss.Upper, From: f.Loss.From, To: f.Loss.To,
		At: f.At.Time, File: f.File, Cause: f.Cause,
	}
}

// Directory and file of what was set aside, within the store's directory.
const (
	setAsideDir  = "set-aside"
	findingsName = "findings.jsonl"
	maxFindings  = 4096 // of the file and in memory; later ones are counted and logged
)

// findings is the list of a store's damage. It lives outside of the engine, one
// JSON object a line, so that it is there whatever the engine can read. It may
// be used concurrently.
type findings struct {
	fs   vfs.FS
	dir  string // the store's
	path string

	mu     sync.Mutex
	all    []Finding
	counts map[Outcome]uint64 // since the store was opened
}

func newFindings(fsys vfs.FS, dir string) *findings {
	return &findings{fs: fsys, dir: dir, path: fsys.PathJoin(dir, setAsideDir, findingsName), counts: make(map[Outcome]uint64)}
}

// read returns what was found in earlier runs. Lines that cannot be read are
// passed over: the file is for people, and for marks that are in the store too.
func (f *findings) read() error {
	data, err := readFile(f.fs, f.path, 64<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what was set aside: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		var one Finding
		if json.Unmarshal(line, &one) == nil && one.File != "" {
			f.all = append(f.all, one)
		}
	}
	return nil
}

// add records a finding, durably.
func (f *findings) add(one Finding) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[one.Outcome]++
	if len(f.all) >= maxFindings {
		return nil
	}
	f.all = append(f.all, one)
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	for i := range f.all {
		if err := enc.Encode(&f.all[i]); err != nil {
			return err
		}
	}
	if err := f.makeDir(); err != nil {
		return err
	}
	if err := writeFile(f.fs, f.path, buf.Bytes()); err != nil {
		return fmt.Errorf("record what was set aside: %w", err)
	}
	return nil
}

func (f *findings) makeDir() error {
	dir := f.fs.PathJoin(f.dir, setAsideDir)
	if _, err := f.fs.Stat(dir); err == nil {
		return nil
	}
	if err := f.fs.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a directory for what is set aside: %w", err)
	}
	return syncDir(f.fs, f.dir)
}

// keep puts a second name for a file into the directory of what was set aside,
// so that it survives what is done to the first, and returns it.
func (f *findings) keep(name string) (string, error) {
	if err := f.makeDir(); err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		kept := f.fs.PathJoin(setAsideDir, fmt.Sprintf("%s.%d", name, n))
		to := f.fs.PathJoin(f.dir, kept)
		if _, err := f.fs.Stat(to); err == nil {
			continue
		}
		if err := f.fs.Link(f.fs.PathJoin(f.dir, name), to); err != nil {
			return "", fmt.Errorf("set %s aside: %w", name, err)
		}
		return kept, syncDir(f.fs, f.fs.PathJoin(f.dir, setAsideDir))
	}
}

func (f *findings) list() []Finding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Finding(nil), f.all...)
}

func (f *findings) count() map[Outcome]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := make(map[Outcome]uint64, len(f.counts))
	for k, v := range f.counts {
		m[k] = v
	}
	return m
}

// Findings lists the damage that this start and earlier ones found.
func (e *Engine) Findings() []Finding { return e.findings.list() }

// DamageCounts counts findings of this start by outcome.
func (e *Engine) DamageCounts() map[Outcome]uint64 { return e.findings.count() }
