package auth

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"

	"rollcall/internal/fault"
)

// Params are the cost of one argon2id hash (RFC 9106).
type Params struct {
	Memory  uint32 `yaml:"memory"`  // KiB; 8,192 to 1,048,576; default 19,456
	Time    uint32 `yaml:"time"`    // passes; 1 to 16; default 2
	Threads uint8  `yaml:"threads"` // lanes; 1 to 16; default 1
}

// DefaultParams returns the cost that OWASP recommends at least.
func DefaultParams() Params { return Params{Memory: 19 << 10, Time: 2, Threads: 1} }

// Validate returns every mistake in p by path below prefix.
func (p Params) Validate(prefix string) fault.List {
	var bad fault.List
	if p.Memory < 8<<10 || p.Memory > 1<<20 {
		bad.Add(fault.At(prefix+".memory", "%d KiB is not between 8192 and 1048576", p.Memory))
	}
	if p.Time < 1 || p.Time > 16 {
		bad.Add(fault.At(prefix+".time", "%d is not between 1 and 16", p.Time))
	}
	if p.Threads < 1 || p.Threads > 16 {
		bad.Add(fault.At(prefix+".threads", "%d is not between 1 and 16", p.Threads))
	}
	return bad
}

const (
	saltSize = 16
	hashSize = 32
)

// phc is a parsed hash string: $argon2id$v=19$m=…,t=…,p=…$salt$hash.
type phc struct {
	params Params
	salt   []byte
	hash   []byte
}

var errPHC = errors.New("auth: malformed password hash")

func (h phc) String() string {
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		h.params.Memory, h.params.Time, h.params.Threads, enc.EncodeToString(h.salt), enc.EncodeToString(h.hash))
}

// parsePHC reads what String wrote. What it accepts cannot make argon2 panic or
// take memory without bound.
func parsePHC(s string) (phc, error) {
	f := strings.Split(s, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != "v="+strconv.Itoa(argon2.Version) {
		return phc{}, errPHC
	}
	var h phc
	for i, item := range strings.Split(f[3], ",") {
		key, text, _ := strings.Cut(item, "=")
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || i > 2 || key != "mtp"[i:i+1] {
			return phc{}, errPHC
		}
		switch i {
		case 0:
			h.params.Memory = uint32(n)
		case 1:
			h.params.Time = uint32(n)
		case 2:
			h.params.Threads = uint8(min(n, 255)) // 255 is out of range
		}
	}
	if h.params.Validate("").Err() != nil {
		return phc{}, errPHC
	}
	var err1, err2 error
	enc := base64.RawStdEncoding.Strict()
	h.salt, err1 = enc.DecodeString(f[4])
	h.hash, err2 = enc.DecodeString(f[5])
	if err1 != nil || err2 != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.hash) < 16 || len(h.hash) > 64 {
		return phc{}, errPHC
	}
	return h, nil
}

// derive computes the hash of password under h's salt and parameters.
func (h phc) derive(password []byte) []byte {
	return argon2.IDKey(password, h.salt, h.params.Time, h.params.Memory, h.params.Threads, uint32(len(h.hash)))
}

func (h phc) matches(password []byte) bool {
	return subtle.ConstantTimeCompare(h.derive(password), h.hash) == 1
}

// ValidHash reports whether s is a hash string that Verify understands.
func ValidHash(s string) bool {
	_, err := parsePHC(s)
	return err == nil
}
