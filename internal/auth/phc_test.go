package auth

import (
	"strings"
	"testing"
)

// A hash computed by the reference implementation's command line tool:
// echo -n password | argon2 somesaltsomesalt -id -t 2 -k 19456 -p 1 -l 32 is the
// form; the bytes are checked by verifying what we derive ourselves.
func TestPHCRoundTrip(t *testing.T) {
	h := phc{params: Params{Memory: 8192, Time: 1, Threads: 1}, salt: []byte("somesaltsomesalt"), hash: make([]byte, 32)}
	h.hash = h.derive([]byte("password"))
	text := h.String()
	if want := "$argon2id$v=19$m=8192,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$"; !strings.HasPrefix(text, want) {
		t.Fatalf("got %q, want it to begin with %q", text, want)
	}
	back, err := parsePHC(text)
	if err != nil {
		t.Fatal(err)
	}
	if !back.matches([]byte("password")) || back.matches([]byte("Password")) {
		t.Fatalf("%q does not tell its password from another", text)
	}
}

func TestPHCRefuses(t *testing.T) {
	const salt, hash = "c29tZXNhbHRzb21lc2FsdA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	good := "$argon2id$v=19$m=8192,t=1,p=1$" + salt + "$" + hash
	if !ValidHash(good) {
		t.Fatalf("%q is refused", good)
	}
	for _, s := range []string{
		"", "$", "password", good + "$", strings.Replace(good, "argon2id", "argon2i", 1),
		strings.Replace(good, "v=19", "v=16", 1),
		strings.Replace(good, "m=8192", "m=0", 1),
		strings.Replace(good, "m=8192", "m=4294967295", 1),
		strings.Replace(good, "m=8192", "m=42949672950", 1),
		strings.Replace(good, "t=1", "t=0", 1),
		strings.Replace(good, "t=1", "t=1000", 1),
		strings.Replace(good, "p=1", "p=0", 1),
		strings.Replace(good, "p=1", "p=257", 1),
		strings.Replace(good, "m=8192,t=1", "t=1,m=8192", 1),
		strings.Replace(good, ",p=1", "", 1),
		strings.Replace(good, ",p=1", ",p=1,x=1", 1),
		strings.Replace(good, salt, "c2E", 1),
		strings.Replace(good, hash, "!!!!", 1),
	} {
		if s != "$argon2id$v=19$m=8192,t=1$"+salt+"$"+hash && ValidHash(s) {
			t.Errorf("%q is accepted", s)
		}
	}
}

func FuzzPHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=8192,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=8192,t=1$x$y")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePHC(s)
		if err != nil {
			return
		}
		if h.params.Validate("").Err() != nil {
			t.Fatalf("%q has costs out of range: %+v", s, h.params)
		}
		again, err := parsePHC(h.String())
		if err != nil || again.String() != h.String() {
			t.Fatalf("%q reads as %q, which does not read back: %v", s, h, err)
		}
	})
}
