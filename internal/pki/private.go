package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Tighten sees that a file or directory of ours is only its owner's, as mode
// says: it takes away what is too much, which volumes that are mounted may have
// given. Where it may not, others may read it, and must not write it. It returns
// an error that says what to do.
func Tighten(path string, mode fs.FileMode) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Mode().Perm()&^mode == 0 {
		return nil
	}
	if err := os.Chmod(path, st.Mode().Perm()&mode); err == nil {
		return nil
	} else if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o, so that others can change it, and that cannot be mended (%w): run chmod %o on it", path, st.Mode().Perm(), errors.Unwrap(err), mode)
	}
	return nil
}

// CheckKey looks at a private key of the operator's, which may be a symbolic
// link, as mounted secrets are. What others can write is an error that says what
// to do; that others can read it is returned as a warning, "" if they cannot.
func CheckKey(file string) (warning string, err error) {
	st, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	switch mode := st.Mode().Perm(); {
	case mode&0o022 != 0:
		return "", fmt.Errorf("%s has mode %04o, so that others can change it: run chmod 600 on it", file, mode)
	case mode&0o044 != 0:
		return fmt.Sprintf("%s has mode %04o, so that others can read it: give it mode 0600, or defaultMode: 0600 where it is a mounted secret", file, mode), nil
	}
	return "", nil
}
