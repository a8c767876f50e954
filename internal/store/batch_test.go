package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"rollcall/internal/store"
)

// ops lists a batch's operations as text.
func ops(b *store.Batch) []string {
	var all []string
	err := b.Each(func(o store.Op) error {
		all = append(all, fmt.Sprintf("%d %x %x %d", o.Kind, o.Key, o.Value, o.Rev))
		return nil
	})
	if err != nil {
		all = append(all, err.Error())
	}
	return all
}

func sample() *store.Batch {
	b := store.NewBatchWithID(store.ID{1, 2, 3}, store.Reserve)
	b.Require([]byte("\x03\x20a"), 7)
	b.Put([]byte("\x03\x20a"), []byte("value"))
	b.Put([]byte("\x03\x20b"), nil)
	b.Delete([]byte("\x03\x21c"))
	b.DeleteRange([]byte("\x03\x22"), []byte("\x04"))
	b.PutSequenced([]byte("\x03\x31"), bytes.Repeat([]byte("x"), 300))
	return b
}

func TestBatchRoundTrip(t *testing.T) {
	b := sample()
	if b.Err() != nil || b.Len() != 6 || b.Class() != store.Reserve || b.ID() != (store.ID{1, 2, 3}) {
		t.Fatalf("%v, %d operations, class %d, id %x", b.Err(), b.Len(), b.Class(), b.ID())
	}
	if p, ok := b.Partition(); p != 3 || !ok {
		t.Errorf("partition %d, %v", p, ok)
	}
	d, err := store.DecodeBatch(bytes.Clone(b.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	if d.ID() != b.ID() || d.Class() != b.Class() || d.Len() != b.Len() || d.Size() != b.Size() {
		t.Errorf("decoded %x, %d, %d, %d", d.ID(), d.Class(), d.Len(), d.Size())
	}
	if got, want := fmt.Sprint(ops(d)), fmt.Sprint(ops(b)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if n := d.PutSequenced([]byte("\x03\x31"), nil); n != 1 {
		t.Errorf("the second sequenced put, after decoding the first, has ordinal %d", n)
	}
}

// The encoding is what a replicated log keeps: it never changes.
func TestBatchEncoding(t *testing.T) {
	b := store.NewBatchWithID(store.ID{0xAA, 15: 0xBB}, store.Normal)
	b.Require([]byte("\x01\x10k"), 258)
	b.Put([]byte("\x01\x10k"), []byte("v"))
	b.Delete([]byte("\x01\x10l"))
	b.DeleteRange([]byte("\x01\x10"), []byte("\x02"))
	b.PutSequenced([]byte("\x01\x31"), nil)
	want := "01" + "aa0000000000000000000000000000bb" + "00" +
		"01" + "0301106b" + "0000000000000102" +
		"02" + "0301106b" + "0176" +
		"03" + "0301106c" +
		"04" + "020110" + "0102" +
		"05" + "020131" + "00"
	if got := fmt.Sprintf("%x", b.Encoded()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestBatchRules(t *testing.T) {
	k := []byte("\x01\x10k")
	tests := []struct {
		name string
		f    func(*store.Batch)
		ok   bool
	}{
		{"nothing", func(*store.Batch) {}, true},
		{"one partition", func(b *store.Batch) { b.Put(k, k); b.Delete([]byte("\x01\x20")) }, true},
		{"two partitions", func(b *store.Batch) { b.Put(k, k); b.Require([]byte("\x02\x20"), 0) }, false},
		{"empty key", func(b *store.Batch) { b.Put(nil, k) }, false},
		{"key without table", func(b *store.Batch) { b.PutSequenced([]byte{1}, k) }, false},
		{"engine's table", func(b *store.Batch) { b.Delete([]byte{1, 0, 5}) }, false},
		{"range within", func(b *store.Batch) { b.DeleteRange(k, []byte("\x01\x10z")) }, true},
		{"range to the end", func(b *store.Batch) { b.DeleteRange(k, []byte("\x02")) }, true},
		{"range beyond", func(b *store.Batch) { b.DeleteRange(k, []byte("\x02\x00")) }, false},
		{"range far beyond", func(b *store.Batch) { b.DeleteRange(k, []byte("\x03")) }, false},
		{"range from before", func(b *store.Batch) { b.DeleteRange(k, []byte("\x00\x10")) }, false},
		{"range without end", func(b *store.Batch) { b.DeleteRange(k, nil) }, false},
		{"last partition's range", func(b *store.Batch) { b.DeleteRange([]byte("\xFF\x10"), []byte("\xFF\x11")) }, true},
		{"large", func(b *store.Batch) { b.Put(k, make([]byte, store.MaxBatchSize-100)) }, true},
		{"too large", func(b *store.Batch) { b.Put(k, make([]byte, store.MaxBatchSize)) }, false},
		{"too large in all", func(b *store.Batch) {
			for range 20 {
				b.Put(k, make([]byte, 1<<20))
			}
		}, false},
		{"65,536 sequenced", func(b *store.Batch) { sequence(b, 1<<16) }, true},
		{"65,537 sequenced", func(b *store.Batch) { sequence(b, 1<<16+1) }, false},
	}
	for _, test := range tests {
		b := store.NewBatch(store.Normal)
		test.f(b)
		if (b.Err() == nil) != test.ok || b.Err() != nil && !errors.Is(b.Err(), store.ErrInvalid) {
			t.Errorf("%s: %v", test.name, b.Err())
		}
		if c := store.NewBatchWithID(b.ID(), store.Reserve+1); c.Err() == nil {
			t.Error("an unknown class is taken")
		}
		if b.Size() > store.MaxBatchSize {
			t.Errorf("%s: %d bytes", test.name, b.Size())
		}
		if _, err := store.DecodeBatch(b.Encoded()); test.ok && err != nil {
			t.Errorf("%s: decode: %v", test.name, err)
		}
	}
}

func sequence(b *store.Batch, n int) {
	for range n {
		b.PutSequenced([]byte("\x01\x31"), nil)
	}
}

func TestDecodeBatchRefuses(t *testing.T) {
	good := sample().Encoded()
	for n := range good {
		d, err := store.DecodeBatch(good[:n:n])
		if err == nil && d.Len() >= 6 {
			t.Errorf("%d of %d bytes were taken", n, len(good))
		}
		if err != nil && !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	change := func(at int, to byte) []byte {
		c := bytes.Clone(good)
		c[at] = to
		return c
	}
	header := good[:18:18]
	for name, data := range map[string][]byte{
		"version 0":        change(0, 0),
		"version 2":        change(0, 2),
		"class 2":          change(17, 2),
		"operation 9":      change(18, 9),
		"long length":      append(bytes.Clone(header), 3, 0x83, 0x00, 1, 16, 1),
		"huge length":      binary.AppendUvarint(append(bytes.Clone(header), 3), 1<<63),
		"endless length":   append(append(bytes.Clone(header), 3), bytes.Repeat([]byte{0xFF}, 20)...),
		"engine's table":   append(bytes.Clone(header), 3, 2, 1, 0),
		"two partitions":   append(bytes.Clone(header), 3, 2, 1, 16, 3, 2, 2, 16),
		"range beyond":     append(bytes.Clone(header), 4, 2, 1, 16, 2, 9, 9),
		"too many bytes":   make([]byte, store.MaxBatchSize+1),
		"too many ordinal": append(bytes.Clone(header), bytes.Repeat([]byte{5, 2, 1, 16, 0}, 1<<16+1)...),
	} {
		if _, err := store.DecodeBatch(data); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEachStops(t *testing.T) {
	stop := errors.New("stop")
	n := 0
	err := sample().Each(func(store.Op) error {
		n++
		if n == 3 {
			return stop
		}
		return nil
	})
	if err != stop || n != 3 {
		t.Errorf("%v after %d operations", err, n)
	}
}

// FuzzDecodeBatch checks that what is decoded is valid and encodes to itself.
func FuzzDecodeBatch(f *testing.F) {
	f.Add(sample().Encoded())
	f.Add(store.NewBatch(store.Normal).Encoded())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := store.DecodeBatch(data)
		if err != nil {
			if !errors.Is(err, store.ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if d.Err() != nil {
			t.Fatalf("decoded with an error: %v", d.Err())
		}
		b := store.NewBatchWithID(d.ID(), d.Class())
		err = d.Each(func(o store.Op) error {
			switch o.Kind {
			case store.OpRequire:
				b.Require(o.Key, o.Rev)
			case store.OpPut:
				b.Put(o.Key, o.Value)
			case store.OpDelete:
				b.Delete(o.Key)
			case store.OpDeleteRange:
				b.DeleteRange(o.Key, o.Value)
			case store.OpPutSequenced:
				b.PutSequenced(o.Key, o.Value)
			}
			return nil
		})
		if err != nil || b.Err() != nil {
			t.Fatalf("each: %v, built again: %v", err, b.Err())
		}
		if !bytes.Equal(b.Encoded(), data) || b.Len() != d.Len() {
			t.Fatalf("%x\nencodes to\n%x", data, b.Encoded())
		}
		p, ok := b.Partition()
		if q, okd := d.Partition(); p != q || ok != okd {
			t.Fatalf("partition %d, %v and %d, %v", p, ok, q, okd)
		}
	})
}
