package stored

import (
	"cmp"
	"context"
	"slices"
	"time"

	"rollcall/internal/mqtt/session"
)

// RetainedInfo is what is known of a retained message without reading it.
type RetainedInfo struct {
	Topic   string
	Bytes   int       // of topic and payload
	Expires time.Time // zero: never
}

// ListRetained returns the retained messages of a realm whose topics match a
// filter, which is legal and of no shared subscription, and come after a topic
// in the order of bytes: the first limit of them, and whether there are more. It
// looks at all that match, at the cost of about a microsecond each, and stops
// when ctx ends.
func (st *Store) ListRetained(ctx context.Context, realm, filter, after string, limit int) (found []RetainedInfo, more bool, err error) {
	w := st.retained.newWalk(realm, filter)
	defer w.close()
	first := func() {
		slices.SortFunc(found, func(a, b RetainedInfo) int { return cmp.Compare(a.Topic, b.Topic) })
		found = slices.CompactFunc(found, func(a, b RetainedInfo) bool { return a.Topic == b.Topic }) // it went and came while we looked
		found = found[:min(len(found), limit+1)]
	}
	now := st.clock.Steady().UnixNano()
	var page [walkTopics]*retainedTopic
	for topics := w.next(page[:0]); len(topics) > 0; topics = w.next(page[:0]) {
		if err := ctx.Err(); err != nil {
			return nil, false, context.Cause(ctx)
		}
		for _, t := range topics {
			if t.topic <= after {
				continue
			}
			st.retained.mu.RLock()
			v := t.visible()
			st.retained.mu.RUnlock()
			if v.size == 0 || v.expires != 0 && v.expires <= now {
				continue
			}
			info := RetainedInfo{Topic: t.topic, Bytes: v.size}
			if v.expires != 0 {
				info.Expires = time.Unix(0, v.expires).UTC()
			}
			found = append(found, info)
		}
		if len(found) > 4*limit+walkTopics {
			first()
		}
	}
	first()
	if len(found) > limit {
		return found[:limit], true, nil
	}
	return found, false, nil
}

// RetainedMessage returns what is retained for a topic, or nil if nothing is. It
// may read the store.
func (st *Store) RetainedMessage(realm, topic string) (*session.Message, error) {
	r := st.retained
	r.mu.RLock()
	n := r.find(realm, topic)
	var t *retainedTopic
	if n != nil {
		t = n.topic
	}
	r.mu.RUnlock()
	if t == nil {
		return nil, nil
	}
	return st.retainedMessage(t)
}
