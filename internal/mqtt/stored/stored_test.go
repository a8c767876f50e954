package stored_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/stored"
	"rollcall/internal/store"
	"rollcall/internal/store/mem"
)

// P2: what was stored for a session is read back whole, in order, across
// publishers, and is gone once settled.
func TestQueue(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		st := open(t, e)
		run(t, st)
		full := message("pub", "a/b", "first", packet.QoS2)
		full.Retain = true
		full.PayloadFormatIndicator = packet.Some[uint8](1)
		full.MessageExpiryInterval = packet.Some[uint32](77)
		full.ResponseTopic, full.CorrelationData, full.ContentType = []byte("r"), []byte{0, 1}, []byte("text/plain")
		full.UserProperties = []packet.UserProperty{{Name: []byte("k"), Value: []byte("v")}, {Name: []byte("k"), Value: []byte("w")}}
		full.PacketID, full.Dup, full.TopicAlias = 9, true, 4
		var want []string
		for i := range 20 {
			from := fmt.Sprintf("pub%d", i)
			m := message(from, "a/b", fmt.Sprint("m", i), packet.QoS1)
			if i == 0 {
				m = full
			}
			ts := []stored.Target{to("x", uint16(i+1))}
			if i%3 == 0 {
				ts = append(ts, to("y", uint16(i+1)))
			}
			ts[0].Retain, ts[0].Share, ts[0].SubscriptionIDs = i%2 == 0, []string{"", "g/a/b"}[i%2], []uint32{uint32(i + 1), packet.MaxRemainingLength}
			o := publish(st, from, &stored.Publication{Message: m, Targets: ts})[0]
			must(t, "publish", o.err)
			want = append(want, fmt.Sprintf("%s %d", m.Payload, i+1))
			if o.receipt.Target(0) == o.receipt.Target(1) {
				t.Fatal("two targets have one Ref")
			}
		}
		for _, n := range []int{1, 7, 100} {
			wantTexts(t, pending(t, st, key("x"), n), want...)
		}
		got := pending(t, st, key("x"), 100)
		m := got[0].Message
		if m.From != "pub" || !m.Received.Equal(epoch0) || m.PacketID != 0 || m.Dup || m.TopicAlias != 0 || m.QoS != packet.QoS2 || !m.Retain ||
			m.PayloadFormatIndicator != full.PayloadFormatIndicator || m.MessageExpiryInterval != full.MessageExpiryInterval ||
			string(m.ResponseTopic) != "r" || string(m.CorrelationData) != "\x00\x01" || string(m.ContentType) != "text/plain" ||
			len(m.UserProperties) != 2 || string(m.UserProperties[1].Value) != "w" {
			t.Errorf("the message came back as %+v", m.Publish)
		}
		for i, en := range got {
			if en.Retain != (i%2 == 0) || en.Share != []string{"", "g/a/b"}[i%2] || !slices.Equal(en.SubscriptionIDs, []uint32{uint32(i + 1), packet.MaxRemainingLength}) || en.QoS != packet.QoS1 {
				t.Errorf("entry %d came back as %+v", i, en)
			}
		}
		n, size, ids, err := count(st, key("x"))
		must(t, "count", err)
		if n != 20 || size < 20*10 || len(ids) != 20 {
			t.Errorf("count: got %d messages, %d bytes, ids %d", n, size, ids)
		}
		if page, err := st.Pending(key("x"), nil, 100, got[0].Size+got[1].Size); err != nil || len(page.Entries) != 2 || !page.More {
			t.Errorf("a page of two messages' bytes has %d, more %v, %v", len(page.Entries), page.More, err)
		}
		for i, en := range got {
			st.Settle(key("x"), en.Ref)
			st.Settle(key("x"), en.Ref) // no harm
			wantTexts(t, pending(t, st, key("x"), 100), want[i+1:]...)
		}
		// The other session still has all of its messages.
		var wantY []string
		for i := 0; i < 20; i += 3 {
			wantY = append(wantY, want[i])
		}
		eventually(t, "settled entries are deleted", func() bool { return st.Backlog() == 0 })
		ys := pending(t, st, key("y"), 3)
		wantTexts(t, ys, wantY...)
		if n := keys(t, e, store.TableMessage); n != 7 {
			t.Errorf("%d message records are stored, want 7", n)
		}
		for _, en := range ys {
			st.Settle(key("y"), en.Ref)
		}
		eventually(t, "nothing is stored", func() bool { return keys(t, e) == 0 })
		eventually(t, "nothing is remembered", func() bool { return st.Dying() == 0 })
	})
}

// A message for many sessions is stored once.
func TestFanOutStoresOnce(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		st := open(t, e)
		run(t, st)
		ts := make([]stored.Target, 150)
		for i := range ts {
			ts[i] = to(fmt.Sprint("s", i), 1)
		}
		o := publish(st, "p", &stored.Publication{Message: message("p", "t", "payload", 1), Targets: ts})[0]
		must(t, "publish", o.err)
		if got := keys(t, e, store.TableMessage); got != 1 {
			t.Fatalf("%d message records, want 1", got)
		}
		for i := range ts {
			k := key(ts[i].Session)
			es := pending(t, st, k, 10)
			wantTexts(t, es, "payload 1")
			if es[0].Ref != o.receipt.Target(i) {
				t.Fatalf("target %d: got %+v, want %+v", i, es[0].Ref, o.receipt.Target(i))
			}
			if i > 0 {
				for range 3 {
					st.Settle(k, es[0].Ref)
				}
			}
		}
		eventually(t, "settled entries are deleted", func() bool { return st.Backlog() == 0 })
		es := pending(t, st, key("s0"), 10)
		wantTexts(t, es, "payload 1")
		st.Settle(key("s0"), es[0].Ref)
		eventually(t, "nothing is stored", func() bool { return keys(t, e) == 0 })
	})
}

