package stored

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
)

// RetainedLimits bound the retained messages of all realms together.
type RetainedLimits struct {
	Messages     int   // default 1,000,000
	Bytes        int64 // of topics and payloads; default 1 GiB
	MessageBytes int   // topic and payload of one; default and at most 12 MiB less 64 KiB
}

// maxRetained leaves room for what a stored message has beside its payload.
const maxRetained = maxStored - 64<<10

func (l RetainedLimits) withDefaults() RetainedLimits {
	if l.Messages == 0 {
		l.Messages = 1_000_000
	}
	if l.Bytes == 0 {
		l.Bytes = 1 << 30
	}
	if l.MessageBytes == 0 {
		l.MessageBytes = maxRetained
	}
	return l
}

func (l RetainedLimits) validate() error {
	if l.Messages < 0 || l.Bytes < 0 || l.MessageBytes < 0 || l.MessageBytes > maxRetained {
		return fmt.Errorf("stored: the limits of retained messages %+v are negative or above %d bytes a message", l, maxRetained)
	}
	return nil
}

// ErrRetainQuota: there are as many retained messages, or bytes of them, as
// there may be.
var ErrRetainQuota = errors.New("stored: the quota of retained messages is used up")

// keptPayload is the size up to which payloads stay in memory once they are
// durable.
const keptPayload = 256

// retained are the retained messages of all realms, section 3.3.1.3. The index
// of topics is in memory, and most payloads are not.
type retained struct {
	st     *Store
	limits RetainedLimits

	walkers chan struct{} // see walkersMax

	mu      sync.RWMutex
	realms  map[string]*topicNode
	count   int   // of visible messages
	bytes   int64 // of theirs
	expires expiryHeap
}

// retainedTopic is one topic with what is retained for it. It is guarded by
// retained.mu.
type retainedTopic struct {
	node    *topicNode
	realm   string
	topic   string
	durable version
	flying  *retainChange // being committed
	waiting *retainChange // what is to be committed next
	heap    int           // place in expires, plus 1; 0: none
}

// version is what is retained for a topic at a time; the zero version is
// nothing.
type version struct {
	record  []byte // the message as it is stored; nil: nothing, or only on disk
	size    int    // bytes of topic and payload; 0: nothing
	expires int64  // Unix nanoseconds; 0: never
	index   uint64 // commit index once durable
}

// retainChange is a version on its way to the disk.
type retainChange struct {
	version
	dones []func(error)
}

// visible is the newest version.
func (t *retainedTopic) visible() version {
	switch {
	case t.waiting != nil:
		return t.waiting.version
	case t.flying != nil:
		return t.flying.version
	}
	return t.durable
}

