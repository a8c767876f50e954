package packet

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

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
		{&Connect{Will: &Will{Topic: []byte("w/#")}}, V5, MalformedPacket},
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
		{&Publish{Topic: []byte("a/+")}, V5, MalformedPacket},
		{&Subscribe{PacketID: 1, Subscriptions: []Subscription{{}}}, V5, MalformedPacket},
		{&Unsubscribe{PacketID: 1, Filters: []string{"a", ""}}, V311, MalformedPacket},
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

func TestAppendLimitedConnack(t *testing.T) {
	full := &Connack{ReceiveMaximum: 100, TopicAliasMaximum: 4, RetainAvailable: Some(true), WildcardSubscriptionAvailable: Some(true),
		SubscriptionIdentifiersAvailable: Some(false), SharedSubscriptionAvailable: Some(true)}
	const said, needed = "20 11 00 00 0E 21 00 64 25 01 22 00 04 28 01 29 00 2A 01", "20 0B 00 00 08 21 00 64 22 00 04 29 00"
	for limit, want := range map[uint32]string{0: said, 19: said, 18: needed, 13: needed, 12: ""} {
		got, err := AppendLimited(nil, full, V5, limit)
		if fmt.Sprintf("% X", got) != want || (err != nil) != (want == "") {
			t.Errorf("limited to %d: % X, %v, want %s", limit, got, err, want)
		}
	}
	if !full.RetainAvailable.Set {
		t.Error("the packet changed")
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
