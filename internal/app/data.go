package app

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rollcall/internal/store/pebble"
)

// DataReport is what a check of a data directory found.
type DataReport struct {
	Data    string         `json:"data"`
	Verdict string         `json:"verdict"` // sound, correctable, lossy or unusable
	Store   pebble.Report  `json:"store"`
	Files   []FileProblem  `json:"files"`   // outside of the store
	Meaning []TableMeaning `json:"meaning"` // of what is or would be lost
	Advice  string         `json:"advice"`
}

// FileProblem is a damaged file outside of the store.
type FileProblem struct {
	File   string `json:"file"`
	Detail string `json:"detail"`
}

// TableMeaning says what damage to a table means.
type TableMeaning struct {
	Table   string `json:"table"`
	Meaning string `json:"meaning"`
}

// The verdicts.
const (
	VerdictSound       = "sound"
	VerdictCorrectable = "correctable" // the next start puts it right, nothing is lost
	VerdictLossy       = "lossy"       // the next start sets it aside, what was there is lost
	VerdictUnusable    = "unusable"    // no start without salvage
)

// meanings say what damage means, by table, for those who run the server.
var meanings = map[string]string{
	"engine":              "the store's own counters; they are made anew above everything issued",
	"losses":              "marks of earlier losses; they are written again",
	"resources":           "clients, CA certificates: those in the range are gone and must be made again",
	"names":               "the index of authentication names: its clients cannot connect until they are made again",
	"pending events":      "life-cycle events of clients not yet published are not published",
	"counters":            "counters of the control plane",
	"sessions":            "where sessions stand: their numbers go on above all that were given out; the history is used where it is newer",
	"history":             "transitions of the ledger are missing from histories; events already stored are not concerned",
	"timeline":            "the order of transitions: some stay longer than retention says",
	"open sessions":       "sessions that were connected: some may not be ended until they connect again",
	"boots":               "the counter of starts; it goes on higher",
	"event subscriptions": "event subscriptions in the range are gone and must be created again",
	"events":              "stored events in the range are not delivered any more",
	"cursors":             "progress of deliveries: events may be delivered again, with the same ids",
	"retries":             "events that waited for another attempt are not attempted again",
	"tallies":             "counts of delivered and dropped events are lower",
	"session state":       "stored MQTT sessions in the range are gone: their clients get session present 0",
	"subscriptions":       "subscriptions of stored MQTT sessions in the range are gone: clients must subscribe again",
	"due":                 "when sessions and Wills are due: some expire late",
	"wills":               "Wills in the range are not published",
	"inbound":             "QoS 2 messages under way may be delivered twice",
	"messages":            "queued MQTT messages in the range are gone",
	"queues":              "what waited for stored sessions in the range is gone",
	"garbage":             "some of what ended sessions left is not deleted",
	"retained messages":   "retained messages in the range are gone",
}

// CheckData reads all of a data directory of which no server runs, and changes
// nothing. An error means that it could not look.
func CheckData(dir string, log *slog.Logger) (DataReport, error) {
	r := DataReport{Data: dir, Files: []FileProblem{}, Meaning: []TableMeaning{}}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return r, fmt.Errorf("there is no data directory %s", dir)
	}
	var err error
	if r.Store, err = pebble.Check(storeOptions(dir, log)); err != nil {
		return r, err
	}
	r.Files = append(r.Files, checkKeys(dir)...)
	r.Files = append(r.Files, checkCertificates(filepath.Join(dir, "pki"))...)
	r.Files = append(r.Files, checkDeadLetters(dir)...)
	r.judge()
	return r, nil
}

func storeOptions(dir string, log *slog.Logger) pebble.Options {
	return pebble.Options{Dir: filepath.Join(dir, "store"), Log: log}
}

func (r *DataReport) judge() {
	tables := make(map[string]bool)
	for _, f := range r.Store.Findings {
		if f.Outcome != pebble.SetAside && f.Outcome != pebble.Fatal {
			continue
		}
		for _, t := range f.Tables {
			tables[t] = true
		}
		if f.Loss != nil && len(f.Tables) == 0 {
			tables["any"] = true
		}
	}
	for t := range tables {
		if m, ok := meanings[t]; ok {
			r.Meaning = append(r.Meaning, TableMeaning{t, m})
		}
	}
	if tables["any"] {
		r.Meaning = append(r.Meaning, TableMeaning{"any",
			"the newest commits: transitions, events, changes and messages of a moment are missing; no number and no event id is given out again"})
	}
	slices.SortFunc(r.Meaning, func(a, b TableMeaning) int { return strings.Compare(a.Table, b.Table) })
	switch {
	case !r.Store.Opens():
		r.Verdict, r.Advice = VerdictUnusable, "the server does not start on it: rollcall data salvage --data "+r.Data+" --to NEWDIR"
	case r.Store.Loses():
		r.Verdict, r.Advice = VerdictLossy, "the server starts, sets the damage aside and marks what is lost; copy the directory first, and check the disk"
	case len(r.Store.Findings) > 0:
		r.Verdict, r.Advice = VerdictCorrectable, "the server starts and puts it right, nothing is lost; check the disk"
	case len(r.Files) > 0:
		r.Verdict, r.Advice = VerdictCorrectable, "the store is sound; see the files named"
	default:
		r.Verdict = VerdictSound
	}
}

