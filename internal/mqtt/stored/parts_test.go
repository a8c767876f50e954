package stored

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
)

// A record that is cut off anywhere, goes on, or is of another version is no
// record; what is whole is read as it was written.
func TestMalformedRecords(t *testing.T) {
	at := time.Unix(1, 2).UTC()
	m := &session.Message{
		Publish: packet.Publish{Topic: []byte("topic"), Payload: []byte("p"), QoS: 1, MessageExpiryInterval: packet.Some[uint32](9)}, From: "x", Received: at,
	}
	will, err := (&Will{Message: m, Delay: 300, DueAt: at}).append(nil)
	if err != nil {
		t.Fatal(err)
	}
	stone := tombstone{SessionKey{"r", "n", 500}, at}
	sess := Session{Owner: "o", Epoch: 300, Expiry: NeverExpires, Offline: at}
	sub := Subscription{Subscription: packet.Subscription{QoS: 2, NoLocal: true, RetainHandling: 1}, Identifier: 300}
	for _, c := range []struct {
		name   string
		value  []byte
		decode func([]byte) (same bool, err error)
		open   bool // its end is that of the payload, so that more and less may be right
	}{
		{"tombstone", stone.append(nil), func(v []byte) (bool, error) {
			var got tombstone
			err := got.decode(v)
			return got.key == stone.key && got.at.Equal(at), err
		}, false},
		{"session", sess.append(nil), func(v []byte) (bool, error) {
			var got Session
			err := got.decode(v)
			return got.Owner == "o" && got.Epoch == 300 && got.Expiry == NeverExpires && got.Offline.Equal(at), err
		}, false},
		{"subscription", sub.append(nil), func(v []byte) (bool, error) {
			var got Subscription
			err := got.decode(v)
			return got == sub, err
		}, false},
		{"will", will, func(v []byte) (bool, error) {
			var got Will
			err := got.decode(v)
			return err == nil && got.Delay == 300 && got.DueAt.Equal(at) && string(got.Message.Topic) == "topic", err
		}, true},
	} {
		if same, err := c.decode(c.value); err != nil || !same {
			t.Errorf("%s: same %v, %v", c.name, same, err)
		}
		most := len(c.value)
		if c.open {
			most -= len("p")
		}
		for n := range most {
			if _, err := c.decode(c.value[:n:n]); err == nil {
				t.Errorf("%s: %d of %d bytes are taken", c.name, n, len(c.value))
			}
		}
		if _, err := c.decode(append(slices.Clone(c.value), 0)); err == nil && !c.open {
			t.Errorf("%s: a byte more is taken", c.name)
		}
		other := slices.Clone(c.value)
		other[0] = 99
		if _, err := c.decode(other); err == nil {
			t.Errorf("%s: version 99 is taken", c.name)
		}
	}
}

