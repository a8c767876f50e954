package stored

import (
	"bytes"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// FuzzRecords: no stored bytes make a decoder panic, and what decodes can be
// encoded and decoded again to the same.
func FuzzRecords(f *testing.F) {
	m := &session.Message{
		Publish:  packet.Publish{Topic: []byte("a/b"), Payload: []byte("p"), QoS: 1, ContentType: []byte("c")},
		From:     "x",
		Received: time.Unix(5, 0),
	}
	encoded, err := appendMessage(nil, m)
	if err != nil {
		f.Fatal(err)
	}
	will, err := (&Will{Message: m, Delay: 3}).append(nil)
	if err != nil {
		f.Fatal(err)
	}
	target := Target{PacketID: 7, QoS: 2, Retain: true, SubscriptionIDs: []uint32{1, 300}, Share: "g/t"}
	for kind, seed := range [][]byte{
		(&Session{Owner: "o", Epoch: 300, Expiry: NeverExpires, Offline: time.Unix(9, 9)}).append(nil),
		(&Subscription{Subscription: packet.Subscription{QoS: 2, NoLocal: true, RetainHandling: 2}, Identifier: 500}).append(nil),
		encoded,
		will,
		append(appendEntry(nil, &target, payloadInline, len(encoded), 0), encoded...),
		append(appendEntry(nil, &target, payloadHere, 5, 0), 3),
		append(appendEntry(nil, &target, payloadThere, 5, 0), 200, 1, 3),
		appendReleased(nil, 9),
		tombstone{SessionKey{"r", "n", 5}, time.Unix(1, 1)}.append(nil),
		{recordVersion, 5},
	} {
		f.Add(uint8(kind), seed)
	}
	f.Fuzz(func(t *testing.T, kind uint8, value []byte) {
		switch kind {
		case 0:
			var s, again Session
			if s.decode(value) == nil && (again.decode(s.append(nil)) != nil || again != s) {
				t.Errorf("session: %+v became %+v", s, again)
			}
		case 1:
			var s, again Subscription
			if s.decode(value) == nil && (again.decode(s.append(nil)) != nil || again != s) {
				t.Errorf("subscription: %+v became %+v", s, again)
			}
		case 2:
			if m, err := decodeMessage(value); err == nil {
				sameMessage(t, m)
			}
		case 3:
			var w, again Will
			if w.decode(value) != nil {
				return
			}
			b, err := w.append(nil)
			if err != nil || again.decode(b) != nil || again.Delay != w.Delay || !again.DueAt.Equal(w.DueAt) {
				t.Errorf("Will: %+v became %+v, %v", w, again, err)
			}
			sameMessage(t, w.Message)
		case 4, 5, 6, 7:
			var r entryReader
			ref, err := r.read(3, sequence{100, 5}, value)
			if err != nil {
				return
			}
			e := r.entry(ref)
			if len(e.SubscriptionIDs) != int(r.count) {
				t.Errorf("%d identifiers of %d", len(e.SubscriptionIDs), r.count)
			}
			if r.inline != nil {
				if m, err := decodeMessage(r.inline); err == nil {
					sameMessage(t, m)
				}
			}
		case 8:
			var s, again tombstone
			if s.decode(value) == nil && (again.decode(s.append(nil)) != nil || again.key != s.key || !again.at.Equal(s.at)) {
				t.Errorf("tombstone: %+v became %+v", s, again)
			}
		case 9:
			var i DueItem
			_ = i.decode(value, []byte{recordVersion, 1})
			_ = i.decode(dueKey(nil, 1, time.Unix(7, 0), WillDelayed, "r", "n"), value)
		}
	})
}

// sameMessage checks that a message that was decoded survives another round.
func sameMessage(t *testing.T, m *session.Message) {
	t.Helper()
	first, err := appendMessage(nil, m)
	if err != nil {
		t.Fatalf("a stored message cannot be encoded: %v", err)
	}
	again, err := decodeMessage(first)
	if err != nil {
		t.Fatalf("decode again: %v", err)
	}
	second, err := appendMessage(nil, again)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("got %x, %v, want %x", second, err, first)
	}
}

// References are exact whatever is said twice, also beyond 64 holders.
func TestHolders(t *testing.T) {
	m := sequence{10, 4}
	for _, n := range []int{1, 2, 63, 64, 65, 127, 128, 129, 1000} {
		h, built := allHolders(n), holders{}
		for i := range n {
			e := sequence{10, uint16(5 + i)}
			h.add(m, e)
			built.add(m, e)
		}
		moved := sequence{20, 1}
		h.add(m, moved)
		h.add(m, moved)
		h.remove(m, sequence{21, 1})
		h.remove(m, sequence{10, uint16(5 + n)})
		h.remove(m, sequence{10, 3})
		if h.left != uint32(n+1) || built.left != uint32(n) {
			t.Fatalf("%d entries: %d and %d are left", n, h.left, built.left)
		}
		for range 2 {
			for i := range n {
				h.remove(m, sequence{10, uint16(5 + i)})
				built.remove(m, sequence{10, uint16(5 + i)})
			}
		}
		if h.left != 1 || built.left != 0 {
			t.Fatalf("%d entries: %d and %d are left after all were removed", n, h.left, built.left)
		}
		h.remove(m, moved)
		if h.left != 0 {
			t.Fatalf("%d entries: the moved one is left", n)
		}
	}
}
