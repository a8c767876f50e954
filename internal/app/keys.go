package app

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"rollcall/internal/atomicfile"
	"rollcall/internal/pki"
)

// KeysFile is the name of the file of keys in the data directory.
const KeysFile = "keys.json"

// Keys are the secrets that callers show us.
type Keys struct {
	// Token is the bearer token of the control plane.
	Token string `json:"token"`
}

// devKeys are the same everywhere, so that tests can have them in their
// files. They are for loopback only.
var devKeys = Keys{Token: "rollcall-dev-token"}

// openKeys reads the keys of a data directory, making them the first time.
func openKeys(dir string, dev bool) (Keys, error) {
	if dev {
		return devKeys, nil
	}
	file := filepath.Join(dir, KeysFile)
	k, err := ReadKeys(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	k = Keys{Token: base64.RawURLEncoding.EncodeToString(secret)}
	text, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return k, err
	}
	return k, writePrivate(file, append(text, '\n'))
}

// ReadKeys reads the keys of a data directory. The file must not be readable
// by others.
func ReadKeys(dir string) (Keys, error) {
	var k Keys
	file := filepath.Join(dir, KeysFile)
	if err := pki.Tighten(file, 0o600); err != nil {
		return k, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(text, &k); err != nil {
		return k, fmt.Errorf("%s: %w", file, err)
	}
	if k.Token == "" {
		return k, fmt.Errorf("%s holds no token; remove it to have a new one made", file)
	}
	return k, nil
}

// writePrivate replaces a file of mode 0600 as a whole, durably.
func writePrivate(file string, text []byte) error { return atomicfile.Write(file, text, 0o600) }
