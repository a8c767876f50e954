package pebble_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

// content returns the files of a directory and below, the ballast and the lock
// left out.
func content(t *testing.T, fs vfs.FS, dir string) map[string]string {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, n := range names {
		name := fs.PathJoin(dir, n)
		st, err := fs.Stat(name)
		switch {
		case err != nil:
			t.Fatal(err)
		case st.IsDir():
			for k, v := range content(t, fs, name) {
				all[path.Join(n, k)] = v
			}
			continue
		case n == "BALLAST" || n == "LOCK":
			continue
		}
		f, err := fs.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, st.Size())
		if len(data) > 0 {
			if _, err := f.ReadAt(data, 0); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		all[n] = string(data)
	}
	return all
}

// cloned is a copy of a store.
func cloned(t *testing.T, fs vfs.FS) *vfs.MemFS {
	t.Helper()
	clone := vfs.NewMem()
	if _, err := vfs.Clone(fs, clone, damageDir, damageDir, vfs.CloneSync); err != nil {
		t.Fatal(err)
	}
	return clone
}

// Every kind of damage to every kind of file has the outcome that is documented,
// and is told in full: which part of which file, what may be lost, and where the
// damaged file went. Check tells it before, and changes nothing; afterwards it is
// told as dealt with, and not met again.
func TestEachDamageIsToldInFull(t *testing.T) {
	const at = 9000 // in a log or a table
	gone := func(name string) func(*testing.T, vfs.FS) {
		return func(t *testing.T, fs vfs.FS) {
			if err := fs.Remove(fs.PathJoin(damageDir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var sound *vfs.MemFS
	var w written
	var index uint64
	var names, logs []string
	manifest, options, table := "", "", ""
	// How far tables have been written, and which are still in use, differs.
	for seed := uint64(1); len(logs) < 2 || table == ""; seed++ {
		if seed > 50 {
			t.Fatal("no store has two logs and a table in use")
		}
		sound, w, index = damageable(t, seed)
		var sizes []int64
		names, sizes = files(t, sound)
		logs, table = nil, ""
		most := int64(2 * at)
		for i, n := range names {
			switch {
			case strings.HasSuffix(n, ".log"):
				logs = append(logs, n)
			case strings.HasSuffix(n, ".sst"):
				if sizes[i] <= most {
					continue
				}
				fs := cloned(t, sound)
				gone(n)(t, fs)
				if r, err := pebble.Check(small(fs)); err == nil && !r.Opens() {
					table, most = n, sizes[i]
				}
			case strings.HasPrefix(n, "MANIFEST"):
				manifest = n
			case strings.HasPrefix(n, "OPTIONS"):
				options = n
			}
		}
	}
	newest, older := logs[len(logs)-1], logs[len(logs)-2]
	bit := func(p []byte) { p[0] ^= 4 }
	smear := func(p []byte) {
		for i := range min(300, len(p)) {
			p[i] ^= 0xA5
		}
	}
	shred := func(p []byte) {
		for i := range p {
			p[i] ^= 0xA5
		}
	}
	changed := func(name string, off int64, how func([]byte)) func(*testing.T, vfs.FS) {
		return func(t *testing.T, fs vfs.FS) { change(t, fs, name, off, how) }
	}
	cut := func(name string, to int) func(*testing.T, vfs.FS) {
		return func(t *testing.T, fs vfs.FS) {
			data := content(t, fs, damageDir)[name]
			f, err := fs.Create(fs.PathJoin(damageDir, name), vfs.WriteCategoryUnspecified)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.Write([]byte(data[:to]))
			if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name    string
		damage  func(*testing.T, vfs.FS)
		file    string
		outcome pebble.Outcome
		cause   string
		within  int64 // the part that is told has this byte; 0: no part
		loss    bool
		kept    bool
		level   bool
		from    uint64 // lowest that Loss.From may be
		to      uint64 // lowest that Loss.To may be
	}{
		{name: "bit of the newest log", damage: changed(newest, at, bit), file: newest, outcome: pebble.Corrected, cause: "one bit", within: at},
		{name: "bit of an old log", damage: changed(older, at, bit), file: older, outcome: pebble.Corrected, cause: "one bit", within: at},
		{name: "part of the newest log", damage: changed(newest, at, smear), file: newest, outcome: pebble.SetAside, cause: "a part of the log", within: at, loss: true, kept: true, from: 800},
		{name: "part of an old log", damage: changed(older, at, smear), file: older, outcome: pebble.SetAside, cause: "a part of the log", within: at, loss: true, kept: true, from: 100},
		{name: "end of the newest log", damage: cut(newest, at), file: newest, outcome: pebble.SetAside, cause: "the end of the log", loss: true, kept: true, from: 800},
		{name: "newest log", damage: gone(newest), file: newest, outcome: pebble.SetAside, cause: "the log is gone", loss: true, from: 700},
		{name: "older log", damage: gone(older), file: older, outcome: pebble.SetAside, cause: "the log is gone", loss: true, from: 100},
		{name: "bit of the list of tables", damage: changed(manifest, 400, bit), file: manifest, outcome: pebble.Corrected, cause: "one bit", within: 400},
		{name: "part of the list of tables", damage: changed(manifest, 400, smear), file: manifest, outcome: pebble.Fatal, cause: "tables is damaged", within: 400},
		{name: "end of the list of tables", damage: cut(manifest, len(content(t, sound, damageDir)[manifest])/2), file: manifest, outcome: pebble.Fatal, cause: "the end of the list of the store's tables"},
		{name: "list of tables", damage: gone(manifest), file: manifest, outcome: pebble.Fatal, cause: "tables is gone"},
		{name: "settings", damage: changed(options, 0, shred), file: options, outcome: pebble.Harmless, cause: "note of its settings"},
		{name: "description", damage: changed("FORMAT", 0, shred), file: "FORMAT", outcome: pebble.Corrected, cause: "description"},
		{name: "no description", damage: gone("FORMAT"), file: "FORMAT", outcome: pebble.Corrected, cause: "description"},
		{name: "bit of a table", damage: changed(table, at, bit), file: table, outcome: pebble.Corrected, cause: "bit", within: at},
		{name: "part of a table", damage: changed(table, at, smear), file: table, outcome: pebble.SetAside, cause: "", within: at, loss: true, kept: true, level: true},
		{name: "table", damage: gone(table), file: ".", outcome: pebble.Fatal, cause: strings.TrimSuffix(table, ".sst")},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := cloned(t, sound)
			c.damage(t, fs)
			damaged := content(t, fs, damageDir)
			told := func(who string, all []pebble.Finding) {
				t.Helper()
				i := slices.IndexFunc(all, func(f pebble.Finding) bool { return f.File == c.file && f.Outcome == c.outcome })
				if i < 0 {
					t.Fatalf("%s does not tell: %+v", who, all)
				}
				f := all[i]
				if !strings.Contains(f.Cause, c.cause) || f.At.IsZero() {
					t.Errorf("%s: the cause is %q, at %v", who, f.Cause, f.At)
				}
				if c.within > 0 && (f.Offset > c.within || f.Offset+f.Length <= c.within || f.Length > 40<<10) {
					t.Errorf("%s: %d bytes from %d on are damaged, which is not where byte %d is", who, f.Length, f.Offset, c.within)
				}
				if (f.Loss != nil) != c.loss {
					t.Fatalf("%s: the loss is %+v", who, f.Loss)
				}
				if c.loss && !c.level && (f.Loss.From < c.from || f.Loss.To <= f.Loss.From || f.Loss.To < c.to) {
					t.Errorf("%s: commits above %d up to %d are lost, want from %d to %d", who, f.Loss.From, f.Loss.To, c.from, c.to)
				}
				if c.level && (f.Level == nil || len(f.Tables) == 0 || bytes.Compare(f.Loss.Lower, f.Loss.Upper) >= 0) {
					t.Errorf("%s: %+v %+v", who, f, f.Loss)
				}
			}
			report, err := pebble.Check(small(fs))
			if err != nil {
				t.Fatal(err)
			}
			told("check", report.Findings)
			if len(report.Earlier) > 0 || report.Files < len(names)-2 || report.Bytes == 0 {
				t.Errorf("check: %+v", report)
			}
			if report.Opens() == (c.outcome == pebble.Fatal) || report.Loses() != (c.outcome == pebble.Fatal || c.outcome == pebble.SetAside) {
				t.Errorf("it opens: %v, and loses something: %v", report.Opens(), report.Loses())
			}
			if now := content(t, fs, damageDir); !maps.Equal(now, damaged) {
				t.Error("check has changed the store")
			}

			e, err := pebble.Open(small(fs))
			if c.outcome == pebble.Fatal {
				if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), "rollcall data salvage") {
					t.Fatalf("it is opened: %v", err)
				}
				now := content(t, fs, damageDir)
				maps.DeleteFunc(now, func(name, _ string) bool { return strings.HasPrefix(name, "set-aside/") })
				if c.file != "." && !maps.Equal(now, damaged) {
					t.Error("what was not opened was changed")
				}
				salvages(t, fs, w, index, c.file == ".")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			lost, err := judgeDamaged(t, e, w, index)
			if err != nil || lost > 0 && !c.loss {
				t.Fatalf("%d keys are lost: %v", lost, err)
			}
			told("the engine", e.Findings())
			if e.DamageCounts()[c.outcome] == 0 {
				t.Errorf("it is not counted: %v", e.DamageCounts())
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			now := content(t, fs, damageDir)
			i := slices.IndexFunc(e.Findings(), func(f pebble.Finding) bool { return f.Kept != "" })
			if (i >= 0) != c.kept {
				t.Errorf("set aside: %+v", e.Findings())
			}
			if i >= 0 && now[e.Findings()[i].Kept] != damaged[c.file] {
				t.Errorf("%s is not what was damaged", e.Findings()[i].Kept)
			}
			again, err := pebble.Check(small(fs))
			was, err2 := json.Marshal(e.Findings())
			is, err3 := json.Marshal(again.Earlier)
			if err := errors.Join(err, err2, err3); err != nil || len(again.Findings) > 0 || !bytes.Equal(was, is) {
				t.Errorf("afterwards check finds %+v, earlier %s, want %s: %v", again.Findings, is, was, err)
			}
			if e, err = pebble.Open(small(fs)); err != nil {
				t.Fatal(err)
			}
			if err := e.Close(); err != nil || len(e.DamageCounts()) > 0 {
				t.Errorf("the next start meets it again: %+v, %v", e.Findings(), err)
			}
		})
	}
}

// salvages sees that a store which cannot be opened is salvaged, and that it is
// not changed by that.
func salvages(t *testing.T, fs vfs.FS, w written, index uint64, tableGone bool) {
	t.Helper()
	before := content(t, fs, damageDir)
	to := small(fs)
	to.Dir = "/var/lib/salvaged"
	out, err := pebble.Salvage(small(fs), to)
	if err != nil || !out.Rebuilt || out.Index < index {
		t.Fatalf("salvage: %+v, %v", out, err)
	}
	if f := out.Findings[0]; f.File != "MANIFEST" || f.Outcome != pebble.SetAside || f.Loss == nil || f.Loss.To < index || f.Loss.From != 0 || len(f.Loss.Lower)+len(f.Loss.Upper) > 0 {
		t.Errorf("salvage tells %+v", f)
	}
	if now := content(t, fs, damageDir); !maps.Equal(now, before) {
		t.Error("salvage has changed the original")
	}
	if _, err := pebble.Salvage(small(fs), to); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("salvage writes over what is there: %v", err)
	}
	e, err := pebble.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := judgeDamaged(t, e, w, index)
	if err != nil || lost > 0 && !tableGone {
		t.Errorf("%d keys are lost: %v", lost, err)
	}
	there := 0
	for _, c := range w {
		if !c.gone {
			there++
		}
	}
	if !tableGone && out.Keys < uint64(there) {
		t.Errorf("%d keys are salvaged of %d", out.Keys, there)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}