// Every kind of queue entry is read as it was written.
func TestEntriesOfEveryKind(t *testing.T) {
	for _, c := range []struct {
		name    string
		target  Target
		payload byte
		expires int64
		tail    []byte
		want    Ref
	}{
		{"inline", Target{PacketID: 0xABCD, QoS: 2, Retain: true, SubscriptionIDs: []uint32{1, 300, 268435455}, Share: "g/t"}, payloadInline, 0, []byte("m"), Ref{Index: 7, Ordinal: 8, Partition: 3}},
		{"here", Target{PacketID: 1, QoS: 1, Size: 200}, payloadHere, 300, []byte{3}, Ref{Index: 7, Ordinal: 8, Partition: 3, Message: 7, MessageOrdinal: 3}},
		{"there", Target{PacketID: 0x100, Share: "s"}, payloadThere, 1 << 62, []byte{0x90, 3, 5}, Ref{Index: 7, Ordinal: 8, Partition: 3, Message: 400, MessageOrdinal: 5}},
		{"none", Target{PacketID: 2}, payloadNone, 0, nil, Ref{Index: 7, Ordinal: 8, Partition: 3}},
	} {
		value := append(appendEntry(nil, &c.target, c.payload, 77, c.expires), c.tail...)
		var r entryReader
		ref, err := r.read(3, sequence{7, 8}, value)
		if err != nil || ref != c.want {
			t.Errorf("%s: %+v, %v", c.name, ref, err)
			continue
		}
		e, size := r.entry(ref), 77
		if c.target.Size != 0 {
			size = c.target.Size
		}
		if e.PacketID != c.target.PacketID || e.QoS != c.target.QoS || e.Retain != c.target.Retain || e.Released || e.Share != c.target.Share ||
			e.Size != size || e.Expires != c.expires || !slices.Equal(e.SubscriptionIDs, c.target.SubscriptionIDs) {
			t.Errorf("%s: %+v", c.name, e)
		}
		if c.payload == payloadInline && string(r.inline) != "m" {
			t.Errorf("%s: payload %q", c.name, r.inline)
		}
		most := len(value)
		if c.payload == payloadInline {
			most -= len(c.tail)
		}
		for n := range most {
			if _, err := r.read(3, sequence{7, 8}, value[:n:n]); err == nil {
				t.Errorf("%s: %d of %d bytes are taken", c.name, n, len(value))
			}
		}
		if _, err := r.read(3, sequence{7, 8}, append(slices.Clone(value), 0)); err == nil && c.payload != payloadInline {
			t.Errorf("%s: a byte more is taken", c.name)
		}
	}
	var r entryReader
	ref, err := r.read(3, sequence{7, 8}, appendReleased(nil, 0xABCD))
	if e := r.entry(ref); err != nil || !e.Released || e.PacketID != 0xABCD || e.QoS != packet.QoS2 || e.Size != 0 {
		t.Errorf("released: %+v, %v", e, err)
	}
	for what, value := range map[string][]byte{
		"QoS 3":            {recordVersion, 3, 0, 1, 0},
		"version 3":        {3, 1, 0, 1, 0},
		"too large":        {recordVersion, 1, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x08},
		"a late ordinal":   {recordVersion, 1 | payloadHere, 0, 1, 0, 0x80, 0x80, 0x04},
		"an id too large":  {recordVersion, 1 | entryIDs, 0, 1, 0, 1, 0x80, 0x80, 0x80, 0x80, 1},
		"more ids than is": {recordVersion, 1 | entryIDs, 0, 1, 0, 5, 1, 1},
	} {
		if _, err := r.read(3, sequence{7, 8}, value); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

// Names are taken off keys as the store takes them, whatever is in them.
func TestNamesInKeys(t *testing.T) {
	for _, name := range []string{"", "a", "a\x00b", "\x00", "\x01", "a\x00\x01b", strings.Repeat("x", 300)} {
		key := append(store.AppendString(nil, name), "rest"...)
		got, rest, ok := takeName(key)
		if got != name || string(rest) != "rest" || !ok {
			t.Errorf("%q: %q, %q, %v", name, got, rest, ok)
		}
		for _, old := range []string{name, "", "a", "other"} {
			got, rest, ok := takeRealm(key, old)
			if got != name || string(rest) != "rest" || !ok {
				t.Errorf("%q after %q: %q, %q, %v", name, old, got, rest, ok)
			}
		}
		whole := len(key) - len("rest")
		for n := range whole {
			if _, _, ok := takeName(key[:n]); ok {
				t.Errorf("%q: %d of %d bytes are taken", name, n, whole)
			}
		}
	}
	at := time.Unix(5, 7)
	if k := dueKey(nil, 3, at, WillDelayed, "r", "n"); !bytes.HasPrefix(k, []byte{3, byte(store.TableDue)}) {
		t.Errorf("% x", k)
	}
	a, b := sequence{5, 9}, sequence{6, 1}
	if !a.before(b) || b.before(a) || a.before(a) || !a.before(sequence{5, 10}) {
		t.Error("sequences are not in order")
	}
}
