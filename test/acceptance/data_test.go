package acceptance

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rollcall/internal/app"
	"rollcall/internal/cli"
	"rollcall/internal/config"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/servertest"
)

// command runs the command line.
func command(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = cli.Main(args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

// newest returns the newest file of a store that has the pattern's name and
// content.
func newest(t *testing.T, data, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, "store", pattern))
	if err != nil {
		t.Fatal(err)
	}
	for i := len(files) - 1; i >= 0; i-- {
		if st, err := os.Stat(files[i]); err == nil && st.Size() > 0 {
			return files[i]
		}
	}
	t.Fatalf("no %s in %s", pattern, data)
	return ""
}

func smear(t *testing.T, file string, from int) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < min(len(text), from+32); i++ {
		text[i] ^= 0x5A
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// transitions returns how many of device's transitions have the number, and
// how many numbers were skipped.
func transitions(t *testing.T, s *servertest.Server, number uint64) (n int, highest, skipped uint64) {
	t.Helper()
	var page struct {
		Value []struct {
			Number, Skipped uint64
		}
	}
	if err := json.Unmarshal(s.Must("GET", "/rollcall/v1/sessions/device/history?limit=1000", nil), &page); err != nil {
		t.Fatal(err)
	}
	for _, tr := range page.Value {
		if tr.Number == number {
			n++
		}
		highest, skipped = max(highest, tr.Number), skipped+tr.Skipped
	}
	return n, highest, skipped
}

// A data directory whose list of tables is damaged is not started on; check
// says why, salvage copies what can be read, and the copy goes on above every
// number that was given out, and says so.
func TestADamagedDirectoryIsCheckedSalvagedAndServedAgain(t *testing.T) {
	s := servertest.Start(t, nil)
	for range 3 {
		if err := s.Dial("tcp", packet.V5, "device").Close(); err != nil {
			t.Fatal(err)
		}
	}
	data := s.Config.Data
	if code, _, errOut := command("data", "check", "--data", data); code != 1 || !strings.Contains(errOut, "in use") {
		t.Errorf("check of a running server's directory: exit %d, %s", code, errOut)
	}
	s.Stop()
	if code, out, errOut := command("data", "check", "--data", data); code != 0 || !strings.Contains(out, "sound") {
		t.Errorf("check of a sound directory: exit %d, %s%s", code, out, errOut)
	}
	smear(t, newest(t, data, "MANIFEST-*"), 8)
	var report app.DataReport
	code, out, errOut := command("data", "check", "--json", "--data", data)
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 1 || report.Verdict != app.VerdictUnusable {
		t.Errorf("check: exit %d, %v, %s%s", code, err, out, errOut)
	}
	if _, err := app.Open(t.Context(), s.Config, app.Options{}); err == nil || !strings.Contains(err.Error(), "rollcall data salvage") {
		t.Errorf("started on it: %v", err)
	}
	to := filepath.Join(t.TempDir(), "new")
	if code, out, errOut := command("data", "salvage", "--data", data, "--to", to); code != 0 {
		t.Fatalf("salvage: exit %d, %s%s", code, out, errOut)
	}
	if code, _, errOut := command("data", "salvage", "--data", data, "--to", to); code != 1 || !strings.Contains(errOut, "not empty") {
		t.Errorf("salvage over a directory: exit %d, %s", code, errOut)
	}
	c := s.Config
	c.Data = to
	goesOn(t, c, 3)
	if st, err := os.Stat(filepath.Join(to, "keys.json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the keys: %v, %v", st, err)
	}
}

// goesOn starts a server on what was damaged: it serves, and device's numbers
// go on above those that were given out.
func goesOn(t *testing.T, c config.Config, given uint64) {
	t.Helper()
	s := servertest.Run(t, c)
	defer s.Stop()
	if err := s.Dial("tcp", packet.V5, "device").Close(); err != nil {
		t.Fatal(err)
	}
	n, highest, skipped := transitions(t, s, given)
	if n > 2 || highest <= given || skipped == 0 {
		t.Errorf("number %d has %d transitions, the highest is %d, %d were skipped", given, n, highest, skipped)
	}
	if st := s.Status(); len(st.Damage.Findings) == 0 {
		t.Error("status says nothing of it")
	}
}

// With the newest log gone a server starts, says what may be missing, and gives
// no number out again.
func TestALostLogIsNoticed(t *testing.T) {
	s := servertest.Start(t, nil)
	for range 3 {
		if err := s.Dial("tcp", packet.V5, "device").Close(); err != nil {
			t.Fatal(err)
		}
	}
	s.Stop()
	if err := os.Remove(newest(t, s.Config.Data, "*.log")); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := command("data", "check", "--data", s.Config.Data); code != 1 || !strings.Contains(out, "lossy") {
		t.Errorf("check: exit %d, %s", code, out)
	}
	goesOn(t, s.Config, 3)
}