// QoS 2 in both directions, as far as it is stored.
func TestQoS2(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		st := open(t, e)
		run(t, st)
		begin(t, e, st, "p")
		target := to("x", 5)
		target.QoS = packet.QoS2
		ps := []*stored.Publication{
			{Message: message("p", "t", "one", 2), Inbound: &stored.Inbound{Session: "p", Epoch: 1, PacketID: 300}, Targets: []stored.Target{target, to("y", 8)}},
			{Message: message("p", "t", "two", 2), Inbound: &stored.Inbound{Session: "p", Epoch: 1, PacketID: 7}},
		}
		outcomes := publish(st, "p", ps...)
		for _, o := range outcomes {
			must(t, "publish", o.err)
		}
		if ids, err := st.Inbound(key("p")); err != nil || !slices.Equal(ids, []uint16{7, 300}) {
			t.Fatalf("inbound: got %d, %v", ids, err)
		}
		must(t, "complete", wait(func(done func(error)) { st.Complete(key("p"), 300, done) }))
		if ids, err := st.Inbound(key("p")); err != nil || !slices.Equal(ids, []uint16{7}) {
			t.Fatalf("inbound: got %d, %v", ids, err)
		}
		ref := outcomes[0].receipt.Target(0)
		publish(st, "p", &stored.Publication{Message: message("p", "t", "three", 1), Targets: []stored.Target{to("x", 6)}})
		must(t, "release", wait(func(done func(error)) { st.Release(key("x"), ref, 5, done) }))
		es := pending(t, st, key("x"), 10)
		wantTexts(t, es, "released 5", "three 6")
		if es[0].QoS != packet.QoS2 || es[0].Ref.Index != ref.Index {
			t.Errorf("the released entry is %+v", es[0])
		}
		st.Settle(key("y"), outcomes[0].receipt.Target(1))
		eventually(t, "the released message is deleted", func() bool { return keys(t, e, store.TableMessage) == 0 })
		st.Settle(key("x"), ref) // by the Ref of the receipt
		if err := wait(func(done func(error)) { st.Release(key("x"), ref, 5, done) }); !errors.Is(err, stored.ErrSettled) {
			t.Errorf("release of a settled entry: got %v", err)
		}
		wantTexts(t, pending(t, st, key("x"), 10), "three 6")
	})
}

// A message of a shared subscription goes to another member, once.
func TestMove(t *testing.T) {
	onEngines(t, func(t *testing.T, e store.Engine) {
		st := open(t, e)
		run(t, st)
		publish(st, "p",
			&stored.Publication{Message: message("p", "t", "alone", 1), Targets: []stored.Target{to("x", 1)}},
			&stored.Publication{Message: message("p", "t", "shared", 1), Targets: []stored.Target{to("x", 2), to("z", 1)}})
		publish(st, "q", &stored.Publication{Message: message("q", "t", "own", 1), Targets: []stored.Target{to("y", 1)}})
		for i, en := range pending(t, st, key("x"), 10) {
			target := to("y", uint16(10+i))
			target.Share = "g/t"
			move := func() error {
				return wait(func(done func(error)) {
					st.Move(key("x"), &en, &target, func(_ stored.Receipt, err error) { done(err) })
				})
			}
			must(t, "move", move())
			if err := move(); !errors.Is(err, stored.ErrSettled) {
				t.Fatalf("a second move: got %v", err)
			}
		}
		wantTexts(t, pending(t, st, key("x"), 10))
		ys := pending(t, st, key("y"), 10)
		wantTexts(t, ys, "own 1", "alone 10", "shared 11")
		if ys[1].Share != "g/t" {
			t.Errorf("a moved entry has share %q", ys[1].Share)
		}
		st.Settle(key("z"), pending(t, st, key("z"), 1)[0].Ref)
		eventually(t, "settled entries are deleted", func() bool { return st.Backlog() == 0 })
		wantTexts(t, pending(t, st, key("y"), 10), "own 1", "alone 10", "shared 11")
		for _, en := range ys {
			st.Settle(key("y"), en.Ref)
		}
		eventually(t, "nothing is stored", func() bool { return keys(t, e) == 0 })
	})
}

// TestOccupied finds the sessions that have something, and no others.
func TestOccupied(t *testing.T) {
	e := mem.New()
	st := open(t, e)
	var p stored.Publication
	p.Realm, p.Message = realm, message("pub", "t", "x", 1)
	for i := range 50 {
		for range 1 + i%3 {
			p.Targets = append(p.Targets, stored.Target{Session: fmt.Sprintf("s%d", 2*i), Epoch: uint64(1 + i%2), PacketID: uint16(i + 1), QoS: packet.QoS1})
		}
	}
	must(t, "publish", wait(func(done func(error)) {
		b := st.Begin(st.Partition(realm, "pub"))
		b.Add(&p, func(_ stored.Receipt, err error) { done(err) })
		b.Submit()
	}))
	found := make(map[stored.SessionKey]bool)
	must(t, "look", st.Occupied(t.Context(), func(k stored.SessionKey) { found[k] = true }))
	for i := range 50 {
		if k := (stored.SessionKey{Realm: realm, Name: fmt.Sprintf("s%d", 2*i), Epoch: uint64(1 + i%2)}); !found[k] {
			t.Errorf("%+v is not found", k)
		}
	}
	if len(found) != 50 {
		t.Errorf("%d are found", len(found))
	}
}
