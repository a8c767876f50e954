package stored

import (
	"encoding/binary"
	"math"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/store"
)

// Subscription is one subscription of a stored session.
type Subscription struct {
	packet.Subscription
	Identifier uint32 // Subscription Identifier; 0 is none
}

// Subscribe stores subscriptions of k, replacing those with the same filters.
// Done may be nil.
func (st *Store) Subscribe(k SessionKey, subs []Subscription, done func(error)) {
	p := st.Partition(k.Realm, k.Name)
	b := store.NewBatch(store.Normal)
	for i := range subs {
		b.Put(filterKey(nil, p, k, subs[i].Filter), subs[i].append(nil))
	}
	st.submit(b, done)
}

// Unsubscribe removes subscriptions of k. Done may be nil.
func (st *Store) Unsubscribe(k SessionKey, filters []string, done func(error)) {
	p := st.Partition(k.Realm, k.Name)
	b := store.NewBatch(store.Reserve)
	for _, f := range filters {
		b.Delete(filterKey(nil, p, k, f))
	}
	st.submit(b, done)
}

// The bits of a subscription's options.
const (
	optionQoS      = 3 << 0
	optionNoLocal  = 1 << 2
	optionAsIs     = 1 << 3
	optionHandling = 3 << 4
)

func (s *Subscription) append(dst []byte) []byte {
	o := byte(s.QoS)&optionQoS | s.RetainHandling<<4&optionHandling
	if s.NoLocal {
		o |= optionNoLocal
	}
	if s.RetainAsPublished {
		o |= optionAsIs
	}
	return binary.AppendUvarint(append(dst, recordVersion, o), uint64(s.Identifier))
}

// decode fills what append wrote; the filter comes from the key.
func (s *Subscription) decode(value []byte) error {
	d, err := decode(value, "subscription")
	if err != nil {
		return err
	}
	o := d.byte()
	s.QoS = packet.QoS(o & optionQoS)
	s.NoLocal = o&optionNoLocal != 0
	s.RetainAsPublished = o&optionAsIs != 0
	s.RetainHandling = o & optionHandling >> 4
	s.Identifier = uint32(d.uintMax(math.MaxUint32))
	return d.end("subscription")
}
