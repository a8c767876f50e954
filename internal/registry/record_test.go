package registry

import (
	"reflect"
	"testing"
	"time"
)

func sample() *clientRecord {
	return &clientRecord{
		Client: Client{
			Name: "c", AuthenticationName: "C", Description: "d", State: Disabled, ValidationScheme: ThumbprintMatch,
			AllowedThumbprints: []string{"a", "b"}, ProvisioningState: Succeeded, HasPassword: true,
			Attributes: map[string]any{"s": "x", "n": int64(-7), "t": true, "f": false, "l": []string{"a", ""}, "e": []string{}},
			CreatedOn:  time.Unix(1, 100).UTC(), UpdatedOn: time.Unix(2, 200).UTC(),
		},
		hash: "h", birth: "b", mark: "m",
	}
}

func TestRecordsReadBack(t *testing.T) {
	rec := sample()
	got, err := decodeClient("c", rec.encode())
	if err != nil || !reflect.DeepEqual(got, rec) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, rec)
	}
	o := &owedRecord{Deleted, rec.Client}
	o.client.HasPassword = false // an event does not tell
	back, err := decodeOwed("c", o.encode())
	if err != nil || !reflect.DeepEqual(back, o) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, back, o)
	}
	ca := &caRecord{CA: CA{Name: "ca1", Description: "d", EncodedCertificate: newIssuer(t, nil, "x").pem(), CreatedOn: time.Unix(1, 0).UTC(), UpdatedOn: time.Unix(2, 0).UTC()}, mark: "m"}
	if err := ca.parse(); err != nil {
		t.Fatal(err)
	}
	gotCA, err := decodeCA(ca.encode())
	if err != nil || !reflect.DeepEqual(gotCA, ca) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, gotCA, ca)
	}
}

// What version 1 wrote can be read for good.
func TestRecordVersion1(t *testing.T) {
	value := "\x01\x03Dev\x01d\x07Enabled\x0fThumbprintMatch\x01\x02ab\x02\x01l\x05\x01\x01x\x01n\x02\x0e" +
		"\x00\x00\x00\x00\x3b\x9a\xca\x00\x00\x00\x00\x00\x77\x35\x94\x00\x00\x01b\x01m"
	got, err := decodeClient("dev", []byte(value))
	want := &clientRecord{Client: Client{
		Name: "dev", AuthenticationName: "Dev", Description: "d", State: Enabled, ValidationScheme: ThumbprintMatch,
		AllowedThumbprints: []string{"ab"}, Attributes: map[string]any{"l": []string{"x"}, "n": int64(7)},
		CreatedOn: time.Unix(1, 0).UTC(), UpdatedOn: time.Unix(2, 0).UTC(), ProvisioningState: Succeeded,
	}, birth: "b", mark: "m"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
	if again := got.encode(); string(again) != value {
		t.Errorf("written again it is %q", again)
	}
}

func TestTruncatedRecords(t *testing.T) {
	rec := sample()
	o := owedRecord{Upserted, rec.Client}
	client, owed := rec.encode(), o.encode()
	for n := range client {
		if _, err := decodeClient("c", client[:n]); err == nil {
			t.Errorf("a client of %d of %d bytes is accepted", n, len(client))
		}
	}
	for n := range owed {
		if _, err := decodeOwed("c", owed[:n]); err == nil {
			t.Errorf("an owed event of %d of %d bytes is accepted", n, len(owed))
		}
	}
	for _, v := range [][]byte{append(client[:len(client):len(client)], 0), append([]byte{2}, client[1:]...)} {
		if _, err := decodeClient("c", v); err == nil {
			t.Errorf("%q is accepted", v)
		}
	}
}

func FuzzDecodeClient(f *testing.F) {
	f.Add(sample().encode())
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, value []byte) {
		rec, err := decodeClient("c", value)
		if err == nil {
			again, err := decodeClient("c", rec.encode())
			if err != nil || !reflect.DeepEqual(again, rec) {
				t.Fatalf("%q reads as %+v and then as %+v, %v", value, rec, again, err)
			}
			_ = newEntry(rec, 1)
		}
		if o, err := decodeOwed("c", value); err == nil {
			again, err := decodeOwed("c", o.encode())
			if err != nil || !reflect.DeepEqual(again, o) {
				t.Fatalf("%q reads as %+v and then as %+v, %v", value, o, again, err)
			}
		}
		if ca, err := decodeCA(value); err == nil && ca.cert == nil {
			t.Fatalf("%q is a CA without certificate", value)
		}
	})
}

// Whatever is written either is refused or reads back as it was accepted.
func FuzzNormalize(f *testing.F) {
	f.Add("dev", "Dev", "Enabled", "ThumbprintMatch", "ab", "key", "value", int64(5))
	f.Add("10.0.0.1", "::1", "", "", "", "a_b", "\xff", int64(-1))
	f.Fuzz(func(t *testing.T, name, authName, state, scheme, thumb, key, value string, n int64) {
		s := ClientSpec{
			AuthenticationName: authName, State: state, ValidationScheme: scheme,
			Attributes: map[string]any{key: value, key + "n": n, key + "l": []any{value}},
		}
		if thumb != "" {
			s.AllowedThumbprints = []string{thumb}
		}
		c, err := s.normalize(name, true)
		if err != nil {
			return
		}
		rec := &clientRecord{Client: c}
		if err := rec.inherit(nil); err != nil {
			t.Fatal(err)
		}
		rec.CreatedOn, rec.UpdatedOn = time.Unix(1, 0).UTC(), time.Unix(1, 0).UTC()
		got, err := decodeClient(name, rec.encode())
		if err != nil || !reflect.DeepEqual(got, rec) {
			t.Fatalf("%v\ngot  %+v\nwant %+v", err, got, rec)
		}
		v := newView()
		v.set(newEntry(rec, 1))
		if v.byName(rec.AuthenticationName) == nil {
			t.Fatalf("%q is not found by its name", rec.AuthenticationName)
		}
		v.remove(name)
		if v.names.Len()+v.addresses.Len()+v.clients.Len() != 0 {
			t.Fatal("something stays behind")
		}
	})
}
