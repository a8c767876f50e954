package topic

import (
	"strings"
	"sync"
)

// Tree holds subscriptions and finds those that match a topic name. A
// subscription is a value V under a filter and a key K, which names whoever
// holds it; there is at most one per filter and key. Filters must be legal and
// without a share name: a broker makes that part of K.
//
// All methods may be called concurrently. Match shares the lock with other
// matches; the others exclude it for a time proportional to the number of
// levels, RemoveAll to that times the number of the key's subscriptions. The
// zero Tree is not usable; see [NewTree].
type Tree[K comparable, V any] struct {
	mu    sync.RWMutex
	root  node[K, V]
	byKey map[K]*list[string, *node[K, V]] // each key's filters and where they end
	count int
	bytes int64 // see Weight
}

// Weight is about how many bytes of memory a subscription to a filter takes where
// no other shares its levels: a filter of many short levels takes much more than
// its length.
func Weight(filter string) int {
	return 256 + 2*len(filter) + 96*(strings.Count(filter, "/")+1)
}

// NewTree returns an empty tree.
func NewTree[K comparable, V any]() *Tree[K, V] {
	return &Tree[K, V]{byKey: make(map[K]*list[string, *node[K, V]])}
}

// Subscribe adds the subscription v of key to filter. If there was one it is
// replaced, and returned with true [MQTT-3.8.4-3].
func (t *Tree[K, V]) Subscribe(filter string, key K, v V) (old V, replaced bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &t.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		n = n.grow(level)
	}
	if n.subs == nil {
		n.subs = new(list[K, V])
	}
	if old, replaced = n.subs.put(key, v); replaced {
		return old, true
	}
	t.count++
	t.bytes += int64(Weight(filter))
	own := t.byKey[key]
	if own == nil {
		own = new(list[string, *node[K, V]])
		t.byKey[key] = own
	}
	own.put(filter, n)
	return old, false
}

// Unsubscribe removes the subscription of key to filter and returns it, or
// false if there is none.
func (t *Tree[K, V]) Unsubscribe(filter string, key K) (old V, existed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.byKey[key]
	if own == nil {
		return old, false
	}
	n, ok := own.remove(filter)
	if !ok {
		return old, false
	}
	if len(own.entries) == 0 {
		delete(t.byKey, key)
	}
	return t.drop(n, filter, key), true
}

// RemoveAll removes all subscriptions of key and returns how many there were.
func (t *Tree[K, V]) RemoveAll(key K) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.byKey[key]
	if own == nil {
		return 0
	}
	delete(t.byKey, key)
	for i := range own.entries {
		t.drop(own.entries[i].value, own.entries[i].key, key)
	}
	return len(own.entries)
}

// drop removes key from n, where filter ends, and n from the tree if nothing
// needs it any more.
func (t *Tree[K, V]) drop(n *node[K, V], filter string, key K) V {
	old, _ := n.subs.remove(key)
	t.count--
	t.bytes -= int64(Weight(filter))
	if len(n.subs.entries) == 0 {
		n.subs = nil
	}
	for n.parent != nil && n.unused() {
		parent := n.parent
		parent.cut(n)
		n = parent
	}
	return old
}

// Get returns the subscription of key to filter.
func (t *Tree[K, V]) Get(filter string, key K) (v V, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	own := t.byKey[key]
	if own == nil {
		return v, false
	}
	n, ok := own.get(filter)
	if !ok {
		return v, false
	}
	return n.subs.get(key)
}

// Each calls f for every subscription of key, in no particular order, until f
// returns false. F must not call the tree.
func (t *Tree[K, V]) Each(key K, f func(filter string, v V) bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	own := t.byKey[key]
	if own == nil {
		return
	}
	for i := range own.entries {
		v, ok := own.entries[i].value.subs.get(key)
		if ok && !f(own.entries[i].key, v) {
			return
		}
	}
}

// Len returns the number of subscriptions.
func (t *Tree[K, V]) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.count
}

// Bytes returns the sum of the subscriptions' weights.
func (t *Tree[K, V]) Bytes() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.bytes
}

// Match appends to dst every subscription whose filter matches name, in no
// particular order, and returns it. A key with several matching filters is
// there once for each. It allocates only if dst is too small.
func (t *Tree[K, V]) Match(name []byte, dst []V) []V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(name) > 0 && name[0] == '$' { // [MQTT-4.7.2-1]
		level, rest, more := cut(name)
		if c := t.root.child(level); c != nil {
			dst = c.match(rest, more, dst)
		}
		return dst
	}
	return t.root.match(name, true, dst)
}
