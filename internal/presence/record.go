package presence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"rollcall/internal/disconnect"
	"rollcall/internal/store"
)

// Kind is the kind of a transition.
type Kind uint8

// The two transitions of a session.
const (
	Connected    Kind = 1
	Disconnected Kind = 2
)

// String returns "connected" or "disconnected".
func (k Kind) String() string {
	switch k {
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Incarnation is one run of one node: what can hold a session, and what a
// crash ends.
type Incarnation struct {
	Node string
	Boot uint64 // rises by one with every start of the node
}

// Origin says how a connection came in.
type Origin struct {
	Protocol  string // "MQTT 3.1.1", "MQTT 5.0"
	Transport string // "tcp", "tls", "ws", "wss"
	Remote    string // address of the peer
	Method    string // how the client proved who it is
}

// Transition is one entry of the ledger.
type Transition struct {
	Realm    string
	Session  string
	Number   uint64 // shared by a Connected and its Disconnected
	Kind     Kind
	Time     time.Time // UTC, to 100 ns; strictly rising within a session
	EventID  string    // id of the event that tells of it
	Owner    string    // authentication name
	Origin   Origin    // of the connection that came or went
	Reason   disconnect.Reason
	Evidence disconnect.Evidence
	Holder   Incarnation // who held the session
	// Skipped is how many numbers were passed over before this one, because a
	// part of the store was lost and they may have been given out. The
	// transitions that had them are lost too: only where it is not 0 may a
	// session's transitions not alternate, or a Disconnected be without its
	// Connected.
	Skipped uint64

	stage Stage // adds to the transition's batch; nil: nothing
}

// State is where a session name stands after its newest transition.
type State struct {
	Realm   string
	Session string
	Number  uint64
	Kind    Kind
	Since   time.Time // of the newest transition
	Owner   string
	Origin  Origin
	Holder  Incarnation
	EventID string
	// Reason and Evidence of the newest Disconnected there was, also while the
	// session is connected again.
	Reason   disconnect.Reason
	Evidence disconnect.Evidence
}

// Open reports whether the session is connected.
func (s State) Open() bool { return s.Kind == Connected }

// recordVersion begins every stored record of this package, but for a
// transition with Skipped, which has a version of its own.
const (
	recordVersion  = 1
	skippedVersion = 2
)

var errRecord = errors.New("presence: malformed record")

// encoder appends fields; decoder takes them off in the same order.
type encoder struct{ buf []byte }

func (e *encoder) byte(v byte)   { e.buf = append(e.buf, v) }
func (e *encoder) uint(v uint64) { e.buf = binary.AppendUvarint(e.buf, v) }
func (e *encoder) str(s string)  { e.uint(uint64(len(s))); e.buf = append(e.buf, s...) }
func (e *encoder) time(t time.Time) {
	e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(t.UnixNano()))
}

func (e *encoder) origin(o Origin) {
	e.str(o.Protocol)
	e.str(o.Transport)
	e.str(o.Remote)
	e.str(o.Method)
}

func (e *encoder) cause(r disconnect.Reason, v disconnect.Evidence) {
	e.byte(byte(r))
	if r == 0 {
		return
	}
	e.byte(byte(v.Kind))
	e.str(v.Packet)
	e.byte(v.Code)
	if v.HasCode {
		e.byte(1)
	} else {
		e.byte(0)
	}
	e.str(v.Detail)
}

type decoder struct {
	buf []byte
	bad bool
}

func (d *decoder) byte() byte {
	if len(d.buf) < 1 {
		d.bad = true
		return 0
	}
	v := d.buf[0]
	d.buf = d.buf[1:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.bad = true
		d.buf = nil
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) str() string {
	n := d.uint()
	if uint64(len(d.buf)) < n {
		d.bad = true
		return ""
	}
	s := string(d.buf[:n])
	d.buf = d.buf[n:]
	return s
}

func (d *decoder) time() time.Time {
	if len(d.buf) < 8 {
		d.bad = true
		return time.Time{}
	}
	v := int64(binary.BigEndian.Uint64(d.buf))
	d.buf = d.buf[8:]
	return time.Unix(0, v).UTC()
}

func (d *decoder) origin() Origin {
	return Origin{Protocol: d.str(), Transport: d.str(), Remote: d.str(), Method: d.str()}
}

func (d *decoder) cause() (r disconnect.Reason, v disconnect.Evidence) {
	if r = disconnect.Reason(d.byte()); r == 0 {
		return
	}
	v.Kind = disconnect.Kind(d.byte())
	v.Packet = d.str()
	v.Code = d.byte()
	v.HasCode = d.byte() == 1
	v.Detail = d.str()
	return
}

func (d *decoder) end() error {
	if d.bad || len(d.buf) != 0 {
		return errRecord
	}
	return nil
}

func (t *Transition) encode() []byte {
	e := encoder{buf: make([]byte, 0, 192)}
	if t.Skipped > 0 {
		e.byte(skippedVersion)
		e.uint(t.Skipped)
	} else {
		e.byte(recordVersion)
	}
	e.time(t.Time)
	e.str(t.EventID)
	e.str(t.Owner)
	e.origin(t.Origin)
	e.str(t.Holder.Node)
	e.uint(t.Holder.Boot)
	e.cause(t.Reason, t.Evidence)
	return e.buf
}

// decode fills what encode wrote; realm, session, number and kind
// come from the key.
func (t *Transition) decode(value []byte) error {
	d := decoder{buf: value}
	switch v := d.byte(); v {
	case recordVersion:
	case skippedVersion:
		t.Skipped = d.uint()
	default:
		return fmt.Errorf("%w: transition of version %d", errRecord, v)
	}
	t.Time = d.time()
	t.EventID = d.str()
	t.Owner = d.str()
	t.Origin = d.origin()
	t.Holder.Node = d.str()
	t.Holder.Boot = d.uint()
	t.Reason, t.Evidence = d.cause()
	return d.end()
}

// decodeEntry reads a transition from its value and the part of its key behind
// the session.
func (t *Transition) decodeEntry(key, value []byte) error {
	number, rest, ok := store.TakeUint64(key)
	if !ok || len(rest) != 1 {
		return fmt.Errorf("%w: a key of history", errRecord)
	}
	t.Number, t.Kind = number, Kind(rest[0])
	return t.decode(value)
}

func (s *State) encode() []byte {
	e := encoder{buf: make([]byte, 0, 192)}
	e.byte(recordVersion)
	e.uint(s.Number)
	e.byte(byte(s.Kind))
	e.time(s.Since)
	e.str(s.Owner)
	e.origin(s.Origin)
	e.str(s.Holder.Node)
	e.uint(s.Holder.Boot)
	e.str(s.EventID)
	e.cause(s.Reason, s.Evidence)
	return e.buf
}

func (s *State) decode(value []byte) error {
	d := decoder{buf: value}
	if v := d.byte(); v != recordVersion {
		return fmt.Errorf("%w: state of version %d", errRecord, v)
	}
	s.Number = d.uint()
	s.Kind = Kind(d.byte())
	s.Since = d.time()
	s.Owner = d.str()
	s.Origin = d.origin()
	s.Holder.Node = d.str()
	s.Holder.Boot = d.uint()
	s.EventID = d.str()
	s.Reason, s.Evidence = d.cause()
	return d.end()
}

// mark is a timeline entry: which transition was committed there.
type mark struct {
	time    time.Time
	session string
	number  uint64
	kind    Kind
	size    int64 // bytes that the transition takes up, keys included
}

func (m mark) encode() []byte {
	e := encoder{buf: make([]byte, 0, 64)}
	e.byte(recordVersion)
	e.time(m.time)
	e.str(m.session)
	e.uint(m.number)
	e.byte(byte(m.kind))
	e.uint(uint64(m.size))
	return e.buf
}

func (m *mark) decode(value []byte) error {
	d := decoder{buf: value}
	if v := d.byte(); v != recordVersion {
		return fmt.Errorf("%w: timeline entry of version %d", errRecord, v)
	}
	m.time = d.time()
	m.session = d.str()
	m.number = d.uint()
	m.kind = Kind(d.byte())
	m.size = int64(d.uint())
	return d.end()
}
