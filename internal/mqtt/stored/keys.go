package stored

import (
	"bytes"
	"time"

	"rollcall/internal/store"
)

// The key spaces. P is the partition of (realm, session) except in the message
// and queue tables, where it is the publisher's, and in the retained table,
// where it is that of (realm, topic).
//
//	state     P ‖ TableSessionState ‖ realm ‖ session → Session
//	filter    P ‖ TableFilter ‖ realm ‖ session ‖ epoch(8) ‖ filter → options
//	          Deleted by UNSUBSCRIBE, or as garbage.
//	inbound   P ‖ TableInbound ‖ realm ‖ session ‖ epoch(8) ‖ packet id(2) → nothing
//	          Deleted by PUBREL, or as garbage.
//	will      P ‖ TableWill ‖ realm ‖ session → Will
//	due       P ‖ TableDue ‖ time(8) ‖ kind(1) ‖ realm ‖ session → epoch
//	          In the order of time over all realms, so that one seek finds the
//	          next one. Exists exactly while the state or Will says so.
//	message   P ‖ TableMessage ‖ realm ‖ commit index(8) ‖ ordinal(2) → message
//	          Deleted after the last entry that refers to it.
//	queue     P ‖ TableQueue ‖ realm ‖ session ‖ epoch(8) ‖ commit index(8) ‖ ordinal(2)
//	          → entry. Deleted when settled, or as garbage.
//	garbage   P ‖ TableGarbage ‖ commit index(8) ‖ ordinal(2)
//	          → realm, session, epoch and time of an ended session.
//	retained  P ‖ TableRetained ‖ realm ‖ topic → message

// SessionKey names one session state: a name, and the number of the Connected
// that made the state.
type SessionKey struct {
	Realm string
	Name  string
	Epoch uint64
}

func nameKey(dst []byte, p uint8, t store.Table, realm, name string) []byte {
	return store.AppendString(store.AppendKey(dst, p, t, realm), name)
}

func epochKey(dst []byte, p uint8, t store.Table, k SessionKey) []byte {
	return store.AppendUint64(nameKey(dst, p, t, k.Realm, k.Name), k.Epoch)
}

func filterKey(dst []byte, p uint8, k SessionKey, filter string) []byte {
	return append(epochKey(dst, p, store.TableFilter, k), filter...)
}

func inboundKey(dst []byte, p uint8, k SessionKey, id uint16) []byte {
	return append(epochKey(dst, p, store.TableInbound, k), byte(id>>8), byte(id))
}

func dueKey(dst []byte, p uint8, at time.Time, kind DueKind, realm, name string) []byte {
	dst = store.AppendUint64(append(dst, p, byte(store.TableDue)), uint64(at.UnixNano()))
	return store.AppendString(store.AppendString(append(dst, byte(kind)), realm), name)
}

func queueKey(dst []byte, k SessionKey, r Ref) []byte {
	return appendSequence(epochKey(dst, r.Partition, store.TableQueue, k), r.sequence())
}

func messageKey(dst []byte, p uint8, realm string, at sequence) []byte {
	return appendSequence(store.AppendKey(dst, p, store.TableMessage, realm), at)
}

func garbagePrefix(p uint8) []byte { return []byte{p, byte(store.TableGarbage)} }

// sequence is where a sequenced record stands among all of them: no two
// batches have the same index.
type sequence struct {
	index   uint64
	ordinal uint16
}

func (s sequence) before(o sequence) bool {
	return s.index < o.index || s.index == o.index && s.ordinal < o.ordinal
}

func appendSequence(dst []byte, s sequence) []byte {
	var suffix [store.SequencedSuffix]byte
	store.PutSequence(suffix[:], s.index, s.ordinal)
	return append(dst, suffix[:]...)
}

// takeName is store.TakeString with one allocation where nothing is escaped.
func takeName(key []byte) (name string, rest []byte, ok bool) {
	i := bytes.IndexByte(key, 0)
	if i < 0 || i+1 == len(key) {
		return "", nil, false
	}
	if key[i+1] == 1 {
		return string(key[:i]), key[i+2:], true
	}
	return store.TakeString(key)
}

// tableBounds are the bounds of table t in partition p.
func tableBounds(p uint8, t store.Table) (lower, upper []byte) {
	return []byte{p, byte(t)}, []byte{p, byte(t) + 1}
}
