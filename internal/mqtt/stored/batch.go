package stored

import (
	"encoding/binary"
	"errors"
	"fmt"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
)

// Bounds of what is committed together. A publication that does not fit is
// committed in parts.
const (
	groupBytes    = 1 << 20  // from here on, the next publication begins another
	partBytes     = 14 << 20 // from here on, the next target begins another
	partTargets   = 60_000   // sequenced puts of one commit
	maxStored     = 12 << 20 // bytes of a message record
	keepScratch   = 64 << 10 // bytes of buffers that are kept
	entryOverhead = 64       // about what an entry takes besides the names in it
)

// ErrTooLarge: the message is larger than a stored message can be, 12 MiB.
var ErrTooLarge = errors.New("stored: the message is too large to be stored")

// Inbound is the packet identifier of a QoS 2 message that a stored session has
// sent, [MQTT-4.3.3-10].
type Inbound struct {
	Session  string
	Epoch    uint64
	PacketID uint16
}

// Publication is a message to be stored.
type Publication struct {
	Realm   string
	Message *session.Message
	Inbound *Inbound // stored with the message if not nil; of a session of the batch's partition
	Targets []Target // may be none
}

// Batch gathers publications of publishers of one partition, to be committed
// together. It is for one goroutine, and empty and ready to use again after
// Submit.
type Batch struct {
	st        *Store
	partition uint8
	group     *group // nil while empty
	publish   packet.Publish
	expires   int64 // of the publication that is being added; 0: never
	key       []byte
	value     []byte
	message   []byte
}

// Receipt says where the entries of a publication are.
type Receipt struct {
	first Ref // of target 0
	more  []part
}

// part is where the targets from start on are, if not after the first.
type part struct {
	start int
	ref   Ref
}

// Target returns the Ref of the entry of the publication's i-th target.
func (r Receipt) Target(i int) Ref {
	ref := r.first
	for j := len(r.more) - 1; j >= 0; j-- {
		if i >= r.more[j].start {
			i -= r.more[j].start
			ref = r.more[j].ref
			break
		}
	}
	ref.Ordinal += uint16(i)
	return ref
}

// group is what one commit of a Batch holds.
type group struct {
	st        *Store
	batch     *store.Batch
	sequenced int
	waiting   []waiting
}

// waiting is one publication of a group, or one part of one.
type waiting struct {
	ref     Ref // of the first target, without indexes
	targets int
	shared  bool
	refused error   // why nothing of it is in the batch
	parts   *parted // nil if it is whole
	done    func(Receipt, error)
}

// parted is a publication in several parts.
type parted struct {
	receipt Receipt
	started int // targets of the parts that were reported
	err     error
}

// Begin returns an empty batch for what the partition's sessions publish.
func (st *Store) Begin(partition uint8) *Batch {
	return &Batch{st: st, partition: partition}
}

// Add adds a publication. It reads p, and what p refers to, before it returns.
// Done, which may be nil, is called once, after Submit, with what became of
// it: store.ErrFull if there is no room, ErrTooLarge, an *packet.Error if the
// message breaks a rule, or another error of package store. The calls come in
// commit order, from the engine's goroutine; done must be quick and must not
// block. Only where the engine could not tell an outcome at once the call comes
// later and from elsewhere.
//
// A publication with more than 60,000 targets, or more than 14 MiB of them, is
// committed in several parts, each with a message record of its own; a crash
// between them leaves some, with the publisher's Inbound in the last one.
func (b *Batch) Add(p *Publication, done func(Receipt, error)) {
	b.message = b.message[:0]
	b.expires = expiresAt(p.Message)
	if len(p.Targets) > 0 {
		b.publish = p.Message.Publish
		var err error
		if b.message, err = appendPublication(b.message, p.Message, &b.publish); err != nil {
			b.refuse(err, done)
			return
		}
	}
	switch {
	case len(b.message) > maxStored:
		b.refuse(ErrTooLarge, done)
		return
	case p.Inbound != nil && b.st.Partition(p.Realm, p.Inbound.Session) != b.partition:
		b.refuse(fmt.Errorf("%w: the publisher is of another partition", store.ErrInvalid), done)
		return
	}
	g := b.begin(len(b.message) + len(p.Targets)*entryOverhead)
	w := waiting{done: done, shared: len(p.Targets) > 1}
	w.ref.Partition = b.partition
	if w.shared {
		b.putMessage(p.Realm)
		w.ref.MessageOrdinal = uint16(g.sequenced - 1)
	}
	w.ref.Ordinal = uint16(g.sequenced)
	for i := range p.Targets {
		if g.sequenced >= partTargets || g.batch.Size() > partBytes {
			g, w = b.nextPart(g, w, p.Realm)
		}
		b.putEntry(p.Realm, &p.Targets[i], w.shared, w.ref.MessageOrdinal)
		w.targets++
	}
	if in := p.Inbound; in != nil {
		b.key = inboundKey(b.key[:0], b.partition, SessionKey{p.Realm, in.Session, in.Epoch}, in.PacketID)
		g.batch.Put(b.key, nil)
	}
	g.waiting = append(g.waiting, w)
	b.trim()
}

