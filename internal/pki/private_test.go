package pki

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is ours becomes its owner's alone, as far as it was not already.
func TestTighten(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ have, want, after fs.FileMode }{
		{0o755, 0o700, 0o700}, {0o777, 0o700, 0o700}, {0o700, 0o700, 0o700}, {0o500, 0o700, 0o500}, {0o660, 0o600, 0o600}, {0o400, 0o600, 0o400},
	} {
		file := filepath.Join(dir, c.have.String())
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.have); err != nil {
			t.Fatal(err)
		}
		if err := Tighten(file, c.want); err != nil {
			t.Errorf("%v: %v", c.have, err)
		}
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != c.after {
			t.Errorf("%v became %v, want %v (%v)", c.have, st.Mode().Perm(), c.after, err)
		}
	}
	if err := Tighten(filepath.Join(dir, "none"), 0o600); !os.IsNotExist(err) {
		t.Errorf("what is not there: %v", err)
	}
}

// An operator's key that others can read is warned about, as Kubernetes mounts
// secrets that way, through symbolic links; one that they can write is refused.
func TestCheckKey(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		mode    fs.FileMode
		warning bool
		refused bool
	}{{0o600, false, false}, {0o400, false, false}, {0o640, true, false}, {0o644, true, false}, {0o444, true, false}, {0o660, false, true}, {0o646, false, true}} {
		file := filepath.Join(dir, c.mode.String())
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil {
			t.Fatal(err)
		}
		link := file + ".link"
		if err := os.Symlink(file, link); err != nil {
			t.Fatal(err)
		}
		warning, err := CheckKey(link)
		if (warning != "") != c.warning || (err != nil) != c.refused {
			t.Errorf("%v: %q, %v", c.mode, warning, err)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%v does not say what to do", err)
		}
	}
}
