package packet

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestFrame(t *testing.T) {
	for _, tt := range versions {
		for _, vec := range loadVectors(t, tt.file) {
			for n := range len(vec.wire) {
				if got, err := Frame(vec.wire[:n], 0); got != 0 || err != nil {
					t.Errorf("%s: Frame of %d bytes of %d: got %d, %v", vec.name, n, len(vec.wire), got, err)
				}
			}
			two := append(bytes.Clone(vec.wire), 0x00)
			if got, err := Frame(two, uint32(len(vec.wire))); got != len(vec.wire) || err != nil {
				t.Errorf("%s: Frame with more behind: got %d, %v, want %d", vec.name, got, err, len(vec.wire))
			}
		}
	}
}

func TestFrameRefusesEarly(t *testing.T) {
	for _, tt := range []struct {
		wire string
		max  uint32
		want string // code and clause, or empty for "more bytes"
	}{
		{"00", 0, "0x81 2.1.2"},
		{"0F", 0, "0x81 2.1.2"},
		{"36", 0, "0x81 MQTT-3.3.1-4"},
		{"38", 0, "0x81 MQTT-3.3.1-2"},
		{"3F", 0, "0x81 MQTT-3.3.1-4"},
		{"60", 0, "0x81 MQTT-3.6.1-1"},
		{"63", 0, "0x81 MQTT-3.6.1-1"},
		{"81", 0, "0x81 MQTT-3.8.1-1"},
		{"A3", 0, "0x81 MQTT-3.10.1-1"},
		{"E2", 0, "0x81 MQTT-3.14.1-1"},
		{"F1", 0, "0x81 MQTT-3.15.1-1"},
		{"4F", 0, "0x81 MQTT-2.1.3-1"},
		{"3D", 0, ""},
		{"30 FF FF FF", 0, ""},
		{"30 FF FF FF FF", 0, "0x81 1.5.5"},
		{"30 FF FF FF 7F", 0, ""},
		{"30 FF FF FF 7F", MaxFrameSize, ""},
		{"30 FF FF FF 7F", MaxFrameSize - 1, "0x95 MQTT-3.2.2-15"},
		{"30 81 00", 0, "0x81 MQTT-1.5.5-1"},
		{"30 80 80 80 00", 0, "0x81 MQTT-1.5.5-1"},
		{"30 7E", 128, ""},
		{"30 7F", 128, "0x95 MQTT-3.2.2-15"},
		{"30 FF", 2, ""},
		{"C0 01", 0, "0x81 3.12.1"},
	} {
		got := ""
		n, err := Frame(parseWire(t, tt.wire), tt.max)
		if e, ok := err.(*Error); ok {
			got = fmt.Sprintf("0x%02X %s", uint8(e.Code), e.Clause)
		}
		if n != 0 || got != tt.want {
			t.Errorf("Frame(%s, %d): got %d, %q, want %q", tt.wire, tt.max, n, got, tt.want)
		}
	}
}

// TestLongLengths covers every size of Remaining Length and Property Length.
func TestLongLengths(t *testing.T) {
	text := []byte(strings.Repeat("x", 60000))
	for _, size := range []int{0, 100, 115, 116, 121, 122, 123, 130, 16000, 16367, 16368, 16373, 16374, 16375, 16380, 59000, 1 << 21, 1<<21 + 20000} {
		var props []UserProperty
		for left := size; left > 0; left -= len(text) {
			props = append(props, UserProperty{Name: []byte("k"), Value: text[:min(left, len(text))]})
		}
		for _, p := range []Packet{
			&Publish{Topic: []byte("t"), UserProperties: props},
			&Publish{Topic: []byte("t"), QoS: QoS1, PacketID: 3, Payload: bytes.Repeat([]byte{7}, size+1)},
			&Puback{PacketID: 1, UserProperties: props},
			&Connect{Version: V5, ReceiveMaximum: 65535, ClientID: "c", UserProperties: props},
			&Disconnect{UserProperties: props},
		} {
			wire, err := p.AppendTo(nil, V5)
			if err != nil {
				t.Fatalf("%s of %d: %v", p.Type(), size, err)
			}
			if n, err := Frame(wire, 0); n != len(wire) || err != nil {
				t.Errorf("%s of %d: Frame got %d, %v, want %d", p.Type(), size, n, err, len(wire))
			}
			got, err := Decode(V5, wire)
			if err != nil || dump(got) != dump(p) {
				t.Errorf("%s of %d: did not come back: %v", p.Type(), size, err)
			}
		}
	}
}

