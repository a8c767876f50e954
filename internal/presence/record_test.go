package presence

import (
	"reflect"
	"testing"
	"time"

	"rollcall/internal/disconnect"
)

// FuzzDecode: no bytes make a decoder panic, and what decodes encodes to
// something that decodes to the same.
func FuzzDecode(f *testing.F) {
	tr := Transition{Time: time.Unix(1, 100), EventID: "id", Owner: "o", Origin: Origin{"MQTT 5.0", "tcp", "r", "m"},
		Holder: Incarnation{"n", 7}, Reason: disconnect.ClientError,
		Evidence: disconnect.Evidence{Kind: disconnect.Packet, Packet: "PUBLISH", Code: 0x9B, HasCode: true, Detail: "d"}}
	f.Add(tr.encode())
	st := State{Number: 3, Kind: Connected, Since: time.Unix(2, 0), EventID: "x"}
	f.Add(st.encode())
	f.Add(mark{time.Unix(3, 0), "s", 4, Disconnected, 99}.encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		var tr, tr2 Transition
		if tr.decode(p) == nil {
			if err := tr2.decode(tr.encode()); err != nil || !reflect.DeepEqual(tr, tr2) {
				t.Errorf("transition %+v became %+v, %v", tr, tr2, err)
			}
		}
		var st, st2 State
		if st.decode(p) == nil {
			if err := st2.decode(st.encode()); err != nil || !reflect.DeepEqual(st, st2) {
				t.Errorf("state %+v became %+v, %v", st, st2, err)
			}
		}
		var m, m2 mark
		if m.decode(p) == nil {
			if err := m2.decode(m.encode()); err != nil || m != m2 {
				t.Errorf("mark %+v became %+v, %v", m, m2, err)
			}
		}
	})
}
