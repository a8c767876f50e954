package store_test

import (
	"bytes"
	"cmp"
	"strings"
	"testing"

	"rollcall/internal/store"
)

func TestPartition(t *testing.T) {
	// Written down: the mapping is part of every store that exists.
	tests := []struct {
		n           int
		realm, name string
		want        uint8
	}{
		{16, "default", "device-1", 15},
		{16, "default", "device-2", 10},
		{16, "", "", 3},
		{1, "default", "anything", 0},
	}
	for _, test := range tests {
		if got := store.Partition(test.n, test.realm, test.name); got != test.want {
			t.Errorf("Partition(%d, %q, %q) = %d, want %d", test.n, test.realm, test.name, got, test.want)
		}
	}
	if store.Partition(255, "ab", "c") == store.Partition(255, "a", "bc") {
		t.Error("realm and name are not told apart")
	}
	counts := make([]int, 16)
	for i := range 16_000 {
		counts[store.Partition(16, "default", "device-"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+string(rune(i)))]++
	}
	for p, n := range counts {
		if n < 700 || n > 1300 {
			t.Errorf("partition %d gets %d of 16,000 names", p, n)
		}
	}
}

func TestTakeStringRefuses(t *testing.T) {
	for _, key := range []string{"", "a", "a\x00", "a\x00\x02", "\x00", "a\x00\xFF", "a\x00\xFFb", "\x00\x00\x01"} {
		if s, rest, ok := store.TakeString([]byte(key)); ok {
			t.Errorf("%q: got %q and %q", key, s, rest)
		}
	}
	if _, _, ok := store.TakeUint64([]byte("1234567")); ok {
		t.Error("seven bytes are a number")
	}
}

// FuzzString checks that strings come back and that keys order as they do,
// whatever follows.
func FuzzString(f *testing.F) {
	f.Add("a", "b", []byte("rest"))
	f.Add("a\x00b", "a", []byte{0xFF})
	f.Add("", "\x00", []byte{})
	f.Add("a\x00", "a\x00\xFF", []byte{1})
	f.Fuzz(func(t *testing.T, a, b string, rest []byte) {
		ka, kb := append(store.AppendString(nil, a), rest...), store.AppendString(nil, b)
		got, r, ok := store.TakeString(ka)
		if !ok || got != a || !bytes.Equal(r, rest) {
			t.Fatalf("%q came back as %q, %x, %v", a, got, r, ok)
		}
		if a != b && bytes.Compare(ka, kb) != cmp.Compare(a, b) {
			t.Fatalf("%q and %q order as %x and %x", a, b, ka, kb)
		}
	})
}

func TestPrefixEnd(t *testing.T) {
	tests := map[string]string{"a": "b", "a\xFF": "b", "\x01\x10": "\x01\x11", "a\xFF\xFF": "b", "\xFF": "", "": ""}
	for prefix, want := range tests {
		p := []byte(prefix)
		end := store.PrefixEnd(p)
		if string(end) != want || (end == nil) != (want == "") {
			t.Errorf("PrefixEnd(%q) = %q, want %q", prefix, end, want)
		}
		if string(p) != prefix {
			t.Errorf("PrefixEnd(%q) changed it to %q", prefix, p)
		}
	}
}

// FuzzPrefixEnd checks that exactly the keys that begin with the prefix are
// between it and its end.
func FuzzPrefixEnd(f *testing.F) {
	f.Add([]byte("a\xFF"), []byte("b"))
	f.Fuzz(func(t *testing.T, prefix, key []byte) {
		end := store.PrefixEnd(prefix)
		between := bytes.Compare(key, prefix) >= 0 && (end == nil || bytes.Compare(key, end) < 0)
		if between != bytes.HasPrefix(key, prefix) {
			t.Fatalf("%x between %x and %x: %v", key, prefix, end, between)
		}
	})
}

func TestSequencedKey(t *testing.T) {
	prefix := []byte("\x01\x31topic")
	last := prefix
	for _, at := range []struct {
		index   uint64
		ordinal uint16
	}{{0, 0}, {1, 0}, {1, 1}, {1, 256}, {1, 65535}, {2, 0}, {256, 0}, {1 << 40, 3}, {1<<64 - 1, 65535}} {
		k := store.SequencedKey(prefix, at.index, at.ordinal)
		if len(k) != len(prefix)+store.SequencedSuffix || !bytes.HasPrefix(k, prefix) || bytes.Compare(k, last) <= 0 {
			t.Errorf("%v: key %x after %x", at, k, last)
		}
		if i, o, ok := store.Sequence(k); i != at.index || o != at.ordinal || !ok {
			t.Errorf("%v: came back as %d, %d, %v", at, i, o, ok)
		}
		last = k
	}
	if _, _, ok := store.Sequence([]byte("123456789")); ok {
		t.Error("nine bytes have a sequence")
	}
}
