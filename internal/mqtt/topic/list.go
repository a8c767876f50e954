package topic

// list is a small map: a slice that is searched one by one until it is long,
// then with an index beside it. Removing moves the last entry into the gap.
type list[K comparable, V any] struct {
	entries []entry[K, V]
	index   map[K]int // nil until there were more than listMax entries
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// listMax is how many entries are searched one by one.
const listMax = 16

func (l *list[K, V]) find(key K) int {
	if l.index != nil {
		if i, ok := l.index[key]; ok {
			return i
		}
		return -1
	}
	for i := range l.entries {
		if l.entries[i].key == key {
			return i
		}
	}
	return -1
}

func (l *list[K, V]) get(key K) (v V, ok bool) {
	if i := l.find(key); i >= 0 {
		return l.entries[i].value, true
	}
	return v, false
}

// put sets the value of key and returns the one that it replaces.
func (l *list[K, V]) put(key K, v V) (old V, replaced bool) {
	if i := l.find(key); i >= 0 {
		old, l.entries[i].value = l.entries[i].value, v
		return old, true
	}
	l.entries = append(l.entries, entry[K, V]{key, v})
	switch {
	case l.index != nil:
		l.index[key] = len(l.entries) - 1
	case len(l.entries) > listMax:
		l.index = make(map[K]int, 2*listMax)
		for i := range l.entries {
			l.index[l.entries[i].key] = i
		}
	}
	return old, false
}

// remove deletes key and returns its value. A list that has become short
// gives its memory back.
func (l *list[K, V]) remove(key K) (old V, existed bool) {
	i := l.find(key)
	if i < 0 {
		return old, false
	}
	last := len(l.entries) - 1
	old = l.entries[i].value
	if l.index != nil {
		l.index[l.entries[last].key] = i
		delete(l.index, key)
	}
	l.entries[i] = l.entries[last]
	l.entries[last] = entry[K, V]{}
	l.entries = l.entries[:last]
	l.shrink()
	return old, true
}

func (l *list[K, V]) shrink() {
	if l.index != nil && len(l.entries) <= listMax/2 {
		l.index = nil
	}
	if c := cap(l.entries); c > listMax && len(l.entries) <= c/4 {
		l.entries = append(make([]entry[K, V], 0, c/2), l.entries...)
	}
}
