package packet

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// reasonTable is table 2-6 of MQTT 5: which packets a code is for. 0x00 to
// 0x02 are named per packet there.
const reasonTable = `
00 CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH
01 SUBACK
02 SUBACK
04 DISCONNECT
10 PUBACK PUBREC
11 UNSUBACK
18 AUTH
19 AUTH
80 CONNACK PUBACK PUBREC SUBACK UNSUBACK DISCONNECT
81 CONNACK DISCONNECT
82 CONNACK DISCONNECT
83 CONNACK PUBACK PUBREC SUBACK UNSUBACK DISCONNECT
84 CONNACK
85 CONNACK
86 CONNACK
87 CONNACK PUBACK PUBREC SUBACK UNSUBACK DISCONNECT
88 CONNACK
89 CONNACK DISCONNECT
8A CONNACK
8B DISCONNECT
8C CONNACK DISCONNECT
8D DISCONNECT
8E DISCONNECT
8F SUBACK UNSUBACK DISCONNECT
90 CONNACK PUBACK PUBREC DISCONNECT
91 PUBACK PUBREC SUBACK UNSUBACK
92 PUBREL PUBCOMP
93 DISCONNECT
94 DISCONNECT
95 CONNACK DISCONNECT
96 DISCONNECT
97 CONNACK PUBACK PUBREC SUBACK DISCONNECT
98 DISCONNECT
99 CONNACK PUBACK PUBREC DISCONNECT
9A CONNACK DISCONNECT
9B CONNACK DISCONNECT
9C CONNACK DISCONNECT
9D CONNACK DISCONNECT
9E SUBACK DISCONNECT
9F CONNACK DISCONNECT
A0 DISCONNECT
A1 SUBACK DISCONNECT
A2 SUBACK DISCONNECT
`

func TestReasonCodesPerPacket(t *testing.T) {
	want := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(reasonTable), "\n") {
		fields := strings.Fields(line)
		for _, typ := range fields[1:] {
			want[fields[0]+" "+typ] = true
		}
		want[fields[0]] = true
	}
	for c := range 256 {
		code := ReasonCode(c)
		for typ := Type(0); typ < 16; typ++ {
			if got := typ.allows(code); got != want[fmt.Sprintf("%02X %s", c, typ)] {
				t.Errorf("%s with 0x%02X: got %v", typ, c, got)
			}
		}
		if named := code.name() != ""; named != want[fmt.Sprintf("%02X", c)] {
			t.Errorf("0x%02X is called %q", c, code)
		}
		if code.String() == "" || code.Failed() != (c >= 0x80) {
			t.Errorf("0x%02X: %q, failed %v", c, code, code.Failed())
		}
	}
}

func TestReturnCodes(t *testing.T) {
	for code, want := range map[ReasonCode]byte{
		Success: 0, UnsupportedProtocolVersion: 1, ClientIdentifierNotValid: 2,
		ServerUnavailable: 3, ServerBusy: 3, QuotaExceeded: 3, ConnectionRateExceeded: 3, UnspecifiedError: 3,
		ImplementationSpecificError: 3, UseAnotherServer: 3, ServerMoved: 3, ServerShuttingDown: 3,
		BadUserNameOrPassword: 4, NotAuthorized: 5, Banned: 5, BadAuthenticationMethod: 5, QoSNotSupported: 5,
		RetainNotSupported: 5, TopicNameInvalid: 5, PayloadFormatInvalid: 5,
		MalformedPacket: NoReturnCode, ProtocolError: NoReturnCode, PacketTooLarge: NoReturnCode, SessionTakenOver: NoReturnCode,
	} {
		if got := ConnackReturnCode(code); got != want {
			t.Errorf("ConnackReturnCode(%s): got %d, want %d", code, got, want)
		}
	}
	for code := range 256 {
		c := byte(code)
		if reason, ok := connackReason(c); ok != (c <= 5) || ok && ConnackReturnCode(reason) != c {
			t.Errorf("return code %d became %s and %d", c, reason, ConnackReturnCode(reason))
		}
		want := c
		if c >= 0x80 {
			want = 0x80
		}
		if got := SubackReturnCode(ReasonCode(c)); got != want {
			t.Errorf("SubackReturnCode(0x%02X): got 0x%02X, want 0x%02X", c, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	e := malformed("MQTT-3.1.2-3", "a bit")
	if got, want := e.Error(), "Malformed Packet: a bit [MQTT-3.1.2-3]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, tt := range []struct {
		err  error
		want ReasonCode
	}{
		{nil, Success},
		{e, MalformedPacket},
		{fmt.Errorf("read: %w", e), MalformedPacket},
		{errors.New("x"), UnspecifiedError},
	} {
		if got := CodeOf(tt.err); got != tt.want {
			t.Errorf("CodeOf(%v): got %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestNames(t *testing.T) {
	if got := []string{V311.String(), V5.String(), Version(3).String(), Type(0).String(), UNSUBACK.String(), ReasonCode(0x55).String()}; strings.Join(got, ",") != "3.1.1,5.0,0x03,reserved type 0,UNSUBACK,reason code 0x55" {
		t.Errorf("got %q", got)
	}
}
