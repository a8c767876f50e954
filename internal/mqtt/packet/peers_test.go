package packet

import (
	"bytes"
	"strings"
	"testing"

	paho5 "github.com/eclipse/paho.golang/packets"
	paho3 "github.com/eclipse/paho.mqtt.golang/packets"
)

// TestPeers lets the codecs of the Eclipse clients read our vectors and write
// them again: what they make of them must mean the same to us.
func TestPeers(t *testing.T) {
	recode := map[Version]func([]byte) ([]byte, error){
		V5: func(wire []byte) ([]byte, error) {
			p, err := paho5.ReadPacket(bytes.NewReader(wire))
			if err != nil {
				return nil, err
			}
			var out bytes.Buffer
			_, err = p.WriteTo(&out)
			return out.Bytes(), err
		},
		V311: func(wire []byte) ([]byte, error) {
			p, err := paho3.ReadPacket(bytes.NewReader(wire))
			if err != nil {
				return nil, err
			}
			var out bytes.Buffer
			err = p.Write(&out)
			return out.Bytes(), err
		},
	}
	// What the peers are known not to keep.
	known := map[string]string{
		"CONNECT, Will with all properties":     "drops most Will properties",
		"PUBLISH, all properties":               "keeps one Subscription Identifier",
		"PUBLISH, empty but present properties": "drops empty properties",
		"DISCONNECT, Remaining Length 0":        "does not read the short form",
		"AUTH, all properties":                  "drops empty properties",
	}
	for _, tt := range versions {
		for _, vec := range loadVectors(t, tt.file) {
			t.Run(vec.name, func(t *testing.T) {
				_, name, _ := strings.Cut(vec.name, " ")
				why := known[name]
				wire, err := recode[tt.v](vec.wire)
				if err != nil {
					if why == "" {
						t.Fatalf("% X: the peer says %v", vec.wire, err)
					}
					return
				}
				p, err := Decode(tt.v, wire)
				if err != nil {
					t.Fatalf("the peer made % X of % X: %v", wire, vec.wire, err)
				}
				if got := dump(p); (got != vec.want) != (why != "") {
					t.Errorf("the peer made % X of % X\ngot  %s\nwant %s\nknown: %q", wire, vec.wire, got, vec.want, why)
				}
			})
		}
	}
}
