package delivery

import (
	"encoding/binary"
	"testing"
)

// Records that version 1 wrote are read, and what they lack is as if unknown.
func TestRecordsOfVersion1(t *testing.T) {
	value := []byte{1, byte(Busy), byte(TimeToLiveExceeded), 7}
	value = binary.AppendVarint(value, 11)
	value = binary.AppendVarint(value, 13)
	want := retryRecord{due: 5, shelf: dying, attempts: 7, outcome: Busy, last: 11, reason: TimeToLiveExceeded, since: 13}
	if got, err := decodeRetry(dying, 5, value); err != nil || got != want {
		t.Errorf("retry record: got %+v, %v, want %+v", got, err, want)
	}
	want.accepted = 17
	if got, err := decodeRetry(dying, 5, want.append(nil)); err != nil || got != want {
		t.Errorf("retry record as written now: got %+v, %v, want %+v", got, err, want)
	}

	value = []byte{1}
	for _, n := range []uint64{3, 5, 7} {
		value = binary.BigEndian.AppendUint64(value, n)
	}
	c := cursorRecord{position: 3, low: [shelves]int64{5, 7}, counted: 3}
	if got, err := decodeCursor(value); err != nil || got != c {
		t.Errorf("cursor: got %+v, %v, want %+v", got, err, c)
	}
	c.counted, c.beyond = 9, 2
	if got, err := decodeCursor(c.append(nil)); err != nil || got != c {
		t.Errorf("cursor as written now: got %+v, %v, want %+v", got, err, c)
	}
	for n := range c.append(nil) {
		if _, err := decodeCursor(c.append(nil)[:n]); err == nil {
			t.Errorf("%d bytes of a cursor are read as one", n)
		}
	}
}
