package stored

import (
	"encoding/binary"
	"math"
	"time"

	"rollcall/internal/store"
)

// NeverExpires is the Session Expiry Interval of a session that does not
// expire, section 3.1.2.11.2.
const NeverExpires = math.MaxUint32

// Session is session state as it is stored.
type Session struct {
	Realm string
	Name  string
	Owner string // authentication name of the client whose it is
	// Epoch is the number of the Connected that made the state.
	Epoch uint64
	// Expiry is the Session Expiry Interval in seconds, or NeverExpires.
	Expiry uint32
	// Offline is when the network connection ended; zero while there is one,
	// and after a crash until somebody closes the session.
	Offline time.Time
}

// Key names the state.
func (s *Session) Key() SessionKey { return SessionKey{s.Realm, s.Name, s.Epoch} }

// ExpiresAt returns when the state expires, or false if it does not as things
// stand.
func (s *Session) ExpiresAt() (time.Time, bool) {
	if s.Offline.IsZero() || s.Expiry == NeverExpires {
		return time.Time{}, false
	}
	return s.Offline.Add(time.Duration(s.Expiry) * time.Second), true
}

// StageSession adds to b, a batch in the partition of the session's name, that
// the state is now s. Old is what is stored of the same epoch, or nil.
func (st *Store) StageSession(b *store.Batch, old *Session, s *Session) {
	p := st.Partition(s.Realm, s.Name)
	st.unstageDue(b, p, old)
	if at, ok := s.ExpiresAt(); ok {
		st.stageDue(b, p, at, SessionExpired, s.Realm, s.Name, s.Epoch)
	}
	b.Put(nameKey(nil, p, store.TableSessionState, s.Realm, s.Name), s.append(nil))
}

// StageEnd adds to b, a batch in the partition of the session's name, that the
// state s, as it is stored, exists no more. Its subscriptions, inbound packet
// identifiers and queue are out of reach with it, and deleted once the grace
// period has passed. A Will stays.
func (st *Store) StageEnd(b *store.Batch, s *Session) {
	p := st.Partition(s.Realm, s.Name)
	st.unstageDue(b, p, s)
	b.Delete(nameKey(nil, p, store.TableSessionState, s.Realm, s.Name))
	b.PutSequenced(garbagePrefix(p), tombstone{s.Key(), st.clock.Steady()}.append(nil))
}

func (st *Store) unstageDue(b *store.Batch, p uint8, s *Session) {
	if s == nil {
		return
	}
	if at, ok := s.ExpiresAt(); ok {
		b.Delete(dueKey(nil, p, at, SessionExpired, s.Realm, s.Name))
	}
}

// Session reads one session's state; it returns false if there is none.
func (st *Store) Session(realm, name string) (Session, bool, error) {
	s := Session{Realm: realm, Name: name}
	value, err := st.read(nameKey(nil, st.Partition(realm, name), store.TableSessionState, realm, name))
	if value == nil || err != nil {
		return s, false, err
	}
	return s, true, s.decode(value)
}

func (s *Session) append(dst []byte) []byte {
	dst = appendText(append(dst, recordVersion), s.Owner)
	dst = binary.AppendUvarint(dst, s.Epoch)
	dst = binary.AppendUvarint(dst, uint64(s.Expiry))
	return appendTime(dst, s.Offline)
}

// decode fills what append wrote; realm and name come from the key.
func (s *Session) decode(value []byte) error {
	d, err := decode(value, "session state")
	if err != nil {
		return err
	}
	if owner := d.bytes(); string(owner) == s.Name {
		s.Owner = s.Name // one string where a client has one session
	} else {
		s.Owner = string(owner)
	}
	s.Epoch = d.uint()
	s.Expiry = uint32(d.uintMax(math.MaxUint32))
	s.Offline = d.time()
	return d.end("session state")
}
