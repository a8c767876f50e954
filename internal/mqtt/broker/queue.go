package broker

import (
	"errors"
	"fmt"
	"time"

	"rollcall/internal/mqtt/packet"
	"rollcall/internal/mqtt/stored"
)

// FullQueue says what becomes of a message for a stored session whose queue is
// full. What has expired does not fill a queue.
type FullQueue uint8

// The policies. All but EndSession count what they drop, as queue_full and by
// session, and acknowledge the message to its publisher.
const (
	EndSession FullQueue = iota // the session ends, with its subscriptions (SessionOverflow)
	DropOldest                  // room is made: the oldest go that were not sent
	DropNewest                  // the message does not come
)

// charge is what a message counts for in a queue.
type charge struct {
	size    int
	expires int64 // Unix nanoseconds; 0: never
}

// entryOverhead is what a message counts for beside its content.
const entryOverhead = 64

// victimsMax is how many of the oldest messages are remembered at once, to be
// dropped for newer ones: one look at the queue serves as many.
const victimsMax = 64

// Why a message is not stored for a session.
var (
	errOverflow = errors.New("broker: the session's queue is full")
	errDropped  = errors.New("broker: the message is dropped because the session's queue is full")
	errDead     = errors.New("broker: the session has ended")
)

// limit is how many messages a queue has room for.
func (bx *box) limit() int { return min(bx.b.cfg.QueueMessages, idsMax) }

// full reports whether there is no room for a message. The caller holds the
// lock.
func (bx *box) full(q charge, now time.Time) bool {
	limit, most := bx.limit(), int64(bx.b.cfg.QueueBytes)
	messages, bytes := bx.messages, bx.bytes
	if messages < limit && bytes+int64(q.size) <= most {
		return false
	}
	gone, goneBytes := bx.expiring.expired(now)
	messages -= gone
	bytes -= goneBytes
	return messages >= limit || messages > 0 && bytes+int64(q.size) > most
}

// crowded reports that so much has expired that it must be deleted before more
// is stored. The caller holds the lock.
func (bx *box) crowded(now time.Time) bool {
	if bx.messages < min(2*bx.limit(), idsMax) && bx.bytes < 2*int64(bx.b.cfg.QueueBytes) {
		return false
	}
	gone, _ := bx.expiring.expired(now)
	return gone > int(bx.b.cfg.MaxInflight) // fewer may be those that were sent
}

// prepared reports whether reserve knows all that it needs for a message. If not
// the loader has to load the queue, or look at it, before.
func (bx *box) prepared(q charge, now time.Time) bool {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	return bx.loaded && !bx.needsLook(q, now)
}

func (bx *box) needsLook(q charge, now time.Time) bool {
	if bx.dead {
		return false
	}
	return bx.crowded(now) || bx.b.opts.FullQueue == DropOldest && len(bx.victims) == 0 && !bx.fruitless && bx.full(q, now)
}

// prepare does what prepared asks for. It reads the store; only the loader calls
// it. The surveyor may be nil; whoever prepares many sessions has one.
func (bx *box) prepare(q charge, now time.Time, sv *stored.Surveyor) error {
	if err := bx.load(sv); err != nil {
		return err
	}
	bx.mu.Lock()
	needed := bx.needsLook(q, now)
	bx.mu.Unlock()
	if !needed {
		return nil
	}
	return bx.look(now)
}

// reserve takes a packet identifier for a message that is to be stored for the
// session, which has been prepared for it.
func (bx *box) reserve(q charge, now time.Time) (id uint16, err error) {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if bx.dead {
		return 0, errDead
	}
	for bx.full(q, now) || bx.messages >= idsMax {
		if bx.b.opts.FullQueue == EndSession {
			return 0, errOverflow
		}
		if bx.b.opts.FullQueue == DropNewest || !bx.dropOldest() {
			bx.noteDropped()
			return 0, errDropped
		}
	}
	bx.messages++
	bx.queued.Store(int32(bx.messages))
	bx.bytes += int64(q.size)
	bx.expiring.add(q.expires, q.size, now)
	return bx.ids.take(), nil
}

// unreserve gives back what reserve took.
func (bx *box) unreserve(id uint16, q charge) {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	bx.release(id, q)
}

func (bx *box) release(id uint16, q charge) {
	bx.ids.drop(id)
	bx.messages--
	bx.queued.Store(int32(bx.messages))
	bx.bytes -= int64(q.size)
	bx.expiring.remove(q.expires, q.size)
	bx.fruitless = false
}

