package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rollcall/internal/app"
	"rollcall/internal/audit"
	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/peer"
	"rollcall/internal/servertest"
	"rollcall/internal/store"
	"rollcall/internal/store/pebble"
)

const sleepers = 4

// spoil makes one value of each table unreadable, the first of the second key
// on, and returns the tables that have one.
func spoil(t *testing.T, data string) (tables []string) {
	t.Helper()
	e, err := pebble.Open(pebble.Options{Dir: filepath.Join(data, "store")})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	s := e.Snapshot()
	found := make(map[store.Table][][]byte)
	it := s.Iter(nil, nil)
	for it.Next() {
		table := store.TableOf(it.Key())
		found[table] = append(found[table], bytes.Clone(it.Key()))
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for table, keys := range found {
		if table == store.TableName { // its values are names: none is unreadable
			continue
		}
		b := store.NewBatch(store.Reserve)
		b.Put(keys[0], []byte{99, 1, 2})
		if _, err := store.Commit(t.Context(), e, b); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, table.String())
	}
	return tables
}

// device connects with a session that outlives its connection.
func device(t *testing.T, info app.ReadyInfo, id string, will bool) (*peer.Conn, *packet.Connack) {
	t.Helper()
	c := packet.Connect{ClientID: id, SessionExpiryInterval: 3600, KeepAlive: 600}
	if will {
		c.Will = &packet.Will{Topic: []byte("wills/" + id), QoS: 1, DelayInterval: 1}
	}
	conn, ack, err := peer.Dial(t.Context(), servertest.Target(info, "tcp"), packet.V5, nil, c)
	if err != nil {
		t.Fatalf("connect %s: %v", id, err)
	}
	return conn, ack
}

// exchange sends p and waits for a packet that is no PUBLISH.
func exchange(t *testing.T, c *peer.Conn, p packet.Packet) packet.Packet {
	t.Helper()
	if err := c.Send(p); err != nil {
		t.Fatal(err)
	}
	for {
		got, err := c.Receive(time.Now().Add(servertest.Patience))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := got.(*packet.Publish); !ok {
			return got
		}
	}
}

// publishes counts the messages that c is given until one with the topic last,
// acknowledging them.
func publishes(t *testing.T, c *peer.Conn, last string) (n int) {
	t.Helper()
	for {
		got, err := c.Receive(time.Now().Add(servertest.Patience))
		if err != nil {
			t.Fatalf("after %d messages: %v", n, err)
		}
		p, ok := got.(*packet.Publish)
		if !ok {
			continue
		}
		if p.QoS == 1 {
			if err := c.Send(&packet.Puback{PacketID: p.PacketID}); err != nil {
				t.Fatal(err)
			}
		}
		if string(p.Topic) == last {
			return n
		}
		n++
	}
}