func checkKeys(dir string) []FileProblem {
	k, err := ReadKeys(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return []FileProblem{{KeysFile, err.Error() + ": restore it, or remove it and a new token is made"}}
	case strings.ContainsFunc(k.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return []FileProblem{{KeysFile, "the token is not printable: restore it, or remove it and a new one is made"}}
	}
	return nil
}

// checkCertificates sees whether every certificate is signed by one that is
// there and every key belongs to its certificate.
func checkCertificates(dir string) (all []FileProblem) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.crt"))
	certs := make(map[string][]*x509.Certificate)
	problem := func(file string, err error) {
		all = append(all, FileProblem{filepath.Join("pki", filepath.Base(file)), err.Error() + ": restore it, or remove it with its key and it is made again"})
	}
	for _, f := range files {
		found, err := certificates(f)
		if err != nil {
			problem(f, err)
			continue
		}
		certs[f] = found
	}
	for _, f := range files {
		for _, c := range certs[f] {
			if !signed(c, certs) {
				problem(f, fmt.Errorf("the signature of %s does not hold", c.Subject))
			}
		}
		key := strings.TrimSuffix(f, ".crt") + ".key"
		if _, err := os.Stat(key); err == nil && certs[f] != nil {
			if _, err := tls.LoadX509KeyPair(f, key); err != nil {
				problem(key, err)
			}
		}
	}
	return all
}

func certificates(file string) (all []*x509.Certificate, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all, text = append(all, c), rest
	}
	if len(all) == 0 {
		return nil, errors.New("no certificate can be read")
	}
	return all, nil
}

func signed(c *x509.Certificate, by map[string][]*x509.Certificate) bool {
	for _, list := range by {
		for _, ca := range list {
			if bytes.Equal(ca.RawSubject, c.RawIssuer) && ca.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
				return true
			}
		}
	}
	return false
}

// checkDeadLetters sees whether every line is an event.
func checkDeadLetters(dir string) (all []FileProblem) {
	root := filepath.Join(dir, "dead-letter")
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".jsonl") && !strings.HasSuffix(path, ".json") {
			return nil // what cannot be listed is not there
		}
		name, _ := filepath.Rel(dir, path)
		f, err := os.Open(path)
		if err != nil {
			all = append(all, FileProblem{name, err.Error()})
			return nil
		}
		defer f.Close()
		dec := json.NewDecoder(f)
		for n := 1; ; n++ {
			var v json.RawMessage
			if err := dec.Decode(&v); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				all = append(all, FileProblem{name, fmt.Sprintf("dead letter %d cannot be read: %v", n, err)})
				return nil
			}
		}
	})
	return all
}

// SalvageData copies all that can be read of a data directory, of which no
// server runs, into another one, which must not exist or be empty, and marks
// what is lost. The original is not changed.
func SalvageData(from, to string, log *slog.Logger) (pebble.Salvaged, error) {
	if st, err := os.Stat(from); err != nil || !st.IsDir() {
		return pebble.Salvaged{}, fmt.Errorf("there is no data directory %s", from)
	}
	if inside(from, to) || inside(to, from) {
		return pebble.Salvaged{}, fmt.Errorf("%s and %s are one within the other: salvage writes to a directory of its own", from, to)
	}
	if names, err := os.ReadDir(to); err == nil && len(names) > 0 {
		return pebble.Salvaged{}, fmt.Errorf("%s is not empty: salvage writes to a new directory only", to)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return pebble.Salvaged{}, err
	}
	if err := os.Chmod(to, 0o700); err != nil {
		return pebble.Salvaged{}, err
	}
	out, err := pebble.Salvage(storeOptions(from, log), storeOptions(to, log))
	if err != nil {
		return out, err
	}
	return out, copyBeside(from, to)
}

func inside(dir, other string) bool {
	rel, err := filepath.Rel(dir, other)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// copyBeside copies what is beside the store, modes included.
func copyBeside(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case rel == "store":
			return filepath.SkipDir
		case rel == "." || rel == "server.json":
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), info.Mode().Perm())
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		return copyFile(path, filepath.Join(to, rel), info.Mode().Perm())
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Sync(), dst.Close())
}
