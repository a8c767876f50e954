package broker

import (
	"bytes"
	"testing"
)

// TestCiphertextIsBacklog: what TLS has to send counts as what waits for the
// client, until the transport has taken it, and is not larger for that.
func TestCiphertextIsBacklog(t *testing.T) {
	s := &socket{tls: new(secure)}
	s.link, s.b = s, &Broker{opts: Options{OutputBytes: 1000}}
	record := make([]byte, 600)
	write := func() {
		if n, err := s.tls.Write(record); n != len(record) || err != nil {
			t.Fatal(n, err)
		}
	}
	write()
	if n := s.backlog(); n != 600 || s.behind() {
		t.Errorf("of 600 bytes %d wait, and behind is %v", n, s.behind())
	}
	write()
	if n := s.backlog(); n != 1200 || !s.behind() {
		t.Errorf("of 1200 bytes %d wait, and behind is %v", n, s.behind())
	}
	for range 10_000 { // the transport takes one record, and another is made meanwhile
		o := s.tls.take()
		if s.tls.pending() {
			t.Fatal("what has been taken is pending")
		}
		write()
		o.from += len(record)
		s.tls.putBack(o)
		if n := s.backlog(); n != 1200 {
			t.Fatalf("%d bytes wait, not 1200", n)
		}
	}
	if n := cap(s.tls.out.buf); n > 16<<10 {
		t.Errorf("1200 bytes take %d", n)
	}
	s.out = &output{buf: bytes.Repeat([]byte("x"), 100)}
	if o := s.tls.take(); len(o.buf)-o.from != 1200 || s.behind() {
		t.Error("what has been sent counts still")
	}
	if s.out.buf = append(s.out.buf, make([]byte, 901)...); !s.behind() {
		t.Error("what is not encrypted yet does not count")
	}
}