func TestEncodersRefuse(t *testing.T) {
	long := strings.Repeat("x", 65536)
	for _, tt := range []struct {
		p    Packet
		v    Version
		code ReasonCode
	}{
		{&Connect{}, 3, UnsupportedProtocolVersion},
		{&Connect{ClientID: long}, V5, MalformedPacket},
		{&Connect{Password: []byte("p")}, V311, MalformedPacket},
		{&Connect{AuthenticationData: []byte{}}, V5, ProtocolError},
		{&Connect{Will: &Will{Topic: []byte("w"), QoS: 3}}, V5, MalformedPacket},
		{&Connect{Will: &Will{Topic: []byte("w/#")}}, V5, TopicNameInvalid},
		{&Connect{Will: &Will{}}, V311, MalformedPacket},
		{&Connect{Will: &Will{Topic: []byte("w"), Payload: []byte(long)}}, V311, MalformedPacket},
		{&Connect{Will: &Will{Topic: []byte("w"), ResponseTopic: []byte("+")}}, V5, ProtocolError},
		{&Connect{Will: &Will{Topic: []byte("w"), PayloadFormatIndicator: Some[uint8](2)}}, V5, ProtocolError},
		{&Connack{ReasonCode: NotAuthorized, SessionPresent: true}, V5, ProtocolError},
		{&Connack{ReasonCode: KeepAliveTimeout}, V5, ProtocolError},
		{&Connack{ReasonCode: MalformedPacket}, V311, ProtocolError},
		{&Connack{AuthenticationData: []byte{1}}, V5, ProtocolError},
		{&Publish{}, V5, ProtocolError},
		{&Publish{TopicAlias: 1}, V311, MalformedPacket},
		{&Publish{Topic: []byte("a/+")}, V5, TopicNameInvalid},
		{&Publish{Topic: []byte("a/+")}, V311, MalformedPacket},
		{&Publish{Topic: []byte(long)}, V5, MalformedPacket},
		{&Publish{Topic: []byte("a"), QoS: 3, PacketID: 1}, V5, MalformedPacket},
		{&Publish{Topic: []byte("a"), QoS: 1}, V5, ProtocolError},
		{&Publish{Topic: []byte("a"), PacketID: 1}, V5, ProtocolError},
		{&Publish{Topic: []byte("a"), Dup: true}, V5, MalformedPacket},
		{&Publish{Topic: []byte("a")}, 6, UnsupportedProtocolVersion},
		{&Publish{Topic: []byte("a"), CorrelationData: []byte(long)}, V5, MalformedPacket},
		{&Publish{Topic: []byte("a"), ResponseTopic: []byte("#")}, V5, ProtocolError},
		{&Publish{Topic: []byte("a"), PayloadFormatIndicator: Some[uint8](2)}, V5, ProtocolError},
		{&Publish{Topic: []byte("a"), SubscriptionIdentifiers: []uint32{0}}, V5, ProtocolError},
		{&Publish{Topic: []byte("a"), SubscriptionIdentifiers: []uint32{1 << 28}}, V5, ProtocolError},
		{&Publish{Topic: []byte("a"), UserProperties: []UserProperty{{Value: []byte(long)}}}, V5, MalformedPacket},
		{&Publish{Topic: []byte("a"), Payload: make([]byte, MaxRemainingLength)}, V5, PacketTooLarge},
		{&Puback{}, V5, ProtocolError},
		{&Puback{PacketID: 1, ReasonCode: PacketIdentifierNotFound}, V5, ProtocolError},
		{&Pubrel{PacketID: 1, ReasonCode: UnspecifiedError}, V5, ProtocolError},
		{&Puback{PacketID: 1, ReasonString: long}, V5, MalformedPacket},
		{&Pubcomp{PacketID: 1}, 9, UnsupportedProtocolVersion},
		{&Subscribe{PacketID: 1}, V5, ProtocolError},
		{&Subscribe{Subscriptions: []Subscription{{Filter: "a"}}}, V5, ProtocolError},
		{&Subscribe{PacketID: 1, Subscriptions: []Subscription{{Filter: "a", QoS: 3}}}, V5, ProtocolError},
		{&Subscribe{PacketID: 1, Subscriptions: []Subscription{{Filter: "a", QoS: 3}}}, V311, MalformedPacket},
		{&Subscribe{PacketID: 1, Subscriptions: []Subscription{{Filter: "a", RetainHandling: 3}}}, V5, ProtocolError},
		{&Subscribe{PacketID: 1, Subscriptions: []Subscription{{Filter: "$share/g/a", NoLocal: true}}}, V5, ProtocolError},
		{&Subscribe{PacketID: 1, SubscriptionIdentifier: 1 << 28, Subscriptions: []Subscription{{Filter: "a"}}}, V5, ProtocolError},
		{&Suback{PacketID: 1}, V5, ProtocolError},
		{&Suback{PacketID: 1, ReasonCodes: []ReasonCode{3}}, V5, ProtocolError},
		{&Unsubscribe{PacketID: 1}, V5, ProtocolError},
		{&Unsuback{PacketID: 1}, V5, ProtocolError},
		{&Unsuback{PacketID: 1, ReasonCodes: []ReasonCode{GrantedQoS1}}, V5, ProtocolError},
		{&Disconnect{ReasonCode: UnsupportedProtocolVersion}, V5, ProtocolError},
		{&Auth{}, V311, MalformedPacket},
		{&Auth{ReasonCode: ContinueAuthentication}, V5, ProtocolError},
		{&Auth{ReasonCode: NotAuthorized, AuthenticationMethod: "M"}, V5, ProtocolError},
	} {
		before := []byte("before")
		got, err := tt.p.AppendTo(before, tt.v)
		var e *Error
		if !errors.As(err, &e) || e.Code != tt.code || !bytes.Equal(got, before) {
			t.Errorf("%.200s for %s: got %.40q, %v, want %s", dump(tt.p), tt.v, got, err, tt.code)
		}
	}
}

