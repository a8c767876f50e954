package packet

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// vector is one entry of a file in testdata.
type vector struct {
	name  string
	wire  []byte
	canon []byte // what encoding yields; wire if the file doesn't say
	want  string
	fail  string
}

func loadVectors(t testing.TB, file string) []vector {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var out []vector
	for i, line := range strings.Split(string(text), "\n") {
		key, value, _ := strings.Cut(line, ": ")
		last := len(out) - 1
		switch {
		case line == "" || line[0] == '#':
		case key == "wire":
			out[last].wire = parseWire(t, value)
			out[last].canon = out[last].wire
		case key == "canon":
			out[last].canon = parseWire(t, value)
		case key == "want":
			out[last].want = value
		case key == "fail":
			out[last].fail = value
		default:
			out = append(out, vector{name: fmt.Sprintf("%s:%d %s", file, i+1, line)})
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s has no vectors", file)
	}
	return out
}

// parseWire turns the notation of the files into bytes.
func parseWire(t testing.TB, s string) (out []byte) {
	t.Helper()
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimLeft(s, " ") {
		if q := s[0]; q == '"' || q == '\'' {
			text, rest, _ := strings.Cut(s[1:], string(q))
			if q == '"' {
				out = append(out, byte(len(text)>>8), byte(len(text)))
			}
			out, s = append(out, text...), rest
			continue
		}
		token, rest, _ := strings.Cut(s, " ")
		b, err := hex.DecodeString(token)
		if err != nil {
			t.Fatalf("%q: %v", token, err)
		}
		out, s = append(out, b...), rest
	}
	return out
}

// dump renders a packet the way the vectors' want lines do: the fields that
// are not zero, in the struct's order.
func dump(p Packet) string {
	return strings.TrimSpace(p.Type().String() + " " + dumpFields(reflect.ValueOf(p).Elem()))
}

func dumpFields(s reflect.Value) string {
	var parts []string
	for i := range s.NumField() {
		f, name := s.Field(i), s.Type().Field(i).Name
		if f.IsZero() || f.Kind() == reflect.Slice && f.Len() == 0 && f.Type().Elem().Kind() != reflect.Uint8 {
			continue
		}
		if f.Kind() == reflect.Bool {
			parts = append(parts, name)
			continue
		}
		if f.Kind() == reflect.Struct { // Optional
			f = f.FieldByName("Value")
		}
		parts = append(parts, name+"="+dumpValue(f))
	}
	return strings.Join(parts, " ")
}

func dumpValue(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []byte:
		return strconv.Quote(string(x))
	case string:
		return strconv.Quote(x)
	case ReasonCode:
		return fmt.Sprintf("0x%02X", uint8(x))
	case Version:
		return strconv.Itoa(int(x))
	case UserProperty:
		return fmt.Sprintf("%q=%q", x.Name, x.Value)
	}
	switch v.Kind() {
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = dumpValue(v.Index(i))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case reflect.Pointer:
		return dumpValue(v.Elem())
	case reflect.Struct:
		return "{" + dumpFields(v) + "}"
	}
	return fmt.Sprint(v.Interface())
}

var versions = []struct {
	v    Version
	file string
}{{V5, "v5.txt"}, {V311, "v311.txt"}}

func TestVectors(t *testing.T) {
	for _, tt := range versions {
		for _, vec := range loadVectors(t, tt.file) {
			t.Run(vec.name, func(t *testing.T) {
				p, err := Decode(tt.v, vec.wire)
				if err != nil {
					t.Fatalf("% X: %v", vec.wire, err)
				}
				if got := dump(p); got != vec.want {
					t.Errorf("% X\ngot  %s\nwant %s", vec.wire, got, vec.want)
				}
				got, err := p.AppendTo([]byte("before"), tt.v)
				if err != nil || !bytes.Equal(got, append([]byte("before"), vec.canon...)) {
					t.Errorf("encoded: %v\ngot  % X\nwant % X", err, got, vec.canon)
				}
			})
		}
	}
}