// One unreadable value in each table stops nobody but whom it is of: the server
// starts, every client connects with a number of its own, messages, retained
// messages, Wills and events of others arrive, and what was passed over is shown.
func TestOneUnreadableValueInEachTableStopsNobodyElse(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	args := []string{"--mqtt", "127.0.0.1:0", "--http", "127.0.0.1:0", "--mqtts", "", "--https", ""}
	rc := servertest.NewReceiver(t)
	rc.Answer(func(r *http.Request, body []byte) int {
		if strings.Contains(r.URL.RawQuery, "busy") && r.Method == http.MethodPost && !bytes.Contains(body, []byte("validationCode")) {
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	p := servertest.StartProcess(t, data, args...)
	for n := range 3 {
		if err := servertest.Subscribe(t.Context(), p.Info, fmt.Sprintf("hook-%d", n), rc.URL, nil); err != nil {
			t.Fatal(err)
		}
		if err := servertest.Subscribe(t.Context(), p.Info, fmt.Sprintf("busy-%d", n), rc.URL+"?busy", nil); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("client-%d", n)
		if status, text, err := servertest.Call(t.Context(), p.Info, http.MethodPut, servertest.ARM(p.Info, "/clients/"+name), map[string]any{"properties": map[string]any{}}); err != nil || status >= 300 {
			t.Fatalf("put %s: %d %s %v", name, status, text, err)
		}
	}
	for n := range sleepers {
		c, _ := device(t, p.Info, fmt.Sprintf("sleeper-%d", n), true)
		exchange(t, c, &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "t/#", QoS: 1}}})
		exchange(t, c, &packet.Publish{Topic: []byte("q/2"), QoS: 2, PacketID: 2}) // without PUBREL
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	pub, _ := device(t, p.Info, "publisher", true)
	for n := range 5 {
		exchange(t, pub, &packet.Publish{Topic: fmt.Appendf(nil, "t/%d", n), QoS: 1, PacketID: uint16(10 + n), Payload: make([]byte, 3000)})
		exchange(t, pub, &packet.Publish{Topic: fmt.Appendf(nil, "r/%d", n), QoS: 1, PacketID: uint16(20 + n), Retain: true, Payload: []byte("kept")})
	}
	rc.Wait(t, func(ds []audit.Delivery) bool { return len(ds) > 0 })
	p.Kill()

	tables := spoil(t, data)
	p = servertest.StartProcess(t, data, args...)
	defer p.Kill()
	rc.Reset()

	served := 0
	for n := range sleepers {
		id := fmt.Sprintf("sleeper-%d", n)
		c, ack := device(t, p.Info, id, false)
		defer c.Close()
		if !ack.SessionPresent {
			exchange(t, c, &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "t/#", QoS: 1}}})
		}
		pub2, _ := device(t, p.Info, "publisher-2", false)
		exchange(t, pub2, &packet.Publish{Topic: []byte("t/last"), QoS: 1, PacketID: 1})
		pub2.Close()
		// Messages that earlier rounds sent with that topic are counted, too.
		if publishes(t, c, "t/last") >= 3 {
			served++
		}
	}
	if served < sleepers-1 {
		t.Errorf("%d of %d sessions got what waited for them", served, sleepers)
	}
	// Every session goes on with a number that no other connection had.
	for _, id := range []string{"sleeper-0", "sleeper-1", "sleeper-2", "sleeper-3", "publisher-2"} {
		_, text, err := servertest.Call(t.Context(), p.Info, http.MethodGet, "/rollcall/v1/sessions/"+id+"/history?limit=1000", nil)
		if err != nil {
			t.Fatal(err)
		}
		var page struct {
			Value []struct {
				Number uint64
				Kind   string
			}
		}
		if err := json.Unmarshal(text, &page); err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]bool)
		for _, tr := range page.Value {
			k := fmt.Sprint(tr.Number, tr.Kind)
			if seen[k] {
				t.Errorf("%s: %s twice", id, k)
			}
			seen[k] = true
		}
	}
	late, _ := device(t, p.Info, "late", false)
	defer late.Close()
	exchange(t, late, &packet.Subscribe{PacketID: 1, Subscriptions: []packet.Subscription{{Filter: "r/#", QoS: 1}}})
	for n := 0; n < 4; { // of 5
		got, err := late.Receive(time.Now().Add(servertest.Patience))
		if err != nil {
			t.Fatalf("after %d retained messages: %v", n, err)
		}
		if _, ok := got.(*packet.Publish); ok {
			n++
		}
	}
	rc.Wait(t, func(ds []audit.Delivery) bool {
		return slices.ContainsFunc(ds, func(d audit.Delivery) bool { return bytes.Contains(d.Event, []byte(`"late"`)) })
	})
	_, text, err := servertest.Call(t.Context(), p.Info, http.MethodGet, "/rollcall/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	var status app.Status
	if err := json.Unmarshal(text, &status); err != nil {
		t.Fatal(err)
	}
	t.Logf("spoiled %v, set aside %v", tables, status.Damage.SetAside)
	if len(status.Damage.SetAside) < 8 {
		t.Errorf("only %v is shown as set aside, of %v", status.Damage.SetAside, tables)
	}
}