func TestEncodingFor311LeavesOutWhatIsNew(t *testing.T) {
	u := []UserProperty{{Name: []byte("k"), Value: []byte("v")}}
	for _, tt := range []struct {
		p    Packet
		want string
	}{
		{&Publish{Topic: []byte("a"), Payload: []byte("x"), TopicAlias: 3, MessageExpiryInterval: Some[uint32](1),
			ContentType: []byte("c"), UserProperties: u}, `30 04 "a" 'x'`},
		{&Puback{PacketID: 1, ReasonCode: NotAuthorized, ReasonString: "r"}, "40 02 00 01"},
		{&Connack{ReasonCode: ServerBusy, ReasonString: "r", UserProperties: u}, "20 02 00 03"},
		{&Suback{PacketID: 1, ReasonCodes: []ReasonCode{GrantedQoS1, QuotaExceeded}, ReasonString: "r"}, "90 04 00 01 01 80"},
		{&Unsuback{PacketID: 1, ReasonCodes: []ReasonCode{NoSubscriptionExisted}}, "B0 02 00 01"},
		{&Disconnect{ReasonCode: ServerShuttingDown, ReasonString: "r"}, "E0 00"},
		{&Subscribe{PacketID: 1, SubscriptionIdentifier: 4, Subscriptions: []Subscription{{Filter: "a", QoS: 1, NoLocal: true}}}, `82 06 00 01 "a" 01`},
		{&Connect{ClientID: "c", SessionExpiryInterval: 5, Will: &Will{Topic: []byte("w"), DelayInterval: 4}}, `10 12 "MQTT" 04 04 00 00 "c" "w" ""`},
	} {
		got, err := tt.p.AppendTo(nil, V311)
		if want := parseWire(t, tt.want); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v\ngot  % X\nwant % X", dump(tt.p), err, got, want)
		}
	}
}

