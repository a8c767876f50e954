package stored

import (
	"encoding/binary"
	"math"
	"time"

	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
)

// Will is a Will message that has not been published yet, section 3.1.2.5.
type Will struct {
	Message *session.Message
	Delay   uint32    // Will Delay Interval, seconds
	DueAt   time.Time // when to publish it; zero while the client is connected
}

// StageWill adds to b, a batch in the partition of the session's name, that its
// Will is now w, nil meaning none. Old is what is stored, nil for none. It
// returns an error, and has added nothing, if the message cannot be encoded.
func (st *Store) StageWill(b *store.Batch, realm, name string, old, w *Will) error {
	p := st.Partition(realm, name)
	var value []byte
	if w != nil {
		var err error
		if value, err = w.append(nil); err != nil {
			return err
		}
	}
	if old != nil && !old.DueAt.IsZero() {
		b.Delete(dueKey(nil, p, old.DueAt, WillDelayed, realm, name))
	}
	key := nameKey(nil, p, store.TableWill, realm, name)
	switch {
	case w != nil:
		b.Put(key, value)
		if !w.DueAt.IsZero() {
			st.stageDue(b, p, w.DueAt, WillDelayed, realm, name, 0)
		}
	case old != nil:
		b.Delete(key)
	}
	return nil
}

// Will reads the Will of a session, nil if there is none that can be read.
func (st *Store) Will(realm, name string) (*Will, error) {
	key := nameKey(nil, st.Partition(realm, name), store.TableWill, realm, name)
	value, err := st.read(key)
	if value == nil || err != nil {
		return nil, err
	}
	w := new(Will)
	if err := w.decode(value); err != nil {
		st.setAside.Add(key, err)
		return nil, nil
	}
	return w, nil
}

func (w *Will) append(dst []byte) ([]byte, error) {
	dst = binary.AppendUvarint(append(dst, recordVersion), uint64(w.Delay))
	dst = appendTime(dst, w.DueAt)
	return appendMessage(dst, w.Message)
}

// decode keeps value.
func (w *Will) decode(value []byte) error {
	d, err := decode(value, "Will")
	if err != nil {
		return err
	}
	w.Delay = uint32(d.uintMax(math.MaxUint32))
	w.DueAt = d.time()
	if err := d.err("Will"); err != nil {
		return err
	}
	w.Message, err = decodeMessage(d.buf)
	return err
}