// TestVectorsIntoUsedStruct decodes every packet into a struct that another
// packet of the type was decoded into before: nothing of that may be left.
func TestVectorsIntoUsedStruct(t *testing.T) {
	for _, tt := range versions {
		used := map[Type]Packet{}
		for range 2 { // so that the first ones meet the last ones
			for _, vec := range loadVectors(t, tt.file) {
				p := used[TypeOf(vec.wire[0])]
				if p == nil {
					p = newPacket(TypeOf(vec.wire[0]))
					used[p.Type()] = p
				}
				if err := p.Decode(tt.v, vec.wire); err != nil || dump(p) != vec.want {
					t.Errorf("%s: %v\ngot  %s\nwant %s", vec.name, err, dump(p), vec.want)
				}
			}
		}
	}
}

func TestMalformedVectors(t *testing.T) {
	for _, tt := range []struct {
		v    Version
		file string
	}{{V5, "malformed_v5.txt"}, {V311, "malformed_v311.txt"}} {
		for _, vec := range loadVectors(t, tt.file) {
			t.Run(vec.name, func(t *testing.T) {
				p, err := Decode(tt.v, vec.wire)
				e, ok := err.(*Error)
				if !ok {
					t.Fatalf("% X: got %v and error %v, want an *Error", vec.wire, p, err)
				}
				if got := fmt.Sprintf("0x%02X %s", uint8(e.Code), e.Clause); got != vec.fail {
					t.Errorf("% X\ngot  %s (%s)\nwant %s", vec.wire, got, e.Message, vec.fail)
				}
				if _, isConnect := p.(*Connect); p != nil && !isConnect {
					t.Errorf("got a packet with the error: %v", p)
				}
			})
		}
	}
}

// TestTruncation shortens every packet by every number of bytes, once with a
// Remaining Length that still says more and once with one that fits. The
// first must always fail; the second must not panic, and what it accepts must
// be encodable.
func TestTruncation(t *testing.T) {
	for _, tt := range versions {
		for _, vec := range loadVectors(t, tt.file) {
			for n := range len(vec.wire) {
				if _, err := Decode(tt.v, vec.wire[:n]); err == nil {
					t.Errorf("%s: accepted with %d bytes of %d", vec.name, n, len(vec.wire))
				}
				if n < 2 || vec.wire[1] >= 0x80 {
					continue
				}
				short := bytes.Clone(vec.wire[:n])
				short[1] = byte(n - 2)
				if p, err := Decode(tt.v, short); err == nil {
					if _, err := p.AppendTo(nil, tt.v); err != nil {
						t.Errorf("%s: % X decodes to %s but does not encode: %v", vec.name, short, dump(p), err)
					}
				}
			}
		}
	}
}

func TestConnectVersionOfRefusedConnect(t *testing.T) {
	for _, tt := range []struct {
		wire    string
		version Version
		dialect Version
	}{
		{`10 0D "MQIsdp" 03 02 00 00 ""`, 3, V311},
		{`10 0B "MQTT" 03 02 00 00 ""`, 3, V311},
		{`10 0B "MQTT" 00 02 00 00 ""`, 0, V311},
		{`10 0B "MQTT" 84 02 00 00 ""`, 0x84, V311},
		{`10 0B "MQTT" 06 02 00 00 ""`, 6, V5},
		{`10 0B "MQTT" 7F 02 00 00 ""`, 0x7F, V5},
		{`10 0B "MQTX" 05 02 00 00 ""`, 0, V311},
		{`10 04 00 08 4D 51`, 0, V311},
		{`10 0B "MQTT" 05 01 00 00 ""`, V5, V5},
	} {
		wire := parseWire(t, tt.wire)
		wire[1] = byte(len(wire) - 2)
		p, err := Decode(0, wire)
		c, ok := p.(*Connect)
		if err == nil || !ok || c.Version != tt.version || c.Version.Dialect() != tt.dialect {
			t.Errorf("%s: got %+v, %v, want version %v and dialect %v", tt.wire, p, err, tt.version, tt.dialect)
		}
	}
}