func TestAppendLimited(t *testing.T) {
	u := []UserProperty{{Name: []byte("name"), Value: []byte("value")}}
	for _, full := range []Packet{
		&Connack{ReasonCode: NotAuthorized, ReasonString: "reason", UserProperties: u},
		&Puback{PacketID: 1, ReasonCode: NotAuthorized, ReasonString: "reason", UserProperties: u},
		&Pubrec{PacketID: 1, ReasonCode: NotAuthorized, ReasonString: "reason", UserProperties: u},
		&Pubrel{PacketID: 1, ReasonCode: PacketIdentifierNotFound, ReasonString: "reason", UserProperties: u},
		&Pubcomp{PacketID: 1, ReasonCode: PacketIdentifierNotFound, ReasonString: "reason", UserProperties: u},
		&Suback{PacketID: 1, ReasonCodes: []ReasonCode{0}, ReasonString: "reason", UserProperties: u},
		&Unsuback{PacketID: 1, ReasonCodes: []ReasonCode{0}, ReasonString: "reason", UserProperties: u},
		&Disconnect{ReasonCode: ServerBusy, ServerReference: "s", ReasonString: "reason", UserProperties: u},
		&Auth{ReasonCode: ContinueAuthentication, AuthenticationMethod: "M", ReasonString: "reason", UserProperties: u},
	} {
		before := dump(full)
		all, err := full.AppendTo(nil, V5)
		if err != nil {
			t.Fatal(err)
		}
		bare, err := WithoutProblemInformation(full).AppendTo(nil, V5)
		if err != nil {
			t.Fatal(err)
		}
		for limit := 1; limit <= len(all)+1; limit++ {
			got, err := AppendLimited([]byte("before"), full, V5, uint32(limit))
			got = bytes.TrimPrefix(got, []byte("before"))
			if limit < len(bare) {
				if CodeOf(err) != PacketTooLarge || len(got) != 0 {
					t.Errorf("%s limited to %d: got % X, %v", before, limit, got, err)
				}
				continue
			}
			if err != nil || len(got) > limit || len(got) == 0 {
				t.Errorf("%s limited to %d: got % X, %v", before, limit, got, err)
				continue
			}
			hasReason, hasUser := bytes.Contains(got, []byte("reason")), bytes.Contains(got, []byte("value"))
			if hasUser != (limit >= len(all)) || hasUser && !hasReason {
				t.Errorf("%s limited to %d of %d: reason %v, user properties %v", before, limit, len(all), hasReason, hasUser)
			}
			if limit == len(all)-1 && !hasReason {
				t.Errorf("%s limited to %d: the reason went before the user properties", before, limit)
			}
		}
		if got, err := AppendLimited(nil, full, V5, 0); err != nil || !bytes.Equal(got, all) {
			t.Errorf("%s without limit: got % X, %v", before, got, err)
		}
		if dump(full) != before {
			t.Errorf("the packet was changed: %s", dump(full))
		}
	}
	p := &Publish{Topic: []byte("t"), UserProperties: u}
	if got, err := AppendLimited(nil, p, V5, 10); CodeOf(err) != PacketTooLarge || len(got) != 0 {
		t.Errorf("PUBLISH: got % X, %v", got, err)
	}
	if WithoutProblemInformation(p) != Packet(p) {
		t.Error("WithoutProblemInformation changed a PUBLISH")
	}
}

func TestCloneSharesNothing(t *testing.T) {
	for _, vec := range loadVectors(t, "v5.txt") {
		p, err := Decode(V5, vec.wire)
		if err != nil {
			t.Fatal(err)
		}
		var clone Packet
		switch p := p.(type) {
		case *Publish:
			clone = p.Clone()
		case *Connect:
			clone = p.Clone()
		default:
			continue
		}
		if !reflect.DeepEqual(clone, p) {
			t.Errorf("%s: the clone differs: %s", vec.name, dump(clone))
		}
		for i := range vec.wire {
			vec.wire[i] = 0xEE
		}
		if got := dump(clone); got != vec.want {
			t.Errorf("%s: the clone changed with the frame:\ngot  %s\nwant %s", vec.name, got, vec.want)
		}
	}
}

// TestAppendingToAliasKeepsFrame appends to what Decode returned: the bytes
// behind it in the frame must not change.
func TestAppendingToAliasKeepsFrame(t *testing.T) {
	wire := parseWire(t, `32 1B "a/b" 00 01 0A 09 00 02 AA BB 03 "ct" 'payload'`)
	wire[1] = byte(len(wire) - 2)
	kept := bytes.Clone(wire)
	var p Publish
	if err := p.Decode(V5, wire); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{p.Topic, p.CorrelationData, p.ContentType, p.Payload} {
		_ = append(b, 0xEE)
	}
	if !bytes.Equal(wire, kept) {
		t.Errorf("got % X, want % X", wire, kept)
	}
}

func TestCheckPayloadFormat(t *testing.T) {
	for _, tt := range []struct {
		format  Optional[uint8]
		payload string
		want    ReasonCode
	}{
		{Some[uint8](1), "é\x00", Success},
		{Some[uint8](1), "", Success},
		{Some[uint8](1), "\xff", PayloadFormatInvalid},
		{Some[uint8](0), "\xff", Success},
		{Optional[uint8]{}, "\xff", Success},
	} {
		p := Publish{PayloadFormatIndicator: tt.format, Payload: []byte(tt.payload)}
		if got := CodeOf(p.CheckPayloadFormat()); got != tt.want {
			t.Errorf("%+v %q: got %s, want %s", tt.format, tt.payload, got, tt.want)
		}
	}
}