// Submit hands over what was added. It does not wait. Nothing is submitted if
// nothing was added.
func (b *Batch) Submit() {
	if g := b.group; g != nil {
		b.group = nil
		b.st.submitGroup(g)
	}
}

// begin returns the group that the next publication, of about size bytes, goes
// into.
func (b *Batch) begin(size int) *group {
	if g := b.group; g != nil && (g.batch.Size()+size > groupBytes || g.sequenced > partTargets/2) {
		b.Submit()
	}
	if b.group == nil {
		b.group = b.st.newGroup()
	}
	return b.group
}

func (b *Batch) refuse(err error, done func(Receipt, error)) {
	g := b.begin(0)
	g.waiting = append(g.waiting, waiting{refused: err, done: done})
	b.trim()
}

// nextPart ends w's part in g and begins another one.
func (b *Batch) nextPart(g *group, w waiting, realm string) (*group, waiting) {
	if w.parts == nil {
		w.parts = new(parted)
	}
	early := w
	early.done = nil
	g.waiting = append(g.waiting, early)
	b.Submit()
	g = b.begin(0)
	b.putMessage(realm)
	w.ref.MessageOrdinal, w.ref.Ordinal, w.targets = uint16(g.sequenced-1), uint16(g.sequenced), 0
	return g, w
}

// expiresAt is when m expires in nanoseconds, 0 if it does not.
func expiresAt(m *session.Message) int64 {
	if m == nil {
		return 0
	}
	at := m.Expires()
	if at.IsZero() {
		return 0
	}
	return max(1, at.UnixNano())
}

func (b *Batch) putMessage(realm string) {
	b.key = store.AppendKey(b.key[:0], b.partition, store.TableMessage, realm)
	b.group.batch.PutSequenced(b.key, b.message)
	b.group.sequenced++
}

func (b *Batch) putEntry(realm string, t *Target, shared bool, message uint16) {
	b.key = epochKey(b.key[:0], b.partition, store.TableQueue, SessionKey{realm, t.Session, t.Epoch})
	if shared {
		b.value = appendEntry(b.value[:0], t, payloadHere, len(b.message), b.expires)
		b.value = binary.AppendUvarint(b.value, uint64(message))
	} else {
		b.value = append(appendEntry(b.value[:0], t, payloadInline, len(b.message), b.expires), b.message...)
	}
	b.group.batch.PutSequenced(b.key, b.value)
	b.group.sequenced++
}

// trim gives up buffers that one large message has made large.
func (b *Batch) trim() {
	b.publish = packet.Publish{}
	if cap(b.message) > keepScratch {
		b.message = nil
	}
	if cap(b.value) > keepScratch {
		b.value = nil
	}
	if cap(b.key) > keepScratch {
		b.key = nil
	}
}

func (st *Store) newGroup() *group {
	g, _ := st.groups.Get().(*group)
	if g == nil {
		g = &group{st: st}
	}
	g.batch = store.NewBatch(store.Normal)
	return g
}

func (st *Store) submitGroup(g *group) {
	st.commit(g.batch, g.settled)
}

// settled reports a group's outcome to everybody who waits for it.
func (g *group) settled(r store.Result) {
	st := g.st
	published, entries := 0, 0
	for i := range g.waiting {
		w := &g.waiting[i]
		err := r.Err
		if w.refused != nil {
			err = w.refused
		}
		receipt := Receipt{first: w.ref}
		if err == nil {
			receipt.first.Index = r.Index
			published++
			entries += w.targets
			if w.shared {
				receipt.first.Message = r.Index
				st.refs.publish(receipt.first.message(), w.targets)
			}
		}
		if w.parts != nil {
			receipt, err = w.parts.reported(receipt.first, w.targets, err)
		}
		if w.done != nil {
			w.done(receipt, err)
		}
	}
	st.metrics.published.Add(float64(published))
	st.metrics.stored.Add(float64(entries))
	st.metrics.outcome(r.Err)
	clear(g.waiting)
	*g = group{st: st, waiting: g.waiting[:0]}
	st.groups.Put(g)
}

// reported takes in the outcome of the next part and returns that of all so
// far. Parts report in order.
func (p *parted) reported(ref Ref, targets int, err error) (Receipt, error) {
	if p.started == 0 {
		p.receipt.first = ref
	} else {
		p.receipt.more = append(p.receipt.more, part{p.started, ref})
	}
	p.started += targets
	if p.err == nil {
		p.err = err
	}
	return p.receipt, p.err
}
