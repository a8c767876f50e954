package stored

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
)

// What is on disk does not change without a new record version.
func TestRecordFormat(t *testing.T) {
	at := time.Unix(1, 2)
	m := &session.Message{
		Publish:  packet.Publish{Topic: []byte("t"), Payload: []byte("p"), QoS: 1, MessageExpiryInterval: packet.Some[uint32](9)},
		From:     "x",
		Received: at,
	}
	k := SessionKey{"r", "n", 5}
	message := "01 000000003b9aca02 0178 320c 000174 0001 05 0200000009 70"
	encode := func(f func([]byte) ([]byte, error)) []byte {
		t.Helper()
		b, err := f(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	encoded := encode(func(b []byte) ([]byte, error) { return appendMessage(b, m) })
	w := Will{Message: m, Delay: 300, DueAt: at}
	target := Target{PacketID: 258, QoS: 2, Retain: true, SubscriptionIDs: []uint32{1, 300}, Share: "g/t"}
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"session", (&Session{Owner: "o", Epoch: 300, Expiry: NeverExpires, Offline: at}).append(nil), "01 016f ac02 ffffffff0f 000000003b9aca02"},
		{"subscription", (&Subscription{Subscription: packet.Subscription{QoS: 2, NoLocal: true, RetainAsPublished: true, RetainHandling: 1}, Identifier: 300}).append(nil), "01 1e ac02"},
		{"message", encoded, message},
		{"will", encode(w.append), "01 ac02 000000003b9aca02" + message},
		{"entry", append(appendEntry(nil, &target, payloadInline, 7, 0), 'm'), "01 76 0102 07 02 01ac02 03672f74 6d"},
		{"entry of a record", append(appendEntry(nil, &Target{PacketID: 1, QoS: 1}, payloadHere, 7, 0), 3), "01 81 0001 07 03"},
		{"entry that expires", append(appendEntry(nil, &Target{PacketID: 1, QoS: 1, Size: 200}, payloadHere, 7, 300), 3), "02 81 0001 c801 ac02 03"},
		{"released", appendReleased(nil, 258), "01 0a 0102 00"},
		{"tombstone", tombstone{k, at}.append(nil), "01 0172 016e 0000000000000005 000000003b9aca02"},
		{"queue key", queueKey(nil, k, Ref{Index: 7, Ordinal: 8, Partition: 3}), "03 56 720001 6e0001 0000000000000005 0000000000000007 0008"},
		{"message key", messageKey(nil, 3, "r", sequence{7, 8}), "03 55 720001 0000000000000007 0008"},
		{"due key", dueKey(nil, 3, at, WillDelayed, "r", "n"), "03 52 000000003b9aca02 02 720001 6e0001"},
		{"filter key", filterKey(nil, 3, k, "a"), "03 51 720001 6e0001 0000000000000005 61"},
		{"inbound key", inboundKey(nil, 3, k, 258), "03 54 720001 6e0001 0000000000000005 0102"},
	} {
		if want := strings.ReplaceAll(tt.want, " ", ""); hex.EncodeToString(tt.got) != want {
			t.Errorf("%s: got %x, want %s", tt.name, tt.got, want)
		}
	}
}