// Retain makes m the retained message of its topic, or with an empty payload
// removes the one there is [MQTT-3.3.1-6]. It keeps nothing of m. MatchRetained
// sees the change at once. Done, which may be nil, is called once when it is
// durable, or a later message of the topic is; if that fails, with the error,
// and what was durable is retained again. While one message of a topic is being
// committed, only the newest of those that follow waits. ErrTooLarge,
// ErrRetainQuota, and an *packet.Error for a message that breaks a rule, are
// returned at once; then nothing changes and done is not called. It does not
// block.
func (st *Store) Retain(realm string, m *session.Message, done func(error)) error {
	r := st.retained
	topic := string(m.Topic)
	var v version
	if len(m.Payload) > 0 {
		v = versionOf(m, topic)
		if v.size > r.limits.MessageBytes {
			return ErrTooLarge
		}
		var err error
		if v.record, err = appendMessage(nil, m); err != nil {
			return err
		}
		if len(v.record) > maxStored {
			return ErrTooLarge
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.topic(realm, topic)
	old := t.visible()
	if v.size > 0 && (old.size == 0 && r.count >= r.limits.Messages || r.bytes+int64(v.size-old.size) > r.limits.Bytes) {
		r.prune(t)
		st.metrics.refused.Inc()
		return ErrRetainQuota
	}
	r.set(t, v, done)
	return nil
}

func versionOf(m *session.Message, topic string) version {
	v := version{size: len(topic) + len(m.Payload)}
	if m.MessageExpiryInterval.Set {
		v.expires = m.Received.Add(time.Duration(m.MessageExpiryInterval.Value) * time.Second).UnixNano()
	}
	return v
}

// set makes v the visible version of t. The caller holds mu.
func (r *retained) set(t *retainedTopic, v version, done func(error)) {
	old := t.visible()
	c := &retainChange{version: v}
	if t.waiting != nil { // it is superseded, and done when the newer one is
		c.dones = t.waiting.dones
	}
	if done != nil {
		c.dones = append(c.dones, done)
	}
	if t.flying == nil {
		t.flying = c
		r.submit(t)
	} else {
		t.waiting = c
	}
	r.changed(t, old)
}

// submit commits t.flying. The caller holds mu.
func (r *retained) submit(t *retainedTopic) {
	key := nameKey(nil, r.st.Partition(t.realm, t.topic), store.TableRetained, t.realm, t.topic)
	b := store.NewBatch(store.Reserve)
	if record := t.flying.record; record != nil {
		b = store.NewBatch(store.Normal)
		b.Put(key, record)
	} else {
		b.Delete(key)
	}
	r.st.commit(b, func(res store.Result) { r.settled(t, res) })
}

// settled takes in the outcome of t.flying.
func (r *retained) settled(t *retainedTopic, res store.Result) {
	r.st.metrics.outcome(res.Err)
	r.mu.Lock()
	old := t.visible()
	c := t.flying
	if res.Err == nil {
		t.durable = c.version
		t.durable.index = res.Index
		if c.size-len(t.topic) > keptPayload {
			t.durable.record = nil
		}
	}
	t.flying, t.waiting = t.waiting, nil
	if t.flying != nil {
		r.submit(t)
	}
	r.changed(t, old)
	r.prune(t)
	r.mu.Unlock()
	for _, done := range c.dones {
		done(res.Err)
	}
}

// changed accounts for a change of the visible version. The caller holds mu.
func (r *retained) changed(t *retainedTopic, old version) {
	v := t.visible()
	r.bytes += int64(v.size - old.size)
	switch {
	case old.size == 0 && v.size > 0:
		r.count++
	case old.size > 0 && v.size == 0:
		r.count--
	}
	switch {
	case t.heap > 0 && v.expires == 0:
		heap.Remove(&r.expires, t.heap-1)
	case t.heap > 0:
		heap.Fix(&r.expires, t.heap-1)
	case v.expires != 0:
		heap.Push(&r.expires, t)
	}
}

// How many retained messages expire without giving way to others, and in one
// interval.
const (
	expireStep  = 500
	expireBatch = 10_000
)

// expire removes some of what has expired at now, and reports whether there
// may be more.
func (r *retained) expire(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range expireStep {
		if len(r.expires) == 0 || r.expires[0].visible().expires > now.UnixNano() {
			return false
		}
		r.set(r.expires[0], version{}, nil)
	}
	return true
}

// expireRetained removes what expires, until ctx ends.
func (st *Store) expireRetained(ctx context.Context) {
	for st.wait(ctx, st.interval) {
		for n := 0; n < expireBatch && st.retained.expire(st.clock.Steady()); n += expireStep {
		}
	}
}

// expiryHeap has what expires, the earliest first.
type expiryHeap []*retainedTopic

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].visible().expires < h[j].visible().expires }
func (h expiryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heap, h[j].heap = i+1, j+1
}

// Push implements heap.Interface.
func (h *expiryHeap) Push(x any) {
	t := x.(*retainedTopic)
	*h = append(*h, t)
	t.heap = len(*h)
}

// Pop implements heap.Interface.
func (h *expiryHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.heap = 0
	return t
}