func (bx *box) noteDropped() {
	bx.dropped++
	bx.b.metrics.drop("queue_full")
}

// dropOldest drops the oldest message that was not sent, if one is known. The
// caller holds the lock.
func (bx *box) dropOldest() bool {
	if len(bx.victims) == 0 {
		return false
	}
	w := &bx.victims[0]
	bx.giveUp(w)
	bx.victims = bx.victims[1:]
	bx.noteDropped()
	return true
}

// giveUp settles an entry that the connection has not been given. The caller
// holds the lock.
func (bx *box) giveUp(w *stored.Waiting) {
	bx.b.store.Settle(bx.key, w.Ref)
	bx.release(w.PacketID, charge{w.Size, w.Expires})
}

// look reads the queue, deletes what has expired and remembers the oldest
// messages that may be dropped. Only the loader calls it.
func (bx *box) look(now time.Time) error {
	defer bx.b.store.Reading()()
	bx.mu.Lock()
	expired, _ := bx.expiring.expired(now)
	known := bx.sentKnown || bx.conn != nil && !bx.feeding // what may have been sent before is sent again
	bx.mu.Unlock()
	var gone, oldest []stored.Waiting
	n := 0
	err := bx.b.store.Survey(bx.key, func(w stored.Waiting) bool {
		n++
		switch {
		case w.Released:
		case w.Expires != 0 && w.Expires <= now.UnixNano():
			gone = append(gone, w)
		case !known && w.QoS == packet.QoS2 && n <= int(bx.b.cfg.MaxInflight): // it may have been sent before a crash
		case len(oldest) < victimsMax+int(bx.b.cfg.MaxInflight): // some may have been sent
			oldest = append(oldest, w)
		}
		return len(oldest) < victimsMax+int(bx.b.cfg.MaxInflight) || len(gone) < expired
	})
	if err != nil {
		return fmt.Errorf("look at the queue of session %s: %w", bx.name, err)
	}
	bx.mu.Lock()
	defer bx.mu.Unlock()
	bx.victims = nil
	for i := range gone {
		if bx.untouched(&gone[i]) {
			bx.giveUp(&gone[i])
			bx.b.metrics.drop("expired")
		}
	}
	if bx.b.opts.FullQueue != DropOldest {
		return nil
	}
	for i := range oldest {
		if len(bx.victims) < victimsMax && bx.untouched(&oldest[i]) {
			bx.victims = append(bx.victims, oldest[i])
		}
	}
	bx.fruitless = len(bx.victims) == 0
	return nil
}

// untouched reports whether an entry that was read waits still, was never given
// to a connection that may have sent it, and is not about to be. The caller holds
// the lock, and has the store read since before the entry was.
func (bx *box) untouched(w *stored.Waiting) bool {
	if after(bx.last, w.Ref.Cursor()) || bx.b.store.Settled(w.Ref) {
		return false
	}
	_, given := bx.out[w.PacketID]
	_, sent := bx.sent[w.PacketID]
	return !given && !sent
}

// load finds out how much is in the queue. It reads the store, as it is now or
// as the surveyor sees it: nothing is added to a queue that is not loaded. Only
// the loader calls it.
func (bx *box) load(sv *stored.Surveyor) (err error) {
	if bx.isLoaded() {
		return nil
	}
	if sv == nil {
		sv = bx.b.store.Surveyor()
		defer func() { err = errors.Join(err, sv.Close()) }()
	}
	now := bx.b.clock.Steady()
	var all []stored.Waiting
	if err := sv.Survey(bx.key, func(w stored.Waiting) { all = append(all, w) }); err != nil {
		return fmt.Errorf("read the queue of session %s: %w", bx.name, err)
	}
	inbound, err := sv.Inbound(bx.key)
	if err != nil {
		return fmt.Errorf("read the identifiers of session %s: %w", bx.name, err)
	}
	bx.mu.Lock()
	defer bx.mu.Unlock()
	if bx.loaded { // findEmpty came first
		return nil
	}
	for i := range all {
		w := &all[i]
		bx.messages++
		bx.bytes += int64(w.Size)
		bx.expiring.add(w.Expires, w.Size, now)
		if w.PacketID != 0 {
			bx.ids.add(w.PacketID)
		}
	}
	bx.queued.Store(int32(bx.messages))
	for _, id := range inbound {
		bx.receive(id, true)
	}
	bx.loaded = true
	return nil
}

// isLoaded reports whether the queue's size and identifiers are known.
func (bx *box) isLoaded() bool {
	bx.mu.Lock()
	defer bx.mu.Unlock()
	return bx.loaded
}
