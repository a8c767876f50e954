package stored

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"rollcall/internal/mqtt/session"
	"rollcall/internal/store"
)

// MatchRetained calls f for the retained messages of a realm whose topics match
// filter, which is legal and of no shared subscription, until f returns false.
// What has expired is left out; what is retained meanwhile may be there or not. It
// reads the store, unless all that matches is in memory, and holds no lock and a
// bounded amount of memory while f runs, which may take its time.
func (st *Store) MatchRetained(realm, filter string, f func(*session.Message) bool) error {
	w := st.retained.newWalk(realm, filter)
	defer w.close()
	var page [walkTopics]*retainedTopic
	for {
		topics := w.next(page[:0])
		if len(topics) == 0 {
			return nil
		}
		for i, t := range topics {
			m, err := st.retainedMessage(t)
			if err != nil {
				return fmt.Errorf("read a retained message: %w", err)
			}
			topics[i] = nil
			if m != nil && !f(m) {
				return nil
			}
		}
	}
}

// retainedMessage returns what is retained for a topic now, or nil if that is
// nothing that can be read.
func (st *Store) retainedMessage(t *retainedTopic) (*session.Message, error) {
	st.retained.mu.RLock()
	v := t.visible()
	st.retained.mu.RUnlock()
	if v.size == 0 || v.expires != 0 && v.expires <= st.clock.Steady().UnixNano() {
		return nil, nil
	}
	record := v.record
	if record == nil {
		// A view of its own, because the walk may take its time, and an open view
		// holds back the reclaiming of space.
		var err error
		record, _, err = store.Get(st.engine, nameKey(nil, st.Partition(t.realm, t.topic), store.TableRetained, t.realm, t.topic))
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
	}
	m, err := decodeMessage(record)
	if err != nil {
		st.setAside.Add(nameKey(nil, st.Partition(t.realm, t.topic), store.TableRetained, t.realm, t.topic), err)
		return nil, nil
	}
	return m, nil
}

// load reads the index of topics, and what is small.
func (r *retained) load() error {
	snap := r.st.engine.Snapshot()
	defer snap.Close()
	for p := range r.st.partitions {
		if err := r.loadPartition(snap, uint8(p)); err != nil {
			return fmt.Errorf("load the retained messages of partition %d: %w", p, err)
		}
	}
	return nil
}

func (r *retained) loadPartition(snap store.Snapshot, p uint8) (err error) {
	it := snap.Iter(tableBounds(p, store.TableRetained))
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	realm := ""
	for it.Next() {
		name, rest, ok := takeRealm(it.Key()[2:], realm)
		if !ok {
			r.st.setAside.Add(it.Key(), errRecord)
			continue
		}
		realm = name
		topic, rest, ok := takeName(rest)
		if !ok || len(rest) != 0 {
			r.st.setAside.Add(it.Key(), errRecord)
			continue
		}
		m, err := decodeMessage(it.Value())
		if err != nil {
			r.st.setAside.Add(it.Key(), err)
			continue
		}
		v := versionOf(m, topic)
		v.index = uint64(it.Revision())
		if len(m.Payload) <= keptPayload {
			v.record = bytes.Clone(it.Value())
		}
		t := r.topic(realm, topic)
		t.durable = v
		r.changed(t, version{})
	}
	return nil
}

// topic returns the topic's entry, made if need be. The caller holds mu.
func (r *retained) topic(realm, topic string) *retainedTopic {
	n := r.realms[realm]
	if n == nil {
		n = new(topicNode)
		r.realms[realm] = n
	}
	for rest, more := topic, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		n = n.grow(level)
	}
	if n.topic == nil {
		n.topic = &retainedTopic{node: n, realm: realm, topic: topic}
	}
	return n.topic
}

// find returns the node where a topic ends, or nil. The caller holds mu.
func (r *retained) find(realm, topic string) *topicNode {
	n := r.realms[realm]
	for rest, more := topic, true; more && n != nil; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		n = n.child(level)
	}
	return n
}

// prune forgets the topic if there is nothing about it. The caller holds mu.
func (r *retained) prune(t *retainedTopic) {
	if t.flying != nil || t.waiting != nil || t.durable.size > 0 || t.node.topic != t {
		return
	}
	n := t.node
	n.topic = nil
	r.pruneNode(t.realm, n)
}