func TestRoles(t *testing.T) {
	clientOnly := []Packet{&Connect{}, &Subscribe{}, &Unsubscribe{}, &Pingreq{},
		&Disconnect{ReasonCode: DisconnectWithWillMessage}, &Disconnect{SessionExpiryInterval: Some[uint32](0)},
		&Auth{ReasonCode: ReAuthenticate}}
	serverOnly := []Packet{&Connack{}, &Suback{}, &Unsuback{}, &Pingresp{}, &Publish{SubscriptionIdentifiers: []uint32{1}},
		&Disconnect{ReasonCode: SessionTakenOver}, &Disconnect{ReasonCode: NotAuthorized}, &Disconnect{ServerReference: "s"}, &Auth{}}
	both := []Packet{&Publish{}, &Puback{}, &Pubrec{}, &Pubrel{}, &Pubcomp{}, &Disconnect{},
		&Disconnect{ReasonCode: ProtocolError}, &Disconnect{ReasonCode: AdministrativeAction}, &Auth{ReasonCode: ContinueAuthentication}}
	for _, p := range clientOnly {
		if CheckFromClient(p) != nil || CodeOf(CheckFromServer(p)) != ProtocolError {
			t.Errorf("%s: client %v, server %v", dump(p), CheckFromClient(p), CheckFromServer(p))
		}
	}
	for _, p := range serverOnly {
		if CheckFromServer(p) != nil || CodeOf(CheckFromClient(p)) != ProtocolError {
			t.Errorf("%s: client %v, server %v", dump(p), CheckFromClient(p), CheckFromServer(p))
		}
	}
	for _, p := range both {
		if CheckFromServer(p) != nil || CheckFromClient(p) != nil {
			t.Errorf("%s: client %v, server %v", dump(p), CheckFromClient(p), CheckFromServer(p))
		}
	}
}

func TestValidText(t *testing.T) {
	for s, want := range map[string]bool{
		"": true, "é\u0001\ufeff\ufffe\U0010ffff": true, strings.Repeat("x", 65535): true,
		"a\x00b": false, "\xed\xbf\xbf": false, "\xf8\x88\x80\x80\x80": false, "\xe2\x82": false, strings.Repeat("x", 65536): false,
	} {
		if got := ValidText([]byte(s)); got != want {
			t.Errorf("ValidText(%.20q): got %v", s, got)
		}
	}
}

func TestShare(t *testing.T) {
	p := Publish{Dup: true, QoS: QoS1, PacketID: 77, Topic: []byte("a/b"), Payload: []byte("payload"),
		MessageExpiryInterval: Some[uint32](500), PayloadFormatIndicator: Some[uint8](1),
		SubscriptionIdentifiers: []uint32{200}, UserProperties: []UserProperty{{Name: []byte("k"), Value: bytes.Repeat([]byte("v"), 200)}}}
	for _, v := range []Version{V311, V5} {
		for _, qos := range []QoS{QoS0, QoS1, QoS2} {
			for _, expires := range []bool{true, false} {
				p.QoS, p.MessageExpiryInterval.Set = qos, expires
				s, err := Share(v, &p)
				if err != nil {
					t.Fatal(err)
				}
				if ttl, ok := s.MessageExpiryInterval(); ok != (expires && v == V5) || ok && ttl != 500 {
					t.Errorf("MessageExpiryInterval: got %d %v", ttl, ok)
				}
				for _, dup := range []bool{false, true} {
					want := p
					want.Dup, want.PacketID, want.MessageExpiryInterval.Value = dup && qos > 0, 0x1234, 99
					if qos == 0 {
						want.PacketID = 0
					}
					wire, err := want.AppendTo([]byte("x"), v)
					if err != nil {
						t.Fatal(err)
					}
					if got := s.AppendTo([]byte("x"), 0x1234, dup, 99); !bytes.Equal(got, wire) {
						t.Errorf("%s QoS %d expires %v dup %v:\ngot  % X\nwant % X", v, qos, expires, dup, got, wire)
					}
					head := s.AppendHead(nil, 0x1234, dup, 99)
					if got := slices.Concat([]byte("x"), head, s.Payload()); !bytes.Equal(got, wire) || len(head) != s.Head() || s.Len() != len(wire)-1 || s.QoS() != qos {
						t.Errorf("%s QoS %d: head and payload % X, want % X", v, qos, got, wire)
					}
				}
			}
		}
	}
	if !p.Dup || p.PacketID != 77 {
		t.Error("Share changed the packet")
	}
	if _, err := Share(V5, &Publish{Topic: []byte("#")}); CodeOf(err) != TopicNameInvalid {
		t.Errorf("Share of a wildcard: got %v", err)
	}
}
